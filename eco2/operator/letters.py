"""The dead letters by job: several letters of one job are one thing to look at, to drop or to replay."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from eco2.errors import DecodeError
from eco2.job import Job, decode_order

DEATHS: Mapping[str | None, str] = {
    "rejected": "a worker rejected it; its log says why",
    "delivery_limit": "the broker gave it up: it came back too often",
    "expired": "its time in a queue was over",
    "maxlen": "its queue was full",
    None: "nobody says why",
}
"""Why a message died, as the broker names it, for people."""


class Letter(Protocol):
    """A dead letter in our hands. Of its last death: `queue`, `reason`, `when` (Unix seconds), `count`."""

    @property
    def body(self) -> bytes: ...
    @property
    def message_id(self) -> str: ...
    @property
    def queue(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def when(self) -> float | None: ...
    @property
    def count(self) -> int: ...

    async def drop(self) -> None:
        """Returns when the broker has forgotten it. Raises `DeliveryLost`."""


@dataclass(frozen=True, slots=True)
class DeadJob:
    """All letters of one job. `order`: the job as it was ordered, None if nobody can read it (`unreadable`
    says why). `id` of a letter that names no job is one of its own."""

    id: str
    letters: tuple[Letter, ...]
    order: Job | None
    unreadable: str = ""

    @property
    def pipeline(self) -> str:
        """ "" where neither the order nor its queue tells."""
        if self.order is not None:
            return self.order.pipeline
        queue = next((letter.queue for letter in self.letters if letter.queue), "")
        return queue.removeprefix("jobs.").partition(".")[0]

    @property
    def when(self) -> float | None:
        """Its last death, in Unix seconds."""
        return max((letter.when for letter in self.letters if letter.when is not None), default=None)

    @property
    def death(self) -> str:
        """Why its order is here, as far as the broker knows."""
        reason = self.letters[-1].reason
        return DEATHS.get(reason, reason or "")


class _Head(msgspec.Struct):
    id: str


class _Order(msgspec.Struct):
    job: _Head


def by_job(letters: Iterable[Letter]) -> list[DeadJob]:
    """One for each job, in the order of its first letter."""
    groups: dict[str, list[Letter]] = {}
    for letter in letters:
        groups.setdefault(_name(letter), []).append(letter)
    return [_dead(name, tuple(group)) for name, group in groups.items()]


def _dead(name: str, letters: tuple[Letter, ...]) -> DeadJob:
    why = ""
    for letter in letters:
        try:
            return DeadJob(name, letters, decode_order(letter.body))
        except DecodeError as error:
            why = str(error)
    return DeadJob(name, letters, None, why)


def _name(letter: Letter) -> str:
    """The job's id, from the order even where this version cannot read all of it; else from the message."""
    try:
        return msgspec.json.decode(letter.body, type=_Order).job.id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return letter.message_id or "letter-" + hashlib.sha256(letter.body).hexdigest()[:12]
