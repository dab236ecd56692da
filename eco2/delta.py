"""Live text on its way from a worker to the gateways: transient, unconfirmed, never in the journal.

Each worker sends one message per `DELTA_INTERVAL` with all its pieces, whatever the number of its jobs.
"""

from collections.abc import Sequence

import msgspec

DELTA_TOPIC = "delta"
DELTA_INTERVAL = 0.1
"""Seconds between two messages of one worker."""
DELTA_VERSION = 1


class Delta(msgspec.Struct, frozen=True):
    """A piece of the live text of `stage` in run `run`. `pos`: characters before it; 0 = start over."""

    job: str
    run: str
    stage: str
    pos: int
    text: str


class _Deltas(msgspec.Struct, frozen=True):
    deltas: list[Delta]
    v: int = DELTA_VERSION


def encode_deltas(deltas: Sequence[Delta]) -> bytes:
    """The message that carries `deltas`, as JSON."""
    return msgspec.json.encode(_Deltas(list(deltas)))


def decode_deltas(body: bytes) -> list[Delta]:
    """The pieces of a message; none for what this version cannot read, since live text may be lost."""
    try:
        message = msgspec.json.decode(body, type=_Deltas)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return message.deltas if message.v == DELTA_VERSION else []
