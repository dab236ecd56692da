"""The journal: every durable fact about every job in one total order, and the views of it.

Guarantees: a confirmed event is in the log; `find` returns a state at least as new as everything that any
process had confirmed, or any client had been shown, before the call. A tail that falls silent is attached
again. If the log was deleted, wiped or cut short, the view forgets it and reads the new one; until then the
journal is not `current`.
"""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

from eco2.errors import BrokerUnavailable, RetryableError, TooLarge
from eco2.event import Event, Header, Marker, Queued, encode_batch, encode_event
from eco2.journal.backlog import Backlog, backlog
from eco2.journal.outbox import Outbox
from eco2.journal.past_jobs import PastJobs
from eco2.journal.presence import Presence
from eco2.journal.snapshots import (
    BUDGET_SECONDS,
    FOLD,
    Saved,
    Snapshot,
    digest,
    messages,
    read_snapshot,
    write_snapshot,
)
from eco2.journal.state import JobState, Recorded
from eco2.journal.view import REPLACED, View
from eco2.log import get_logger
from eco2.ports import (
    FromLast,
    FromOffset,
    FromStart,
    FromTime,
    PubSub,
    Record,
    SnapshotStore,
    Start,
    Stream,
    Tail,
)

log = get_logger(__name__)

DAY = 86_400.0
MAX_EMPTY = 5.0
"""Seconds for which an attached tail may show nothing, although the log holds the own marker."""
POLL_INTERVAL = 0.5
"""Seconds between two looks at a tail that shows nothing."""
WATCH_INTERVAL = 1.0
"""Seconds between two looks at a tail that was filled."""
MAX_SILENCE = 5.0
"""Seconds in which the tail must show what was confirmed, or after a loss of its connection where it
stands."""
MAX_IDLE = 10.0
"""Seconds without any record after which a marker is written, so that the tail has something to show. Each
process waits up to half as long more: the marker of the first serves all."""
MAX_EXAMINATION = 5.0
"""Seconds that a second reader gets to find a marker."""
MAX_REATTACH_INTERVAL = 60.0
"""Seconds at the most between two attachments of a tail that stays silent; doubled from `MAX_SILENCE` on."""
SNAPSHOT_INTERVAL = (BUDGET_SECONDS, BUDGET_SECONDS + 15.0)
"""Seconds between two snapshots, at least and at most."""
PASSED_INTERVAL, MAX_PASSED = 5.0, 16
"""Seconds between two offsets that a snapshot names as passed, at the most, and how many."""
SNAPSHOT_TOPIC = f"snapshot.{FOLD}"
"""Of the live message that says that one of a version is being written, or (with the offset of the last
change in it) was."""
WRITING_TIME = 10.0
"""Seconds for which others wait for a snapshot that is being written."""


@dataclass(frozen=True, slots=True)
class Status:
    """Figures of this process's journal. Seconds: `lag` of its view; `unconfirmed`: of the oldest event that
    it wrote; `behind`: of the oldest confirmed one that its tail has not shown. `replaced`: logs replaced.
    `snapshot_age`: of the newest snapshot that it knows of, or else of its view; None without a store."""

    jobs: int
    lag: float
    unconfirmed: float
    skipped: int
    paused: bool
    backlog: Mapping[str, Backlog]
    behind: float = 0.0
    replaced: int = 0
    snapshot_age: float | None = None


class Journal:
    """`view`: empty; the journal fills it, and has its clocks.

    `presence`: the other processes, if there may be any; then the clock is its own, which theirs bound.
    """

    def __init__(
        self,
        stream: Stream,
        view: View,
        presence: Presence | None = None,
        snapshots: SnapshotStore | None = None,
    ) -> None:
        self.view = view
        self.presence = presence
        self._stream = stream
        self.writers = view.writers
        self._outbox = Outbox(stream, view.writers, view.monotonic)
        self._tail: Tail | None = None
        self._snapshots = snapshots
        self._snapshot_at = view.monotonic()
        self._last: Record | None = None
        self._shown_at = 0.0
        self._restored: Saved | None = None
        self._fits = False
        """True once the tail has shown the last record of the snapshot that the view was restored from."""
        self._replaced = asyncio.Event()
        self._idle = MAX_IDLE * (1 + random.random() / 2)
        self._past_jobs = PastJobs(stream, view)
        self._next_barrier: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self._barrier_observers: list[Callable[[float], None]] = []
        self.filled = asyncio.Event()

    def status(self) -> Status:
        """Returns figures for dashboards; reads every unended job. The lag is 0.0 until it is filled."""
        view, filled, now = self.view, self.filled.is_set(), self.view.clock()
        return Status(
            jobs=len(view) + len(view.ended),
            lag=view.lag(now) if filled else 0.0,
            unconfirmed=self._outbox.oldest,
            behind=self._outbox.behind,
            replaced=view.resets,
            skipped=view.skipped,
            paused=view.paused is not None,
            backlog=backlog(view, view.age) if filled else {},
            snapshot_age=None if self._snapshots is None else self.view.monotonic() - self._snapshot_at,
        )

    @property
    def current(self) -> bool:
        """True while the view is filled and follows the log: what is confirmed comes back by the tail."""
        return self.filled.is_set() and self.follows

    @property
    def follows(self) -> bool:
        """False while the tail does not show what was confirmed, or is not attached to the same log."""
        return self._tail is None or (self._tail.attached and not self.is_stalled)

    @property
    def is_stalled(self) -> bool:
        """True while the tail does not show what was confirmed."""
        silence = asyncio.get_running_loop().time() - self._shown_at
        return silence > MAX_SILENCE and self._outbox.behind > MAX_SILENCE and self.view.offset >= 0

    def observe_barriers(self, observer: Callable[[float], None]) -> None:
        """Calls `observer(seconds)` for each barrier that was passed. It must neither block nor raise."""
        self._barrier_observers.append(observer)

    async def run(self, stop: asyncio.Event) -> None:
        """Tails the journal, fills the view (then `filled` is set), sends what is put; flushes on `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outbox.run(stop))
            reading = group.create_task(self._follow())
            await stop.wait()
            reading.cancel()  # which withdraws its markers: a dead broker must not hold up the flush
        if self._tail is not None:
            await self._tail.cancel()

    async def ready(self, stop: asyncio.Event) -> bool:
        """Waits until the view is filled; False if `stop` was set before."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.filled, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not stop.is_set()

    async def append(self, header: Header, *events: Event) -> None:
        """Appends events at once, beside what is put. Raises like `ports.Appender.append`."""
        body = encode_batch([encode_event(event) for event in events], header)
        await self._stream.append(body, f"{header.writer}-{header.number}")

    def put(self, *events: Event) -> asyncio.Future[None]:
        """Queues the events in order; the future is done once they are confirmed (see `Outbox.put`)."""
        return self._outbox.put(*events)

    async def announce(self, queued: Queued) -> JobState:
        """Appends the `queued` of a new job and returns its state once the own tail shows it.

        The state is `superseded` if another job holds the key. Cancelling withdraws it if it was not sent.
        """
        await self._outbox.put(queued)
        return await self.view.change(queued.job, None)

    async def barrier(self) -> None:
        """Returns once the view holds everything that was in the log when this was called.

        Raises `BrokerUnavailable` if the log is replaced meanwhile.
        """
        if self._next_barrier is None:
            self._next_barrier = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(self._next_barrier)

    async def find(self, job_id: str) -> JobState | None:
        """Returns the job's state, from the view or the journal; None only if there is no such job.

        Raises `JobForgotten` if the journal no longer reaches back that far, `BrokerUnavailable`.
        """
        return await self.recent(job_id) or await self._past_jobs.find(job_id)

    async def recent(self, job_id: str) -> JobState | None:
        """Returns the job's state, or None if the view does not have it, however far that lags."""
        if (state := self.view.get(job_id)) is None:
            await self.barrier()
            state = self.view.get(job_id)
        return state

    async def value_of(self, record: Recorded) -> object:
        """Returns the value of a recorded call or step, from memory or the journal; None if it is gone.

        Raises `BrokerUnavailable`.
        """
        return record.value if record.kept else await self._past_jobs.value_at(record.at)

    async def write_snapshots(self, live: PubSub, stop: asyncio.Event) -> None:
        """Writes a snapshot every minute, if something changed and no other process was faster."""
        if self._snapshots is None or not await self.ready(stop):
            await stop.wait()
            return
        loop, written, resets = asyncio.get_running_loop(), -1, self.view.resets
        passed: deque[tuple[float, int]] = deque(maxlen=MAX_PASSED)
        due = loop.time() + random.uniform(*SNAPSHOT_INTERVAL)

        def note(_: str, body: bytes) -> None:
            nonlocal due, written
            pause = WRITING_TIME
            with suppress(ValueError):
                written, self._snapshot_at = int(body), self.view.monotonic()
                pause = random.uniform(*SNAPSHOT_INTERVAL)
            due = max(due, loop.time() + pause)

        subscription = live.subscribe(SNAPSHOT_TOPIC, note)
        while not stop.is_set():
            if resets != self.view.resets:
                resets, written, due = self.view.resets, -2, loop.time()  # the day's sum is in no other place
                passed.clear()
            passed.append((self.view.clock(), self.view.offset))
            with suppress(TimeoutError):
                async with asyncio.timeout(PASSED_INTERVAL * random.uniform(0.9, 1.0)):
                    await stop.wait()
            due_now = loop.time() >= due and self.current and resets == self.view.resets
            if due_now and self.view.changed != written and self._last is not None:
                changed = b"%d" % self.view.changed
                snapshot = self.view.save(list(passed), self._last.body)
                due = loop.time() + random.uniform(*SNAPSHOT_INTERVAL)
                live.broadcast(SNAPSHOT_TOPIC, b"")
                try:
                    await write_snapshot(self._snapshots, messages(snapshot))
                    note(SNAPSHOT_TOPIC, changed)
                    live.broadcast(SNAPSHOT_TOPIC, changed)
                except (RetryableError, TooLarge) as error:
                    log.warning("no snapshot this time", why=str(error))
        await subscription.cancel()

    async def _follow(self) -> None:
        """Reads the log for as long as it is the same one, then forgets it and reads the next."""
        while True:
            self._replaced.clear()
            self._outbox.forget()
            self._shown_at = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as group:
                parts = (self._fill(), self._serve_barriers(), self._watch())
                reading = [group.create_task(part) for part in parts]
                await self._replaced.wait()
                for task in reading:
                    task.cancel()
            if self._tail is not None:
                await self._tail.cancel()
                self._tail = None
            log.error(
                "the journal was replaced: its jobs are lost, and the new one is read", jobs=len(self.view)
            )
            self.filled.clear()
            self.view.reset()

    async def _fill(self) -> None:
        """Begins the tail once the log holds a marker.

        RabbitMQ turns a time that no record has reached yet into the log's end at some later moment. Records
        that are written meanwhile would never be shown.
        """
        if self.presence is not None:
            await self.presence.hello_answered.wait()  # else a clock ahead would begin after the log's end
        self.view.begin()
        found = None
        if self._snapshots is not None and self.view.resets == 0:
            found = await read_snapshot(self._snapshots, self.view.clock)
        marker = self._marker()  # after the snapshot, whose last record must come before it
        seen = self.view.expect(marker.id)
        await self.put(marker)
        if found and self.view.is_enough(found.saved):
            if await self._resume(found, seen):
                return
            seen = self.view.expect(marker.id)
        starts: tuple[Start, ...] = (FromTime(self.view.since), FromTime(self.view.since - DAY), FromStart())
        for start in cycle(starts):
            self._tail = self._stream.tail(start, self._show, self._replaced.set)
            if await self._shown(self._tail, seen):
                break
            log.warning("the journal shows nothing: this machine's clock may be far ahead of the broker's")
            if isinstance(start, FromStart):
                await self._tail.reattach()  # no clock matters there: it is the connection that is silent
            await self._tail.cancel()
        self.filled.set()
        log.info("journal filled", jobs=len(self.view), offset=self.view.offset)

    async def _resume(self, snapshot: Snapshot, seen: asyncio.Event) -> bool:
        """Fills the view from a snapshot; False if it does not fit the journal."""
        self.view.restore(snapshot)
        self._restored, self._fits = snapshot.saved, False
        start = FromOffset(snapshot.saved.begin(self.view.clock()))
        self._tail = self._stream.tail(start, self._show, self._replaced.set)
        if await self._shown(self._tail, seen) and self._fits:
            age = self.view.clock() - snapshot.saved.passed[-1][0]
            self._snapshot_at = self.view.monotonic() - max(0.0, age)
            self.filled.set()
            log.info("journal filled from a snapshot", jobs=len(self.view), offset=self.view.offset)
            return True
        log.warning("the snapshot does not fit the journal, which is read without it")
        await self._tail.cancel()
        self.view.clear()
        return False

    async def _shown(self, tail: Tail, seen: asyncio.Event) -> bool:
        """Returns True once the tail has shown the own marker; False if the tail begins after it."""
        empty = 0.0
        while empty < MAX_EMPTY:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL):
                    await seen.wait()
            if seen.is_set():
                return True
            empty = empty + POLL_INTERVAL if tail.attached and self.view.offset < 0 else 0.0
        return False

    def _show(self, record: Record) -> None:
        self._shown_at = asyncio.get_running_loop().time()
        self._last = record
        if self._restored and record.offset == self._restored.offset:
            self._fits = digest(record.body) == self._restored.last
        self.view.apply(record)

    async def _watch(self) -> None:
        """Attaches a silent tail again, and detects a log that ends before the tail's position."""
        loop = asyncio.get_running_loop()
        attached, reattach_after = loop.time(), MAX_SILENCE
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            if self._tail is None or self._tail.attached or self.view.offset < 0:
                attached = loop.time()  # or it is begun by `_fill` again and again
            if not self.is_stalled and loop.time() - attached <= MAX_SILENCE:
                reattach_after = MAX_SILENCE
                if loop.time() - self._shown_at > self._idle and not (
                    self._outbox.oldest or self._outbox.behind
                ):
                    self.put(self._marker())  # else a silent tail looks like a quiet log
            elif await self._ends_earlier():
                self._replaced.set()
            elif self._tail is not None and not self.follows:
                log.warning("attaching the tail again: it shows nothing", offset=self.view.offset)
                await self._tail.reattach()
                await asyncio.sleep(reattach_after)
                reattach_after = min(MAX_REATTACH_INTERVAL, 2 * reattach_after)

    async def _ends_earlier(self) -> bool:
        """True if the log ends before the tail's position, so that it must be another one.

        A second reader waits at the log's end while a marker is written, and compares the marker's offset.
        """
        marker, reached, ends_earlier = self._marker(), self.view.offset, False
        try:
            async with asyncio.timeout(MAX_EXAMINATION), self._stream.read(FromLast()) as records:
                await self.put(marker)
                async for record in records:
                    if marker.id.encode() in record.body:
                        ends_earlier = record.offset <= reached
                        break
        except (TimeoutError, RetryableError) as error:
            log.info("the end of the journal is not known yet", why=str(error) or "no answer")
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # which a reader swallows whose connection goes while it closes
        return ends_earlier

    async def _serve_barriers(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            reached, self._next_barrier = self._next_barrier, None
            try:
                began = time.monotonic()
                marker = self._marker()
                seen = self.view.expect(marker.id)
                await self.put(marker)
                await seen.wait()
                for observer in self._barrier_observers:
                    observer(time.monotonic() - began)
                if reached is not None:
                    reached.set_result(None)
            finally:
                if reached is not None and not reached.done():
                    reached.set_exception(BrokerUnavailable(REPLACED))
                    reached.exception()  # perhaps nothing waits for it any more

    def _marker(self) -> Marker:
        return Marker(id=uuid.uuid4().hex, ts=self.view.clock())
