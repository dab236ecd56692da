"""Describes an exception for operators: its class, its message and the line that raised it, in one line.

Guarantees: at most `MAX_CAUSE` characters, no line breaks and no control characters, whatever the message
holds. It goes into the journal beside the result (`Done.cause`), and never to clients.
"""

import sysconfig
import traceback
from pathlib import Path

from eco2.errors import PermanentFailure

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
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    place = _place(error)
    text = _printable(f"{type(error).__name__}: {error}".removesuffix(": "))
    room = MAX_CAUSE - len(place)
    return f"{text if len(text) <= room else text[: room - 1] + '…'}{place}"


def _place(error: BaseException) -> str:
    """The innermost line of the pipeline's own code; of a library's where none of it is in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    frame = next((each for each in reversed(frames) if _own(each.filename)), frames[-1])
    file = "/".join(Path(frame.filename).parts[-2:])
    return _printable(f" ({file[-100:]}:{frame.lineno} in {frame.name[:100]})")


def _own(file: str) -> bool:
    return not file.startswith((*_LIBRARIES, _ENGINE, "<")) or file.startswith(_BUNDLED)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[: 2 * MAX_CAUSE])
