"""Describes an exception for operators: its class, its message and the line that raised it, in one line.

Guarantees: at most `MAX_CAUSE` characters, no line breaks and no control characters, whatever the message
holds. It goes into the journal beside the result (`Done.cause`), and never to clients.
"""

import sysconfig
import traceback
from pathlib import Path

from eco2.errors import PermanentFailure, first_error

MAX_CAUSE = 500
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_ENGINE = str(Path(__file__).parents[1])
_BUNDLED = str(Path(_ENGINE, "stages"))
"""The pipeline that comes with the package is no part of the engine."""


def bug(what: str, error: BaseException) -> PermanentFailure:
    """Returns the error that ends a job because of a bug; its message is for operators."""
    return PermanentFailure(f"{what}: {cause_of(error)}", "INTERNAL")


def cause_of(error: BaseException) -> str:
    """Returns for example `ValueError: boom 42 (shop/prices.py:17 in price)`."""
    error = first_error(error)
    place = _place(error)
    text = printable(f"{type(error).__name__}: {error}".removesuffix(": "))
    room = MAX_CAUSE - len(place)
    return f"{text if len(text) <= room else text[: room - 1] + '…'}{place}"


def _place(error: BaseException) -> str:
    """Returns the innermost line of the pipeline's own code, or of a library's where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    foreign = (*_LIBRARIES, _ENGINE, "<")
    own = [f for f in frames if f.filename.startswith(_BUNDLED) or not f.filename.startswith(foreign)]
    frame = (own or frames)[-1]
    file = "/".join(Path(frame.filename).parts[-2:])
    return printable(f" ({file[-100:]}:{frame.lineno} in {frame.name[:100]})")


def printable(text: str) -> str:
    """Returns the text on one line; its length is bounded before each character is looked at."""
    return "".join(each if each.isprintable() else " " for each in text[: 2 * MAX_CAUSE])
