"""A job: the request of a client as a frozen value, and as the work order in a queue."""

import os
import uuid
from typing import Literal, get_args

import msgspec

from eco2.errors import DecodeError

ORDER_VERSION = 1

Priority = Literal["interactive", "batch"]
"""A person waits for an interactive job. A batch job takes what the interactive ones leave."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

JSON = dict[str, object]
"""A decoded JSON object."""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One accepted request.

    `id`: UUIDv7, so that ids sort by time. `input`: what the pipeline's input model dumps as JSON.
    `accepted`: Unix seconds. `max_wait`: seconds from then until its first call may be granted, or it ends as
    `EXPIRED`. `timeout`: seconds of its work, see `eco2.journal.state.JobState.deadline`, or it ends as
    `TIMEOUT`. `deadline`: for release 0.1, which knows nothing else: the Unix time of both together.
    `max_usd`: USD that its calls may cost, or it ends as `BUDGET_EXCEEDED`; None: any sum.
    `owner`: who may read it ("" where there is no authentication). `key`: the client's idempotency key.
    `digest`: SHA-256 (hex) of what the client sent; the same key with another digest is another request.
    `model`: the model that the client pinned, or None. Release 0.1 wrote no `priority`.
    """

    id: str
    pipeline: str
    input: JSON
    accepted: float
    digest: str
    deadline: float = 0.0
    max_wait: float = 0.0
    timeout: float = 0.0
    max_usd: float | None = None
    owner: str = ""
    key: str | None = None
    model: str | None = None
    priority: Priority = "interactive"

    def __post_init__(self) -> None:
        if self.timeout == 0.0:  # of release 0.1, which wrote only a deadline
            both = max(0.0, self.deadline - self.accepted)
            msgspec.structs.force_setattr(self, "max_wait", both)
            msgspec.structs.force_setattr(self, "timeout", both)
        elif self.deadline == 0.0:
            msgspec.structs.force_setattr(self, "deadline", self.accepted + self.max_wait + self.timeout)


class Order(msgspec.Struct, frozen=True):
    """The work order on the wire: a version and the job."""

    job: Job
    v: int = ORDER_VERSION


_ORDERS = msgspec.json.Decoder(Order, float_hook=float)
"""With Python's `float`: msgspec's own takes 16 µs for some, and an input may have thousands of these."""


class _Version(msgspec.Struct):
    v: int


class OrderHead(msgspec.Struct, frozen=True):
    """The job's id and the time of its acceptance (Unix seconds), as far as the order names one."""

    id: str
    accepted: float = 0.0


class _Headed(msgspec.Struct):
    job: OrderHead


def encode_order(job: Job) -> bytes:
    """The work order of `job` as JSON."""
    return msgspec.json.encode(Order(job))


def decode_order(body: bytes) -> Job:
    """The job of a work order. Raises `DecodeError` for anything that this version cannot read."""
    try:
        version = msgspec.json.decode(body, type=_Version).v
        if version != ORDER_VERSION:
            raise DecodeError(f"order of version {version}; this program reads {ORDER_VERSION}: upgrade it")
        return _ORDERS.decode(body).job
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"undecodable order: {error}") from error


def order_head(body: bytes) -> OrderHead | None:
    """Decodes what orders of every version have in common; None where there is not even an id."""
    try:
        return msgspec.json.decode(body, type=_Headed).job
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def new_id(now: float) -> str:
    """A fresh UUIDv7 (RFC 9562) for a job accepted at `now` (Unix seconds)."""
    random = int.from_bytes(os.urandom(10), "big")
    value = int(now * 1000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def id_time(job_id: str) -> float | None:
    """When the job was accepted (Unix seconds, to the millisecond), or None if this is no UUIDv7."""
    try:
        value = uuid.UUID(job_id)
    except ValueError:
        return None
    return (value.int >> 80) / 1000 if value.version == 7 and str(value) == job_id else None
