"""The waste scan: the only part of Eco² that knows waste. `eco2.stages:scan` is its pipeline."""

from pathlib import Path

from eco2.stages.pipeline import SIZE, scan

__all__ = ["DEMO_PHOTO", "SIZE", "scan"]

DEMO_PHOTO = Path(__file__).parent / "data" / "demo.jpg"
"""A cup of coffee, free of rights (see NOTICE): what `eco2 demo` scans."""
