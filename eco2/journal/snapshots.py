"""Snapshots of the view, in a stream of their own. A start takes the newest and reads the journal from there.

Guarantee: a snapshot that is read is whole, and of this version of the fold. It names the record at its
offset by a digest, so that its reader detects a journal that was replaced, or has dropped the record. The
budgets are not in it: the journal of the last minute is read again for them.
"""

import asyncio
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import msgspec

from eco2.errors import RetryableError
from eco2.event import IntakeEvent, Offset, Paused
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.ports import Clock, FromStart, FromTime, SnapshotStore, Start
from eco2.retry import PUBLISH

FOLD = 4
"""Version of the fold and of this form. Raise it with every change of what records mean to the view."""
PART_BYTES = 500_000
"""Size of one message, unless a single job is larger."""
BUDGET_SECONDS = 65.0
"""Seconds of the budgets' records that a start reads again: a minute, and a reserve."""
RECENT = 180.0
"""Seconds in which the newest snapshot is looked for first."""
SEARCH_TIMEOUT = 15.0
"""Seconds for one search."""

log = get_logger(__name__)


class SavedJob(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A job that has not ended. `arrived_at`: when, if the time of its `queued` is impossible."""

    state: JobState
    holds_key: bool = False
    arrived_at: float | None = None


class SavedSpending(msgspec.Struct, frozen=True, gc=False):
    """The sum of a day: see `Spending`."""

    since: float
    day: str
    usd: str
    unpriced: bool


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The view after the record at `offset`, but for its jobs. `last`: digest of that record.

    `passed`: earlier times (Unix s) and offsets, oldest first. `since`: of the view. `numbers`: the last of
    each writer.
    """

    offset: Offset
    last: str
    passed: list[tuple[float, Offset]]
    since: float
    numbers: dict[str, int]
    spending: SavedSpending
    paused: Paused | None
    resumed: bool
    intake: list[IntakeEvent]

    def begin(self, now: float) -> int:
        """Returns where to begin for the budgets' last minute. A wrong clock costs time, or some budget."""
        late_enough = [offset for at, offset in self.passed if at <= now - BUDGET_SECONDS]
        return max(0, min(self.offset, late_enough[-1] if late_enough else self.passed[0][1]))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`ended`: the rows of the index whose keys may count."""

    saved: Saved
    jobs: list[SavedJob]
    ended: bytes


class _Part(msgspec.Struct, frozen=True, tag="part"):
    id: str
    jobs: list[msgspec.Raw] = []
    ended: bytes = b""


class _End(msgspec.Struct, frozen=True, tag="end"):
    id: str
    fold: int
    parts: int
    sha256: str
    saved: msgspec.Raw


class _Probe(msgspec.Struct, frozen=True, tag="probe"):
    """Written by a process that starts, so that it knows where the stream ends."""

    id: str


_message = msgspec.json.Decoder(_Part | _End | _Probe)
_encode = msgspec.json.encode


def digest(body: bytes) -> str:
    return sha256(body).hexdigest()


def messages(snapshot: Snapshot) -> Iterator[bytes]:
    """Returns the messages of a snapshot; each is encoded only when it is its turn."""
    name, count, digests = uuid.uuid4().hex, 0, sha256()
    for part in _parts(name, snapshot):
        count += 1
        digests.update(body := _encode(part))
        yield body
    saved = msgspec.Raw(_encode(snapshot.saved))
    yield _encode(_End(name, FOLD, count, digests.hexdigest(), saved))


def _parts(name: str, snapshot: Snapshot) -> Iterator[_Part]:
    jobs, size = list[msgspec.Raw](), 0
    for job in snapshot.jobs:
        jobs.append(msgspec.Raw(encoded := _encode(job)))
        size += len(encoded)
        if size >= PART_BYTES:
            yield _Part(name, jobs)
            jobs, size = [], 0
    yield _Part(name, jobs)
    for at in range(0, len(snapshot.ended), PART_BYTES):
        yield _Part(name, ended=snapshot.ended[at : at + PART_BYTES])


class Collector:
    """Puts snapshots together. `newest`: the last one that is whole and readable."""

    def __init__(self) -> None:
        self._parts: dict[str, list[bytes]] = {}
        self._newest: tuple[_End, list[bytes]] | None = None

    def take(self, body: bytes) -> str | None:
        """Reads a message; returns the id of a probe. A message or a version that is not known is skipped."""
        try:
            message = _message.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        match message:
            case _Part():
                self._parts.setdefault(message.id, []).append(body)
            case _End():
                parts = self._parts.pop(message.id, [])
                complete = len(parts) == message.parts and digest(b"".join(parts)) == message.sha256
                if complete and message.fold == FOLD:
                    self._newest = message, parts
            case _Probe():
                return message.id
        return None

    def newest(self) -> Snapshot | None:
        """Decodes the newest snapshot."""
        if self._newest is None:
            return None
        end, bodies = self._newest
        parts = [part for part in map(_message.decode, bodies) if isinstance(part, _Part)]
        try:
            jobs = [msgspec.json.decode(job, type=SavedJob) for part in parts for job in part.jobs]
            saved = msgspec.json.decode(end.saved, type=Saved)
        except msgspec.MsgspecError as error:
            log.warning("the newest snapshot cannot be read", why=str(error))
            return None
        return Snapshot(saved, jobs, b"".join(part.ended for part in parts))


async def write_snapshot(store: SnapshotStore, bodies: Iterable[bytes]) -> None:
    """Appends the messages of a snapshot. Raises like `SnapshotStore.append_snapshot`."""
    for body in bodies:
        await PUBLISH.retry(partial(store.append_snapshot, body, uuid.uuid4().hex), SEARCH_TIMEOUT)


async def read_snapshot(store: SnapshotStore, clock: Clock) -> Snapshot | None:
    """Returns the newest snapshot that is whole and readable; None without one, or without an answer."""
    probe = _Probe(uuid.uuid4().hex)
    starts: tuple[Start, ...] = (FromTime(clock() - RECENT), FromStart())
    for start in starts:
        collector = Collector()
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT):
                await write_snapshot(store, [_encode(probe)])
                async with store.read_snapshots(start) as records:
                    async for record in records:
                        if collector.take(record.body) == probe.id:
                            break
        except (TimeoutError, RetryableError) as error:
            log.info("no look at the end of the snapshots", why=str(error) or "no answer")
        if (found := collector.newest()) is not None:
            return found
    return None
