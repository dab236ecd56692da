"""The state of one job, folded from its events: a pure function of the log, the same for every reader.

What it guarantees: events of a run that is not current, or has given the job back, change nothing; the first
terminal event stands; `seq` never goes back, so an event that was written twice is shown once.
"""

from collections.abc import Mapping
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
)
from eco2.job import JSON

TRUNCATED = "truncated"
"""What stands for the events of a job that the journal has dropped."""


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


class Shown(msgspec.Struct, frozen=True, gc=False):
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
    `value`: the reply, or the step's value; where it is not `kept` in memory it must be read at `at`.
    `size`: bytes that it counts for among those that are kept.
    """

    at: EventId
    run: str
    digest: str
    value: object = None
    kept: bool = True
    size: int = 0


class JobState(msgspec.Struct, frozen=True, gc=False):
    """All that the journal says of one job. Offsets are the journal's; times are Unix seconds.

    `run`: the current run, None before the first; `attempt`: its number; `past`: those before it, void now;
    `released`: it gave the job back; `put_off`: to be tried again later.
    `alone`: it ran without neighbours. `crashes`: runs before it that ended without a word, and `retries`:
    times that a stage failed, both since the job last got on. `touched`: when its last event was written.
    `outputs`, `usage`: by stage; `recorded`: calls and steps of unfinished stages, by "stage/key".
    `shown`: what clients see, in order.
    `by`: the job that won the key, where this one lost it ("": it was withdrawn). `dead`: its order is among
    the dead letters. `cause`: why it failed, for operators. `resumes`: the job that this one replays.
    """

    job: str
    pipeline: str
    accepted: float
    deadline: float
    digest: str
    queued_at: int
    touched: float
    owner: str = ""
    key: str | None = None
    model: str | None = None
    status: Literal["queued", "running", "completed", "failed", "cancelled", "superseded"] = "queued"
    run: str | None = None
    attempt: int = 0
    past: tuple[str, ...] = ()
    released: bool = False
    put_off: bool = False
    alone: bool = False
    crashes: int = 0
    retries: int = 0
    outputs: Mapping[str, JSON] = {}
    usage: Mapping[str, JSON] = {}
    recorded: Mapping[str, Recorded] = {}
    shown: tuple[Shown, ...] = ()
    result: JSON | None = None
    ended_at: int | None = None
    by: str | None = None
    dead: bool = False
    cause: str = ""
    resumes: str | None = None

    @property
    def held(self) -> bool:
        """True while a run has the job and has neither ended it nor given it back: it may be at work."""
        return self.run is not None and not (self.released or self.ended)

    @property
    def ended(self) -> bool:
        """True once nothing can happen to the job any more."""
        return self.ended_at is not None

    @property
    def cut(self) -> bool:
        """True if the journal has dropped the job's beginning: whose it was, and of which pipeline."""
        return self.shown[0].stage == TRUNCATED

    @property
    def stage(self) -> str:
        """The last stage that clients saw."""
        return self.shown[-1].stage

    @property
    def progress(self) -> int:
        """Per cent, as last shown."""
        return self.shown[-1].progress


def apply(state: JobState | None, at: EventId, event: JobEvent, *, keep: int | None = 0) -> JobState | None:
    """The state after `event`; the very same object if the event changes nothing.

    None for events of a job whose `queued` this reader has not seen. `keep`: bytes that the value of a
    recorded call counts for; None: its value is not kept.
    """
    if state is None:
        return _queued(at, event) if isinstance(event, Queued) else None
    if state.ended:
        return state
    match event:
        case Superseded():
            return superseded(state, event.by, at.offset)
        case RunStarted():
            return _run(state, event)
        case Done():
            return _done(state, at, event)
        case CallCompleted() | StepCompleted():
            return _record(state, at, event, keep)
        case StageChanged() | Released() if _is_current(state, event.run):
            return _of_run(state, at, event)
    return state


def remnant(job: str, accepted: float, at: EventId, event: JobEvent) -> JobState | None:
    """The state before `event` of a job whose beginning is lost; None if `event` cannot stand for it.

    In the place of `queued` clients see that something is missing.
    """
    if isinstance(event, Queued | Superseded):
        return None
    return JobState(
        job=job,
        pipeline="",
        accepted=accepted,
        deadline=accepted,
        digest="",
        queued_at=at.offset,
        touched=event.ts,
        status="running",
        run=event.run,
        shown=(Shown(EventId(at.offset, -1), TRUNCATED, "started", 0, accepted, 0),),
    )


def superseded(state: JobState, by: str, offset: int) -> JobState:
    """The state of a job that lost its key to job `by`."""
    return replace(state, status="superseded", by=by, ended_at=offset)


def unshown(state: JobState) -> JobState:
    """Of a job that has ended, what somebody needs to know who shows it to nobody: not its texts, which are
    most of what it takes in memory."""
    last = replace(state.shown[-1], result=None)
    return replace(state, outputs={}, usage={}, result=None, cause="", shown=(last,))


def _queued(at: EventId, event: Queued) -> JobState:
    return JobState(
        job=event.job,
        pipeline=event.pipeline,
        accepted=event.ts,
        deadline=event.deadline,
        digest=event.digest,
        queued_at=at.offset,
        touched=event.ts,
        owner=event.owner,
        key=event.key,
        model=event.model,
        outputs=event.outputs,
        resumes=event.resumes,
        shown=(Shown(at, "queued", "started", 0, event.ts, 0),),
    )


def _run(state: JobState, event: RunStarted) -> JobState:
    if event.attempt <= state.attempt:
        return state
    return replace(
        state,
        status="running",
        run=event.run,
        attempt=event.attempt,
        past=state.past if state.run is None else (*state.past, state.run),
        released=False,
        put_off=False,
        alone=event.alone,
        crashes=state.crashes + state.held,
        touched=event.ts,
    )


def _done(state: JobState, at: EventId, event: Done) -> JobState:
    if event.run is not None and event.run != state.run:
        return state
    shown = Shown(at, "done", event.status, event.seq, event.ts, 100, event.result)
    return replace(
        state,
        status=event.status,
        result=event.result,
        ended_at=at.offset,
        dead=event.dead,
        cause=event.cause,
        recorded={},
        shown=(*state.shown, shown),
        touched=event.ts,
    )


def _of_run(state: JobState, at: EventId, event: StageChanged | Released) -> JobState:
    match event:
        case Released():
            retries = state.retries + event.retry
            return replace(state, released=True, put_off=event.retry, retries=retries, touched=event.ts)
        case StageChanged():
            return _stage(state, at, event)


def _is_current(state: JobState, run: str) -> bool:
    return run == state.run and not state.released


def _record(state: JobState, at: EventId, event: CallCompleted | StepCompleted, keep: int | None) -> JobState:
    """Keeps the first record of each key; that of the current run replaces one of a run that is void.

    Records of a void run count, since what it paid for need not be paid again.
    """
    key, current = f"{event.stage}/{event.key}", _is_current(state, event.run)
    known = state.recorded.get(key)
    if event.stage in state.outputs or (known is not None and (known.run == state.run or not current)):
        return state
    digest, value = (event.digest, event.reply) if isinstance(event, CallCompleted) else ("", event.value)
    record = Recorded(at, event.run, digest, None if keep is None else value, keep is not None, keep or 0)
    state = replace(state, recorded={**state.recorded, key: record}, touched=event.ts)
    return replace(state, crashes=0, retries=0) if current else state


def _stage(state: JobState, at: EventId, event: StageChanged) -> JobState:
    if event.status == "completed" and event.output is not None and event.stage not in state.outputs:
        state = replace(
            state,
            outputs={**state.outputs, event.stage: event.output},
            usage={**state.usage, event.stage: event.usage} if event.usage else state.usage,
            recorded=_without(state.recorded, f"{event.stage}/"),
            crashes=0,
            retries=0,
        )
    if event.seq <= state.shown[-1].seq:
        return state
    result = event.output if event.status == "completed" else event.error
    shown = Shown(at, event.stage, event.status, event.seq, event.ts, event.progress, result)
    return replace(state, shown=(*state.shown, shown), touched=event.ts)


def _without(recorded: Mapping[str, Recorded], stage: str) -> Mapping[str, Recorded]:
    return {key: each for key, each in recorded.items() if not key.startswith(stage)}
