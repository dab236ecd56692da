"""The view: the recent jobs, folded from the journal's tail. Gateways and workers answer from it.

It holds what was accepted in the last `keep` seconds of event time, which is also the life of idempotency
keys: of several jobs with one (owner, key) the first in log order wins, and every view decides alike. Of
older jobs it keeps one offset, so that a look-up reads on from there instead of searching.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from eco2.errors import BrokerUnavailable, DecodeError, JobForgotten
from eco2.event import (
    Event,
    IntakeEvent,
    Large,
    Marker,
    Paused,
    Queued,
    Resumed,
    Spent,
    StageChanged,
    decode_events,
)
from eco2.journal.large import LargeCalls
from eco2.journal.spending import Spending
from eco2.journal.state import EventId, JobState, apply, superseded, without_payloads
from eco2.log import get_logger
from eco2.ports import Clock, Record

INDEX_SIZE = 200_000
"""Jobs whose offset is remembered: about a day at 140 a minute, 30 MB at the most."""

RECENT = 60.0
"""Seconds for which the lag of the newest event is that of the view."""

PLAUSIBLE = (-2.0, 10.0)
"""Seconds from the writing of a live `queued` to its coming here that need no wrong clock to explain them."""

INTAKE_SEEN = 100
"""Pauses and resumptions that are known again when they come twice."""

REPLACED = "the journal at the broker was replaced, and the jobs in it are lost; send the request again"

log = get_logger(__name__)


class View:
    """`keep`: seconds. `since`: Unix seconds from which on it holds every job; its tail starts there.

    `shows`: whether jobs that have ended are shown to anybody; else they are kept without their texts.
    `replies`: bytes of recorded calls and steps that it keeps; of more, and in gateways (0), it keeps the
    place in the journal.
    `earliest`: the clock to judge the age of what was accepted before the start. `steady`: one without jumps.

    Not thread-safe; every call is made on the event loop.
    """

    def __init__(
        self,
        keep: float,
        clock: Clock,
        *,
        shows: bool = True,
        replies: int = 0,
        earliest: Clock | None = None,
        steady: Clock | None = None,
    ) -> None:
        self.since = clock() - keep
        self._keep = keep
        self._clock = clock
        self._earliest = earliest or clock
        self._steady = steady or clock
        self._shows = shows
        self._replies_left = replies
        self._jobs: dict[str, JobState] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._left: dict[str, int] = {}
        self._arrived: dict[str, float] = {}
        """When a job came here whose `queued` names a time that cannot be: its gateway's clock is wrong."""
        self._born: dict[str, float] = {}
        """When a job was accepted, on the steady clock: of those not ended that came while we listened."""
        self._live = False
        self._changes: dict[str, asyncio.Event] = {}
        self._markers: dict[str, asyncio.Event] = {}
        self._observers: list[Callable[[JobState], None]] = []
        self._intake_observers: list[Callable[[], None]] = []
        self._reset_observers: list[Callable[[], None]] = []
        self._intake: deque[IntakeEvent] = deque(maxlen=INTAKE_SEEN)
        self._resumed = False
        self._unknown_logged = False
        self.offset = -1
        self.resets = 0
        self.spending = Spending()
        self.large = LargeCalls()
        self.skipped = 0
        self._written = self._came = 0.0
        self.paused: Paused | None = None
        """Why the intake is halted at present, as far as the view reaches back: the sweep renews it."""

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> JobState | None:
        """The job's state, or None if it is unknown or older than the view."""
        return self._jobs.get(job_id)

    def __iter__(self) -> Iterator[JobState]:
        """The jobs, oldest first. The view must not change meanwhile: no await between two of them."""
        return iter(self._jobs.values())

    def may_call(self, job_id: str, run: str) -> bool:
        """False only if the run is known to be void: one that is not seen here yet may be the current one."""
        state = self._jobs.get(job_id)
        return state is None or not (state.ended or run in state.previous_runs)

    def _accepted(self, state: JobState) -> float:
        """When the job was accepted, by this process's clock (Unix seconds)."""
        return self._arrived.get(state.job, state.accepted)

    def age(self, state: JobState) -> float:
        """Seconds since the job was accepted. No wall clock matters where this process saw that happen; else
        the earliest does, since an end that comes late harms nobody and one that comes early does."""
        born = self._born.get(state.job)
        return self._earliest() - self._accepted(state) if born is None else self._steady() - born

    def remaining(self, state: JobState) -> float:
        """Seconds until the job's deadline; negative behind it."""
        return state.deadline - state.accepted - self.age(state)

    def left(self, job_id: str) -> int | None:
        """The offset of the `queued` of a job that has left the view, if it is still remembered."""
        return self._left.get(job_id)

    def begin(self) -> None:
        """The clock is as right as it gets: the view reaches back from now, before anything was applied."""
        self.since = self._clock() - self._keep

    def by_key(self, owner: str, key: str, at: float) -> JobState | None:
        """The job that holds the idempotency key at the time `at` (Unix seconds)."""
        job_id = self._keys.get((owner, key))
        holder = self._jobs.get(job_id) if job_id else None
        return holder if holder is not None and holder.accepted >= at - self._keep else None

    def lag(self, now: float) -> float:
        """Seconds from the writing of the newest event, by its writer's clock, to its coming here; 0.0 once
        that is long ago: it would say nothing of the present."""
        return max(0.0, self._came - self._written) if now - self._came < RECENT else 0.0

    def observe(self, observer: Callable[[JobState], None]) -> None:
        """Calls `observer(state)` after every change of any job. It must neither block nor raise."""
        self._observers.append(observer)

    def observe_intake(self, observer: Callable[[], None]) -> None:
        """Calls `observer()` after every change of `paused`. It must neither block nor raise."""
        self._intake_observers.append(observer)

    async def change(self, job_id: str, seen: JobState | None) -> JobState:
        """Waits until the job's state is another than `seen` (the object itself) and returns it.

        Raises `JobForgotten` if the job leaves the view first, `BrokerUnavailable` if the journal is gone.
        """
        resets = self.resets
        while True:
            state = self._jobs.get(job_id)
            if state is not None and state is not seen:
                return state
            if job_id in self._left:
                raise JobForgotten(f"job {job_id} has left the view; its time is over")
            if resets != self.resets or (state is None and seen is not None):
                raise BrokerUnavailable(REPLACED)
            await self._changes.setdefault(job_id, asyncio.Event()).wait()

    def observe_resets(self, observer: Callable[[], None]) -> None:
        """Calls `observer()` after each `reset`. It must neither block nor raise."""
        self._reset_observers.append(observer)

    def reset(self) -> None:
        """The journal is another one: forgets what the old one said, and ends every wait for more of it.

        What was paid today stays known: it was paid, whatever became of the record.
        """
        self.resets += 1
        self.since, self.offset = self._clock() - self._keep, -1
        self._written = self._came = 0.0
        self._replies_left += sum(map(_kept, self._jobs.values()))
        for known in (self._jobs, self._keys, self._left, self._markers, self._arrived, self._born):
            known.clear()
        self._intake.clear()
        self._live, self._resumed, self.paused = False, False, None
        self.spending.restart()
        changes, self._changes = self._changes, {}
        for change in changes.values():
            change.set()
        for notify in (*self._intake_observers, *self._reset_observers):
            notify()

    def expect(self, marker_id: str) -> asyncio.Event:
        """An event that is set when the marker has come by."""
        return self._markers.setdefault(marker_id, asyncio.Event())

    def apply(self, record: Record) -> None:
        """Folds one journal message. What this version cannot read is skipped, counted, logged once."""
        self.offset = record.offset
        self.spending.begin(record.offset)
        try:
            events = decode_events(record.body)
        except DecodeError as error:
            self._skip(record.offset, str(error))
            return
        for index, event in enumerate(events):
            if event is None:
                self._skip(record.offset, "unknown kind of event")
            else:
                self._apply(EventId(record.offset, index), event, len(record.body))
                self._written, self._came = event.ts, self._clock()

    def _apply(self, at: EventId, event: Event, size: int) -> None:
        match event:
            case Marker() | Paused() | Resumed() | Spent() | Large():
                self._note(event)
                return
            case StageChanged():
                self.spending.paid(at.offset, event, self._clock())  # a void run has paid, too
            case Queued():
                now = min(event.ts, self._clock())  # a clock ahead must not empty the view
                self._evict(now - self._keep)
        before = self._jobs.get(event.job)
        if before is None and isinstance(event, Queued):
            self._date(event)
        after = apply(before, at, event, keep=size if size <= self._replies_left else None)
        if after is None or after is before:
            return
        if before is None:
            after = self._claim(after, at)
        elif after.superseded_by is not None:
            self._release_key(after)  # it lost to a job that this view has never seen
        if before is not None and before.recorded is not after.recorded:
            self._replies_left += _kept(before) - _kept(after)
        if after.ended:
            self._born.pop(event.job, None)
            after = after if self._shows else without_payloads(after)
        self._jobs[event.job] = after
        self._announce(after)

    def _date(self, event: Queued) -> None:
        """A record from before the start may be old; a live one is at most as old as records can be."""
        age = self._clock() - event.ts
        soonest, latest = PLAUSIBLE
        if age < soonest or (self._live and age > latest):
            self._arrived[event.job] = self._clock()
            age = 0.0
        if self._live:
            self._born[event.job] = self._steady() - max(0.0, age)

    def _note(self, event: Marker | Paused | Resumed | Spent | Large) -> None:
        """What belongs to no job."""
        match event:
            case Marker():
                if marker := self._markers.pop(event.id, None):
                    marker.set()
                    self._live = True  # the first one of ours was written at our start
            case Spent():
                self.spending.spent(event, self._clock())
            case Large():
                self.large.said(event, self._clock())
            case _:
                self._apply_intake(event)

    def _apply_intake(self, event: IntakeEvent) -> None:
        if event in self._intake:
            return  # what was sent twice may come again behind newer events: a pause that is long over
        self._intake.append(event)
        if isinstance(event, Paused) and event.renewed and self._resumed:
            return  # it was resumed while the sweep, which did not know yet, wrote this
        self._resumed = isinstance(event, Resumed)
        self.paused = event if isinstance(event, Paused) else None
        for notify in self._intake_observers:
            notify()

    def _announce(self, state: JobState) -> None:
        self._wake(state.job)
        for observer in self._observers:
            observer(state)

    def _wake(self, job_id: str) -> None:
        if waiting := self._changes.pop(job_id, None):
            waiting.set()

    def _claim(self, state: JobState, at: EventId) -> JobState:
        if state.key is None:
            return state
        holder = self.by_key(state.owner, state.key, state.accepted)
        if holder is not None:
            return superseded(state, holder.job, at.offset)
        self._keys[state.owner, state.key] = state.job
        return state

    def _evict(self, before: float) -> None:
        self.since = max(self.since, before)
        while self._jobs:
            state = next(iter(self._jobs.values()))
            if max(state.accepted, self._accepted(state)) >= before:  # keys go by the log's times
                return
            del self._jobs[state.job]
            self._arrived.pop(state.job, None)
            self._born.pop(state.job, None)
            self._replies_left += _kept(state)
            self._left[state.job] = state.queued_at
            self._wake(state.job)
            if len(self._left) > INDEX_SIZE:
                del self._left[next(iter(self._left))]
            self._release_key(state)

    def _release_key(self, state: JobState) -> None:
        if state.key is not None and self._keys.get((state.owner, state.key)) == state.job:
            del self._keys[state.owner, state.key]

    def _skip(self, offset: int, why: str) -> None:
        self.skipped += 1
        if not self._unknown_logged:
            self._unknown_logged = True
            log.warning("skipped in the journal, and further ones silently", offset=offset, why=why)


def _kept(state: JobState) -> int:
    return sum(record.size for record in state.recorded.values())
