"""Selects the frames of a stack that belong to a pipeline's own code, and describes them in one line each."""

import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary

MAX_PRINTED = 1_000
"""Characters of a text that are looked at."""
_LIBRARIES = tuple(
    sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_ENGINE = str(Path(__file__).parent) + os.sep
_BUNDLED = f"{_ENGINE}stages{os.sep}"
"""The pipeline that comes with the package is no part of the engine."""


def own_frames(frames: Sequence[FrameSummary]) -> list[FrameSummary]:
    """Returns the frames outside of the libraries and the engine, or all where there are none."""
    foreign = (*_LIBRARIES, _ENGINE, "<")
    own = [f for f in frames if f.filename.startswith(_BUNDLED) or not f.filename.startswith(foreign)]
    return own or list(frames)


def place(frame: FrameSummary) -> str:
    """Returns for example `shop/prices.py:17 in price`."""
    file = "/".join(Path(frame.filename).parts[-2:])
    return printable(f"{file[-100:]}:{frame.lineno} in {frame.name[:100]}")


def printable(text: str) -> str:
    """Returns the text on one line; its length is bounded before each character is looked at."""
    return "".join(each if each.isprintable() else " " for each in text[:MAX_PRINTED])
