"""Live text, and counts of branches, from a worker to the gateways: unconfirmed, never in the journal.

Each worker sends one message per `DELTA_INTERVAL` with all its pieces, whatever the number of its jobs.
"""

from collections.abc import Sequence

import msgspec

DELTA_TOPIC = "delta"
DELTA_INTERVAL = 0.1
"""Seconds between two messages of one worker."""
BRANCHES_INTERVAL = 0.5
"""Seconds between two messages of one worker that have counts of branches."""
DELTA_VERSION = 1


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of the live text of `stage` in run `run`. `pos`: characters before it; 0 = start over.

    `call`: the name of the call within its stage that writes it, the same in every run; "": the stage itself,
    or its first call.
    """

    job: str
    run: str
    stage: str
    pos: int
    text: str
    call: str = ""


class Branches(msgspec.Struct, frozen=True):
    """The number of branches of `stage` that are `done` in run `run`, of `total` so far."""

    job: str
    run: str
    stage: str
    done: int
    total: int


Live = Delta | Branches


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message; `v` is a field without a default, so that it is always written."""

    v: int
    deltas: list[Delta]
    branches: list[Branches] = []


def encode_deltas(live: Sequence[Live]) -> bytes:
    """The message that carries all of `live`, as JSON."""
    deltas = [each for each in live if isinstance(each, Delta)]
    branches = [each for each in live if isinstance(each, Branches)]
    return msgspec.json.encode(_Message(DELTA_VERSION, deltas, branches))


def decode_deltas(body: bytes) -> list[Live]:
    """The contents of a message; none for what this version cannot read, since live text may be lost."""
    try:
        message = msgspec.json.decode(body, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [*message.deltas, *message.branches] if message.v == DELTA_VERSION else []
