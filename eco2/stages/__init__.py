"""The waste scan: the only part of Eco² that knows waste. `eco2.stages:scan` is its pipeline."""

from eco2.stages.pipeline import scan

__all__ = ["scan"]
