"""Estimates the tokens of a call before it is sent; learns from what providers counted. No I/O."""
