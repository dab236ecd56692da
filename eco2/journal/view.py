"""The view: the jobs, folded from the journal's tail. Gateways and workers answer from it.

It holds every job that has not ended, however old, and remembers the others (`ended.py`). Of several jobs
with one (owner, key), accepted within `window` seconds of event time, the first in log order wins, and every
view decides alike.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from eco2.errors import BrokerUnavailable, DecodeError, JobForgotten
from eco2.event import (
    BudgetEvent,
    Header,
    IntakeEvent,
    JobEvent,
    Marker,
    Paused,
    Queued,
    Resumed,
    RetiredEvent,
    StageChanged,
    decode_message,
)
from eco2.journal.ended import EndedJobs
from eco2.journal.snapshots import Saved, SavedJob, Snapshot, digest
from eco2.journal.spending import Spending, midnight
from eco2.journal.state import EventId, JobState, apply, superseded, without_values
from eco2.log import get_logger
from eco2.ports import Clock, Record
from eco2.writers import Writers, boot_time

MAX_RESULT_BYTES = 24_000_000
"""Bytes of ended jobs that a process which shows them keeps; the others are read from the journal."""

MAX_REPLY_BYTES = 256_000_000
"""Bytes of recorded replies that a worker keeps in memory; beyond that it reads them from the journal."""

RECENT = 60.0
"""Seconds for which the lag of the newest event is that of the view."""

PLAUSIBLE_AGE = (-2.0, 10.0)
"""Seconds from the writing of a live `queued` to its arrival here, unless a clock is wrong."""

INTAKE_SEEN = 100
"""Pauses and resumptions that are remembered, to recognise one that comes twice."""

REPLACED = "the journal at the broker was replaced, and the jobs in it are lost; send the request again"

log = get_logger(__name__)


class Budget(Protocol):
    """A reader of the records of one provider's budget."""

    @property
    def name(self) -> str: ...

    def read(self, offset: int, header: Header, event: BudgetEvent, now: float) -> None:
        """Folds one record. It must neither block nor raise."""

    def reset(self) -> None:
        """Forgets the records of a journal that was replaced."""


class View:
    """The jobs. `since`: Unix seconds of acceptance from which on it knows every job.

    `window`: seconds for which a key counts. `life`: seconds that jobs live at the most; the fold begins so
    long ago, or `window`; with `daily` not after the day's beginning, so that it knows the day's costs.
    `results`: bytes of ended jobs that it keeps. `replies`: bytes of recorded calls and steps that it keeps;
    of more, and in gateways (0), it keeps the offset. `earliest`: the clock for the age of jobs accepted
    before the start. `monotonic`: of this process alone, without jumps: for the age of the others, and to
    compare the clocks of `writers`, by which copies are known, too.

    Not thread-safe; every call is made on the event loop.
    """

    def __init__(
        self,
        window: float,
        clock: Clock,
        *,
        life: float = 0.0,
        daily: bool = False,
        results: int = MAX_RESULT_BYTES,
        replies: int = MAX_REPLY_BYTES,
        earliest: Clock | None = None,
        monotonic: Clock = boot_time,
    ) -> None:
        self._window = window
        self._reach = max(window, life)
        self._daily = daily
        self.clock = clock
        self._earliest = earliest or clock
        self.monotonic = monotonic
        self.writers = Writers(uuid.uuid4().hex[:16])
        self._budgets: dict[str, Budget] = {}
        self._replies_left = replies
        self._jobs: dict[str, JobState] = {}
        self.ended = EndedJobs(results)
        self._keys: dict[tuple[str, str], str] = {}
        """Unended jobs by the key that they hold, perhaps for longer than it counts."""
        self._arrived_at: dict[str, float] = {}
        """When a job arrived whose `queued` has an impossible time: its gateway's clock is wrong."""
        self._accepted_monotonic: dict[str, float] = {}
        """When a job was accepted, on the monotonic clock: for unended jobs that arrived since the start."""
        self._started_monotonic: dict[str, float] = {}
        """When a job started, on the monotonic clock: for unended jobs that did so since the start."""
        self._restored = -1
        """The offset of the snapshot that it began with: of earlier records it shows budgets theirs."""
        self._changes: dict[str, asyncio.Future[JobState]] = {}
        self._markers: dict[str, asyncio.Event] = {}
        self._observers: list[Callable[[JobState], None]] = []
        self._intake_observers: list[Callable[[], None]] = []
        self._reset_observers: list[Callable[[], None]] = []
        self._intake: deque[IntakeEvent] = deque(maxlen=INTAKE_SEEN)
        self._live = self._resumed = False
        self.offset = self.changed = -1
        """The offset of the last record of more than a marker and budgets."""
        self.resets = self.skipped = 0
        self.spending = Spending()
        self._written_at = self._received_at = 0.0
        self.paused: Paused | None = None
        """Why the intake is halted at present, as far as the view reaches back: the sweep renews it."""
        self.begin()

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> JobState | None:
        """The job's state, or None if it is unknown, or has ended and is not kept."""
        return self._jobs.get(job_id) or self.ended.get(job_id)

    def __iter__(self) -> Iterator[JobState]:
        """The jobs that have not ended. The view must not change meanwhile: no await between two of them."""
        return iter(self._jobs.values())

    def recent(self) -> list[JobState]:
        """The jobs that have not ended, and those of the window that are kept, oldest first. Slow."""
        since = self.clock() - self._window
        ended = [state for state in self.ended.states() if state.accepted >= since]
        return sorted([*ended, *self], key=lambda state: state.queued_at)

    def may_call(self, job_id: str, run: str) -> bool:
        """False only if the run is known to be void.

        A run that is not seen here yet may be the current one. So may any while records are read for the
        budgets that the jobs have passed: a grant counts although its job has ended since.
        """
        if self.offset <= self._restored:
            return True
        if (state := self._jobs.get(job_id)) is None:
            return self.ended.find(job_id) is None
        return run not in state.previous_runs

    def age(self, state: JobState) -> float:
        """Returns the seconds since the job was accepted.

        No wall clock matters if this process saw that happen. Else the earliest one counts: a job may end
        late, but not early.
        """
        if (accepted_at := self._accepted_monotonic.get(state.job)) is not None:
            return self.monotonic() - accepted_at
        return self._earliest() - self._arrived_at.get(state.job, state.accepted)

    def remaining(self, state: JobState) -> float:
        """Seconds until the job's deadline; negative after it.

        The time since its start is measured as its age, which it cannot exceed.
        """
        age = self.age(state)
        if state.started_at is None:
            return state.deadline - state.accepted - age
        began = self._started_monotonic.get(state.job)
        worked = self._earliest() - state.started_at if began is None else self.monotonic() - began
        return state.deadline - state.started_at - min(worked, age)

    def remaining_wait(self, state: JobState) -> float:
        """Seconds that a job which has not started may still wait for its first grant."""
        return state.max_wait - self.age(state)

    def begin(self) -> None:
        """Chooses the time to fold from: the clock is compared, and no record was applied yet."""
        now = self.clock()
        self.since = now - self._reach
        if self.resets == 0:
            if self._daily:
                self.since = min(self.since, midnight(now))
            self.spending.forget(self.since)

    def by_key(self, owner: str, key: str, at: float) -> str | None:
        """The job that holds the idempotency key at the time `at` (Unix seconds)."""
        if (job_id := self._keys.get((owner, key))) is not None:
            return job_id if self._jobs[job_id].accepted >= at - self._window else None
        ended = self.ended.holder(owner, key)
        return ended.id if ended is not None and ended.accepted >= at - self._window else None

    def lag(self, now: float) -> float:
        """Seconds from the newest event's time, by its writer's clock, to its arrival here.

        0.0 once that is long ago, and so no measure of the present lag.
        """
        return max(0.0, self._received_at - self._written_at) if now - self._received_at < RECENT else 0.0

    def observe(self, observer: Callable[[JobState], None]) -> None:
        """Calls `observer(state)` after every change of any job. It must neither block nor raise."""
        self._observers.append(observer)

    def observe_intake(self, observer: Callable[[], None]) -> None:
        """Calls `observer()` after every change of `paused`. It must neither block nor raise."""
        self._intake_observers.append(observer)

    async def change(self, job_id: str, seen: JobState | None) -> JobState:
        """Waits until the job's state is an object other than `seen`, and returns it.

        Raises `JobForgotten` if it has ended and is not kept, `BrokerUnavailable` if the journal is gone.
        """
        state = self._jobs.get(job_id) or self.ended.get(job_id)
        if state is not None and state is not seen:
            return state
        if self.ended.find(job_id) is not None:
            raise JobForgotten(f"job {job_id} has ended")
        if state is None and seen is not None:
            raise BrokerUnavailable(REPLACED)
        if job_id not in self._changes:
            self._changes[job_id] = asyncio.get_running_loop().create_future()
        state = await asyncio.shield(self._changes[job_id])
        if state.ended:
            return state
        # The records of one moment may have changed it again, up to its end.
        return self._jobs.get(job_id) or self.ended.get(job_id) or state

    def adopt(self, state: JobState) -> None:
        """Takes over an unended job from before `since`, with all of its events that the view has passed."""
        self._jobs.setdefault(state.job, state)

    def observe_resets(self, observer: Callable[[], None]) -> None:
        """Calls `observer()` after each `reset`. It must neither block nor raise."""
        self._reset_observers.append(observer)

    def reset(self) -> None:
        """Forgets the journal that was replaced, and ends every wait for more of it.

        Today's spending stays: it was paid, whatever became of the record.
        """
        self.resets += 1
        self.clear()
        self.spending.restart(self.clock())
        self._markers.clear()
        changes, self._changes = self._changes, {}
        for change in changes.values():
            change.set_exception(BrokerUnavailable(REPLACED))
            change.exception()  # perhaps nothing waits for it any more
        for notify in (*self._intake_observers, *self._reset_observers):
            notify()

    def clear(self) -> None:
        """Forgets all records, for a fold that begins elsewhere."""
        self.begin()
        self.offset = self._restored = self.changed = -1
        self._written_at = self._received_at = 0.0
        self._replies_left += sum(job.kept_bytes for job in self._jobs.values())
        for kept in (
            self._jobs,
            self._keys,
            self._arrived_at,
            self._accepted_monotonic,
            self._started_monotonic,
        ):
            kept.clear()
        self.ended.clear()
        self._intake.clear()
        self._live, self._resumed, self.paused = False, False, None
        self.writers.clear()
        for budget in self._budgets.values():
            budget.reset()

    def save(self, passed: list[tuple[float, int]], last: bytes) -> Snapshot:
        """Returns the view as it is now. `passed`: see `Saved`; `last`: the last record."""
        since = max(self.since, self.clock() - self._window)
        saved = Saved(
            offset=self.offset,
            last=digest(last),
            passed=passed,
            since=since,
            numbers=self.writers.numbers,
            spending=self.spending.save(),
            paused=self.paused,
            resumed=self._resumed,
            intake=list(self._intake),
        )
        holders = set(self._keys.values())
        jobs = [
            SavedJob(without_values(job), job.job in holders, self._arrived_at.get(job.job)) for job in self
        ]
        return Snapshot(saved, jobs, self.ended.save(since))

    def is_enough(self, saved: Saved) -> bool:
        """Returns False for a snapshot that lacks costs of the day which this view needs."""
        return not self._daily or saved.spending.since <= midnight(self.clock())

    def restore(self, snapshot: Snapshot) -> None:
        """Begins with a snapshot; no record was applied yet. Earlier ones may follow, for the budgets."""
        saved = snapshot.saved
        for each in snapshot.jobs:
            state = self._jobs[each.state.job] = each.state
            if each.holds_key and state.key is not None:
                self._keys[state.owner, state.key] = state.job
            if each.arrived_at is not None:
                self._arrived_at[state.job] = each.arrived_at
        self.ended.restore(snapshot.ended)
        self.since, self._restored = saved.since, saved.offset
        self.writers.restore(saved.offset, saved.numbers)
        self.spending.restore(saved.spending)
        self._intake.extend(saved.intake)
        self._resumed, self.paused = saved.resumed, saved.paused

    def expect(self, marker_id: str) -> asyncio.Event:
        """Returns an event that is set when the view has applied the marker."""
        return self._markers.setdefault(marker_id, asyncio.Event())

    def join(self, budget: Budget) -> None:
        """Shows all records of the budget to it, from now on."""
        self._budgets[budget.name] = budget

    def apply(self, record: Record) -> None:
        """Folds a journal message, unless it is a copy. Unknown events are skipped, counted, logged once."""
        passed = record.offset <= self._restored
        self.offset = record.offset
        try:
            header, events = decode_message(record.body)
        except DecodeError as error:
            self._skip(record.offset, str(error))
            return
        now = self.monotonic()
        if header is not None and not self.writers.take(record.offset, header, now):
            return
        for index, event in enumerate(events):
            if event is None:
                self._skip(record.offset, "unknown kind of event")
            elif isinstance(event, BudgetEvent):
                if header is not None and (budget := self._budgets.get(event.budget)):
                    budget.read(record.offset, header, event, now)
            elif not isinstance(event, RetiredEvent) and (not passed or isinstance(event, Marker)):
                if not isinstance(event, Marker):
                    self.changed = record.offset
                self._apply(EventId(record.offset, index), event, len(record.body))
                self._written_at, self._received_at = event.ts, self.clock()

    def _apply(self, at: EventId, event: JobEvent | IntakeEvent | Marker, size: int) -> None:
        match event:
            case Marker() | Paused() | Resumed():
                self._note(event)
                return
            case StageChanged() if event.usage is not None:
                self.spending.paid(event, self.clock())  # a void run has paid, too
        before = self._jobs.get(event.job)
        if before is None and isinstance(event, Queued):
            if self.ended.find(event.job) is not None:
                return  # a copy of it that has no number
            self._note_acceptance(event)
        after = apply(before, at, event, keep=size if size <= self._replies_left else None)
        if after is None or after is before:
            return
        if before is None:
            after = self._claim(after, at)
        else:
            if before.recorded is not after.recorded:
                self._replies_left += before.kept_bytes - after.kept_bytes
            if self._live and before.started_at is None and after.started_at is not None:
                # Both times are of events, so no clock of ours matters.
                self._started_monotonic[event.job] = self.monotonic() - max(0.0, event.ts - after.started_at)
        if after.ended:
            self._end(after)
        else:
            self._jobs[event.job] = after
        self._announce(after)

    def _note_acceptance(self, event: Queued) -> None:
        """Notes when the job was accepted; only a live record must be young."""
        age = self.clock() - event.ts
        soonest, latest = PLAUSIBLE_AGE
        if age < soonest or (self._live and age > latest):
            self._arrived_at[event.job] = self.clock()
            age = 0.0
        if self._live:
            self._accepted_monotonic[event.job] = self.monotonic() - max(0.0, age)

    def _note(self, event: Marker | IntakeEvent) -> None:
        """Applies an event that belongs to no job."""
        if isinstance(event, Marker):
            if marker := self._markers.pop(event.id, None):
                marker.set()
                self._live = True  # the first one of ours was written at our start
            return
        if event in self._intake:
            return  # a message that was sent twice may come again after newer ones, such as a resumption
        self._intake.append(event)
        if isinstance(event, Paused) and event.renewed and self._resumed:
            return  # it was resumed while the sweep, which did not know yet, wrote this
        self._resumed = isinstance(event, Resumed)
        self.paused = event if isinstance(event, Paused) else None
        for notify in self._intake_observers:
            notify()

    def _announce(self, state: JobState) -> None:
        if changed := self._changes.pop(state.job, None):
            changed.set_result(state)
        for observer in self._observers:
            observer(state)

    def _claim(self, state: JobState, at: EventId) -> JobState:
        if state.key is None:
            return state
        holder = self.by_key(state.owner, state.key, state.accepted)
        if holder is not None:
            return superseded(state, holder, at.offset)
        self._keys[state.owner, state.key] = state.job
        return state

    def _end(self, state: JobState) -> None:
        """Moves a job to those that have ended, with its key unless another job holds that."""
        self._jobs.pop(state.job, None)
        self._arrived_at.pop(state.job, None)
        self._accepted_monotonic.pop(state.job, None)
        self._started_monotonic.pop(state.job, None)
        self._replies_left += state.kept_bytes
        holds = state.key is not None and self._keys.get((state.owner, state.key)) == state.job
        if state.key is not None and holds:
            del self._keys[state.owner, state.key]
        holds &= state.superseded_by is None  # else it lost to a job that this view has never seen
        dropped = self.ended.add(state, holds_key=holds, keys_since=self.clock() - self._window)
        self.since = max(self.since, dropped)

    def _skip(self, offset: int, why: str) -> None:
        if self.skipped == 0:
            log.warning("skipped in the journal, and further ones silently", offset=offset, why=why)
        self.skipped += 1
