"""Reconstructs one job's history from its events in the journal: its runs, stages and present holder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eco2.errors import DecodeError
from eco2.event import Done, JobEvent, Released, RunStarted, decode_events
from eco2.journal.state import TRUNCATED, EventId, JobState, apply, truncated_state
from eco2.operator.cost import Cost, paid
from eco2.ports import FromOffset, Stream, delay_queue


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job. `began`, `ended`: Unix seconds; `end`: how it ended, "" if it may still run."""

    attempt: int
    worker: str
    run: str
    began: float
    alone: bool = False
    ended: float | None = None
    end: str = ""


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage as clients saw it. `began`, `ended`: Unix seconds; None if not yet."""

    stage: str
    status: str
    began: float | None
    ended: float | None
    cost: Cost

    @property
    def seconds(self) -> float | None:
        """Returns the duration, if the stage has begun and ended."""
        return None if self.began is None or self.ended is None else self.ended - self.began


Event = tuple[EventId, JobEvent]


async def read_events(stream: Stream, state: JobState, newest: int) -> list[Event]:
    """Reads all events of the job from the journal, up to its end or to the offset `newest`."""
    events: list[Event] = []
    last = newest if state.ended_at is None else min(state.ended_at, newest)
    async with stream.read(FromOffset(state.queued_at)) as records:
        async for record in records:
            try:
                batch = decode_events(record.body)
            except DecodeError:
                batch = []  # the view has counted and logged it
            events += [
                (EventId(record.offset, place), event)
                for place, event in enumerate(batch)
                if isinstance(event, JobEvent) and event.job == state.job
            ]
            if record.offset >= last:
                break
    return events


def runs(state: JobState, events: Iterable[Event]) -> list[JobRun]:
    """Returns the runs that were current at some time. `state`: the job as it is now."""
    history: list[JobRun] = []
    after: JobState | None = None
    for at, event in events:
        if after is None and state.is_truncated:
            after = truncated_state(state.job, state.accepted, at, event)
        before, after = after, apply(after, at, event)
        if after is None or after is before:
            continue
        match event:
            case RunStarted() if after.run == event.run:
                if history and not history[-1].end:
                    history[-1] = replace(
                        history[-1], ended=event.ts, end="silent: taken over by the next run"
                    )
                history.append(JobRun(event.attempt, event.worker, event.run, event.ts, event.exclusive))
            case Released() if history:
                how = "will be retried" if event.retry else "released"
                history[-1] = replace(history[-1], ended=event.ts, end=f"{how}: {event.reason}")
            case Done() if history and not history[-1].end:
                how = event.status if event.run else f"{event.status}, ended by the sweep or a gateway"
                history[-1] = replace(history[-1], ended=event.ts, end=how)
    return history


def stages(state: JobState) -> list[StageTime]:
    """Returns the stages that clients saw, in order."""
    costs = paid(state)
    times: dict[str, StageTime] = {}
    for shown in state.visible_events:
        if shown.stage in ("done", TRUNCATED) or shown.seq == 0:
            continue
        began = shown.ts if shown.status == "started" else None
        earlier = times.get(
            shown.stage, StageTime(shown.stage, "", None, None, costs.get(shown.stage, Cost()))
        )
        times[shown.stage] = replace(
            earlier,
            status=shown.status,
            began=earlier.began or began,
            ended=None if shown.status == "started" else shown.ts,
        )
    return list(times.values())


def holder(state: JobState, history: Sequence[JobRun], answer: str | None) -> str:
    """Returns who has the job now, as text. `answer`: the run that a worker reported (`query_holder`)."""
    if state.ended:
        return "none: the job has ended"
    worker = history[-1].worker if history else "a worker"
    if state.is_held and answer == state.run:
        return f"{worker}, running it"
    if answer is not None:
        return "a worker that has its order and waits for its turn"
    if state.is_held:
        return f"{worker} by the journal, but it does not answer: another worker will take the job over"
    if state.retrying:
        queue = delay_queue(state.pipeline, state.retrying.delay, state.priority)
        return f"none: its order waits for the retry in the queue {queue}"
    return f"none: its order waits in a queue; if no queue has it, use `eco2 jobs reissue {state.job}`"
