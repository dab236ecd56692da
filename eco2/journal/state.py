"""The state of one job, folded from its events: a pure function of the log, the same for every reader.

Guarantees: events of a run that is not current, or has given the job back, change nothing; a run that opened
a stage is not replaced by one that did not know it; the first terminal event stands; `seq` never goes back,
so an event that was written twice is shown once.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from eco2.event import (
    CallCompleted,
    Done,
    JobEvent,
    Queued,
    Released,
    RunStarted,
    StageChanged,
    Status,
    StepCompleted,
    Superseded,
    amount,
)
from eco2.job import JSON, Job, Priority
from eco2.ports import DELAYS

TRUNCATED = "truncated"
"""Stands for the events of a job that the journal has dropped."""


class EventId(NamedTuple):
    """Where an event stands in the journal: the message's offset and the place in its batch (from 0)."""

    offset: int
    place: int = 0

    def __str__(self) -> str:
        return f"{self.offset}.{self.place}" if self.place else str(self.offset)

    @classmethod
    def parse(cls, text: str) -> "EventId | None":
        """The id that `str` wrote, or None for anything else."""
        offset, dot, index = text.partition(".")
        if not (offset.isascii() and offset.isdigit()) or (dot and not (index.isascii() and index.isdigit())):
            return None
        return cls(int(offset), int(index or 0))


class VisibleEvent(msgspec.Struct, frozen=True, gc=False):
    """A durable event as clients see it: the `data:` of one server-sent event, without the job's id."""

    id: EventId
    stage: str
    status: Status
    seq: int
    ts: float
    progress: int
    result: JSON | None = None


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A call or a step that a later run of its stage need not repeat.

    `run` recorded it at `at` in the journal. `digest`: of a call, see `CallCompleted`; "" of a step.
    `value`: the reply, or the step's value; if it is not `kept` in memory, read it at `at`.
    `size`: bytes that it counts for among those that are kept.
    """

    at: EventId
    run: str
    digest: str
    value: object = None
    kept: bool = True
    size: int = 0


class PutOff(msgspec.Struct, frozen=True, gc=False):
    """A job whose `stage` failed at `since` (Unix seconds), and is tried again after `delay` seconds."""

    stage: str
    since: float
    delay: int

    @property
    def until(self) -> float:
        """When the order comes back (Unix seconds)."""
        return self.since + self.delay


class JobState(msgspec.Struct, frozen=True, gc=False):
    """All that the journal has about one job. Offsets are the journal's; times are Unix seconds.

    `max_wait`, `timeout`: seconds, see `deadline`. `first_run_at`: when its first run opened. `started_at`:
    when its first stage started: with the grant of its first call, or with the first run if it shows before
    any grant; None until an event of a stage, or of a step, is in the journal. `put_off`: seconds since then
    in which it waited for a stage to be tried again, without the present wait (`retrying`).
    `max_usd`: what its calls may cost; `spent`: USD of its recorded calls by run, if that is limited.
    `run`: the current run, None before the first; `attempt`: its number; `previous_runs`: void by now.
    `released`: the current run gave the job back; `retrying`: because a stage is tried again later.
    `exclusive`: no other job ran in its process. `crashes`: earlier runs that ended without an event, and
    `retries`: times that a stage failed, both since the job's last progress. `updated_at`: when its last
    event was written. `outputs`, `usage`: by stage; `recorded`: calls and steps of unfinished stages, by
    "stage/key". `visible_events`: those that clients see, in order.
    `superseded_by`: the job that won the key, if this one lost it ("": it was withdrawn). `dead`: its order
    is among the dead letters. `cause`: why it failed, for operators. `resumes`: the job that it replays.
    """

    job: str
    pipeline: str
    accepted: float
    max_wait: float
    timeout: float
    digest: str
    queued_at: int
    updated_at: float
    owner: str = ""
    key: str | None = None
    model: str | None = None
    priority: Priority = "interactive"
    max_usd: float | None = None
    spent: Mapping[str, Decimal] = {}
    status: Literal["queued", "running", "completed", "failed", "cancelled", "superseded"] = "queued"
    run: str | None = None
    attempt: int = 0
    previous_runs: tuple[str, ...] = ()
    released: bool = False
    retrying: PutOff | None = None
    first_run_at: float | None = None
    started_at: float | None = None
    put_off: float = 0.0
    exclusive: bool = False
    crashes: int = 0
    retries: int = 0
    outputs: Mapping[str, JSON] = {}
    usage: Mapping[str, JSON] = {}
    recorded: Mapping[str, Recorded] = {}
    visible_events: tuple[VisibleEvent, ...] = ()
    result: JSON | None = None
    ended_at: int | None = None
    superseded_by: str | None = None
    dead: bool = False
    cause: str = ""
    resumes: str | None = None

    def as_job(self, input: JSON) -> Job:
        """Rebuilds the job as it was accepted; its `input` is not in the journal."""
        return Job(
            id=self.job,
            pipeline=self.pipeline,
            input=input,
            accepted=self.accepted,
            max_wait=self.max_wait,
            timeout=self.timeout,
            max_usd=self.max_usd,
            digest=self.digest,
            owner=self.owner,
            key=self.key,
            model=self.model,
            priority=self.priority,
        )

    @property
    def deadline(self) -> float:
        """When the job is to end as failed, as things stand, by the clocks that wrote its events.

        Until it has started, `max_wait` counts from its acceptance; a run that has it may be at work without
        a call, and gets `timeout` more. Then only `timeout` counts, but not while it is put off: there the
        clock stands still for the delay, and for `max_wait` more until a run opens. So every job ends. Times
        of different processes are compared, whose clocks may differ by two seconds.
        """
        if self.started_at is None:
            return self.accepted + self.max_wait + (self.timeout if self.is_held else 0.0)
        pause = 0.0 if self.retrying is None else self.retrying.delay + self.max_wait
        return self.started_at + self.timeout + self.put_off + pause

    @property
    def has_started(self) -> bool:
        """True once its first call was granted, or work without a call has shown."""
        return self.started_at is not None

    @property
    def is_held(self) -> bool:
        """True while a run has the job, and has neither ended it nor given it back."""
        return self.run is not None and not (self.released or self.ended)

    @property
    def is_open(self) -> bool:
        """True while a call or a step may be in flight: a stage was shown as started, not as completed."""
        last = self.visible_events[-1]
        return last.stage != "queued" and last.status != "completed"

    def has_begun_since(self, offset: int) -> bool:
        """Returns True if the run has opened a stage behind `offset`, or recorded a call or a step."""
        recorded = [record.at for record in self.recorded.values() if record.run == self.run]
        return any(at.offset > offset for at in (self.visible_events[-1].id, *recorded))

    @property
    def ended(self) -> bool:
        """True once nothing can happen to the job any more."""
        return self.ended_at is not None

    @property
    def is_truncated(self) -> bool:
        """True if the journal has dropped the job's beginning, and with it the owner and the pipeline."""
        return self.visible_events[0].stage == TRUNCATED

    @property
    def kept_bytes(self) -> int:
        """Bytes that recorded calls and steps count for among those kept in memory."""
        return sum(record.size for record in self.recorded.values())

    @property
    def stage(self) -> str:
        """The last stage that clients saw."""
        return self.visible_events[-1].stage

    @property
    def progress(self) -> int:
        """Per cent, as last shown."""
        return self.visible_events[-1].progress


def apply(state: JobState | None, at: EventId, event: JobEvent, *, keep: int | None = 0) -> JobState | None:
    """Returns the state after `event`, or `state` itself if the event changes nothing.

    None stays None until the job's `queued`. `keep`: bytes that the value of a recorded call counts for;
    None: its value is not kept.
    """
    if state is None:
        return new_state(at, event) if isinstance(event, Queued) else None
    if state.ended:
        return state
    match event:
        case Superseded():
            return superseded(state, event.by, at.offset)
        case RunStarted() if event.attempt > state.attempt:
            return _opened(state, event)
        case Done(run=run) if run in (None, state.run) and not (event.if_unstarted and state.has_started):
            # The writer of an end without a run does not know what the run shows meanwhile.
            seq = max(event.seq, seq_after(state.visible_events))
            shown = VisibleEvent(at, "done", event.status, seq, event.ts, 100, event.result)
            return replace(
                state,
                status=event.status,
                result=event.result,
                ended_at=at.offset,
                dead=event.dead,
                cause=event.cause,
                retrying=None,
                recorded={},
                visible_events=(*state.visible_events, shown),
                updated_at=event.ts,
            )
        case CallCompleted():
            return _record(_paid(state, event), at, event, keep)
        case StepCompleted():
            return _record(state, at, event, keep)
        case Released() if event.run == state.run and not state.released:
            return _released(state, event)
        case StageChanged() if event.run == state.run and not state.released:
            return _stage(state, at, event)
    return state


def new_state(at: EventId, event: Queued) -> JobState:
    """Returns the state of a job of which only its `queued` is known."""
    max_wait, timeout = event.max_wait, event.timeout
    if timeout == 0.0:  # of release 0.1, which wrote only a deadline
        max_wait = timeout = max(0.0, event.deadline - event.ts)
    return JobState(
        job=event.job,
        pipeline=event.pipeline,
        accepted=event.ts,
        max_wait=max_wait,
        timeout=timeout,
        max_usd=event.max_usd,
        digest=event.digest,
        queued_at=at.offset,
        updated_at=event.ts,
        owner=event.owner,
        key=event.key,
        model=event.model,
        priority=event.priority,
        outputs=event.outputs,
        resumes=event.resumes,
        visible_events=(VisibleEvent(at, "queued", "started", 0, event.ts, 0),),
    )


def truncated_state(job: str, accepted: float, at: EventId, event: JobEvent) -> JobState | None:
    """Returns the state before `event` of a job whose beginning the journal has dropped.

    It shows clients one event of stage `truncated` in the place of `queued`. None if `event` itself is the
    beginning, or names no run.
    """
    if isinstance(event, Queued | Superseded):
        return None
    return JobState(
        job=job,
        pipeline="",
        accepted=accepted,
        max_wait=0.0,
        timeout=0.0,
        digest="",
        queued_at=at.offset,
        updated_at=event.ts,
        status="running",
        run=event.run,
        visible_events=(VisibleEvent(EventId(at.offset, -1), TRUNCATED, "started", 0, accepted, 0),),
    )


def seq_after(shown: tuple[VisibleEvent, ...]) -> int:
    """Returns the `seq` of an end after these events, as if no stage came between."""
    return 10 * (shown[-1].seq // 10 + 1) + 1


def end_without_run(
    state: JobState,
    status: Literal["failed", "cancelled"],
    code: str,
    message: str,
    now: float,
    *,
    if_unstarted: bool = False,
) -> Done:
    """Returns the terminal event of a job that no run ended.

    The result lacks the pipeline's members, whose code may not be installed here: gateways show them as null.
    """
    return Done(
        ts=now,
        job=state.job,
        run=None,
        status=status,
        seq=seq_after(state.visible_events),
        result={
            "task_id": state.job,
            "status": status,
            "message": message,
            "error": {"code": code, "message": message},
            "usage": dict(state.usage),
        },
        if_unstarted=if_unstarted,
    )


def cancelled(state: JobState, now: float) -> Done:
    """Returns the terminal event by which a job is cancelled; an end that stands before it counts."""
    return end_without_run(state, "cancelled", "CANCELLED", "cancelled on request", now)


def superseded(state: JobState, by: str, offset: int) -> JobState:
    """Returns the state of a job that lost its key to job `by`."""
    return replace(state, status="superseded", superseded_by=by, ended_at=offset)


def without_values(state: JobState) -> JobState:
    """Returns the state without the values of its calls and steps, which are read at their offsets."""
    recorded = {key: replace(one, value=None, kept=False, size=0) for key, one in state.recorded.items()}
    return replace(state, recorded=recorded)


def _opened(state: JobState, event: RunStarted) -> JobState:
    if event.over is not None and state.has_begun_since(event.over):
        return replace(state, attempt=event.attempt)
    waited = 0.0 if state.retrying is None else max(0.0, event.ts - state.retrying.since)
    return replace(
        state,
        status="running",
        run=event.run,
        attempt=event.attempt,
        previous_runs=(*state.previous_runs, *((state.run,) if state.run is not None else ())),
        released=False,
        retrying=None,
        first_run_at=event.ts if state.first_run_at is None else state.first_run_at,
        put_off=state.put_off + waited,
        exclusive=event.exclusive,
        crashes=state.crashes + state.is_held,
        updated_at=event.ts,
    )


def _paid(state: JobState, event: CallCompleted) -> JobState:
    """Adds what a call cost, of whichever run and however often it was made, if the job has a limit."""
    usage = event.reply.get("usage")
    cost = amount(usage.get("cost_usd")) if isinstance(usage, dict) else None
    if state.max_usd is None or not cost:
        return state
    return replace(state, spent={**state.spent, event.run: state.spent.get(event.run, 0) + cost})


def _record(state: JobState, at: EventId, event: CallCompleted | StepCompleted, keep: int | None) -> JobState:
    """Keeps the first record of each key; that of the current run replaces one of a run that is void.

    Records of a void run count, since what it paid for need not be paid again.
    """
    key, current = f"{event.stage}/{event.key}", event.run == state.run and not state.released
    known = state.recorded.get(key)
    if event.stage in state.outputs or (known is not None and (known.run == state.run or not current)):
        return state
    digest, value = (event.digest, event.reply) if isinstance(event, CallCompleted) else ("", event.value)
    record = Recorded(at, event.run, digest, None if keep is None else value, keep is not None, keep or 0)
    state = replace(_started(state, event.ts), recorded={**state.recorded, key: record}, updated_at=event.ts)
    return replace(state, crashes=0, retries=0) if current else state


def _released(state: JobState, event: Released) -> JobState:
    put_off, retries = None, state.retries + event.retry
    if event.retry:
        delay = event.delay or DELAYS[min(retries, len(DELAYS)) - 1]  # release 0.1 did not write it
        put_off = PutOff(event.stage or state.stage, event.ts, delay)
    return replace(state, released=True, retrying=put_off, retries=retries, updated_at=event.ts)


def _started(state: JobState, now: float, *, granted: bool = False) -> JobState:
    """Notes when the job started, if it had not. It was put off before a first grant in the time to wait."""
    if state.started_at is not None:
        return state
    if granted or state.first_run_at is None:
        return replace(state, started_at=now, put_off=0.0)
    return replace(state, started_at=state.first_run_at)


def _stage(state: JobState, at: EventId, event: StageChanged) -> JobState:
    if event.stage not in state.outputs:  # else its output came with a job that replays another
        state = _started(state, event.ts, granted=event.granted)
    if event.status == "completed" and event.output is not None and event.stage not in state.outputs:
        prefix = f"{event.stage}/"
        state = replace(
            state,
            outputs={**state.outputs, event.stage: event.output},
            usage={**state.usage, event.stage: event.usage} if event.usage else state.usage,
            recorded={key: one for key, one in state.recorded.items() if not key.startswith(prefix)},
            crashes=0,
            retries=0,
        )
    if event.seq <= state.visible_events[-1].seq:
        return state
    result = event.output if event.status == "completed" else event.error
    shown = VisibleEvent(at, event.stage, event.status, event.seq, event.ts, event.progress, result)
    return replace(state, visible_events=(*state.visible_events, shown), updated_at=event.ts)
