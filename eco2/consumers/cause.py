"""Describes an exception for operators: its class, its message and the line that raised it, in one line.

Guarantees: at most `MAX_CAUSE` characters, no line breaks and no control characters, whatever the message
holds. It goes into the journal beside the result (`Done.cause`), and never to clients.
"""

import traceback

from eco2.errors import PermanentFailure
from eco2.frames import own_frames, place, printable

MAX_CAUSE = 500


def bug(what: str, error: BaseException) -> PermanentFailure:
    """Returns the error that ends a job because of a bug; its message is for operators."""
    return PermanentFailure(f"{what}: {cause_of(error)}", "INTERNAL")


def cause_of(error: BaseException) -> str:
    """Returns for example `ValueError: boom 42 (shop/prices.py:17 in price)`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({place(own_frames(frames)[-1])})" if frames else ""
    text = printable(f"{type(error).__name__}: {error}".removesuffix(": "))
    room = MAX_CAUSE - len(where)
    return f"{text if len(text) <= room else text[: room - 1] + '…'}{where}"
