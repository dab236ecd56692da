"""What became of one job, told from its events in the journal: its runs, its stages, who has it now."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eco2.errors import DecodeError
from eco2.event import Done, JobEvent, Released, RunStarted, decode_events
from eco2.job import JSON
from eco2.journal.state import TRUNCATED, EventId, JobState, apply, remnant
from eco2.operator.cost import Cost, paid
from eco2.ports import DELAYS, FromOffset, Stream, delay_queue


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. `began`, `ended`: Unix seconds; `end`: how it ended, "" while it may be at work."""

    number: int
    worker: str
    run: str
    began: float
    alone: bool = False
    ended: float | None = None
    end: str = ""

    def document(self) -> JSON:
        return {
            "attempt": self.number,
            "worker": self.worker,
            "run": self.run,
            "began": self.began,
            "alone": self.alone,
            "ended": self.ended,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage, as clients saw it. `began`, `ended`: Unix seconds, None where it did not."""

    name: str
    status: str
    began: float | None
    ended: float | None
    cost: Cost

    @property
    def seconds(self) -> float | None:
        return None if self.began is None or self.ended is None else self.ended - self.began

    def document(self) -> JSON:
        return {
            "stage": self.name,
            "status": self.status,
            "began": self.began,
            "ended": self.ended,
            "cost": self.cost.document(),
        }


Event = tuple[EventId, JobEvent]


async def events(stream: Stream, state: JobState, newest: int) -> list[Event]:
    """Every event of the job, from its beginning to its end, or to the offset `newest`."""
    found: list[Event] = []
    last = newest if state.ended_at is None else min(state.ended_at, newest)
    async with stream.read(FromOffset(state.queued_at)) as records:
        async for record in records:
            try:
                batch = decode_events(record.body)
            except DecodeError:
                batch = []  # the view has counted and logged it
            found += [
                (EventId(record.offset, place), event)
                for place, event in enumerate(batch)
                if isinstance(event, JobEvent) and event.job == state.job
            ]
            if record.offset >= last:
                break
    return found


def runs(state: JobState, told: Iterable[Event]) -> list[Run]:
    """The runs that were ever current. `state`: the job as it is now."""
    history: list[Run] = []
    known: JobState | None = None
    for at, event in told:
        if known is None and state.cut:
            known = remnant(state.job, state.accepted, at, event)
        before, known = known, apply(known, at, event)
        if known is None or known is before:
            continue
        match event:
            case RunStarted():
                if history and not history[-1].end:
                    history[-1] = replace(history[-1], ended=event.ts, end="silent: the next run took over")
                history.append(Run(event.attempt, event.worker, event.run, event.ts, event.alone))
            case Released() if history:
                how = "put off" if event.retry else "given back"
                history[-1] = replace(history[-1], ended=event.ts, end=f"{how}: {event.reason}")
            case Done() if history and not history[-1].end:
                how = event.status if event.run else f"{event.status} from outside"
                history[-1] = replace(history[-1], ended=event.ts, end=how)
    return history


def stages(state: JobState) -> list[StageTime]:
    """The stages that showed themselves, in order."""
    costs = paid(state)
    found: dict[str, StageTime] = {}
    for shown in state.shown:
        if shown.stage in ("done", TRUNCATED) or shown.seq == 0:
            continue
        began = shown.ts if shown.status == "started" else None
        known = found.get(shown.stage, StageTime(shown.stage, "", None, None, costs.get(shown.stage, Cost())))
        found[shown.stage] = replace(
            known,
            status=shown.status,
            began=known.began or began,
            ended=None if shown.status == "started" else shown.ts,
        )
    return list(found.values())


def holder(state: JobState, history: Sequence[Run], answer: str | None) -> str:
    """Who has the job now, for people. `answer`: what `holders.asked` heard."""
    if state.ended:
        return "nobody: it has ended"
    worker = history[-1].worker if history else "a worker"
    if state.held and answer == state.run:
        return f"{worker}, at work"
    if answer is not None:
        return "a worker that has its order and waits for its turn"
    if state.held:
        return f"{worker} by the journal, but nobody answers: it is taken over soon"
    if state.put_off:
        queue = delay_queue(state.pipeline, delay(state))
        return f"nobody: put off until its next try, its order waits in the queue {queue}"
    return "nobody: its order waits in a queue, or is lost"


def delay(state: JobState) -> int:
    """Seconds for which a job that is put off waits from its release on; longer each time."""
    return DELAYS[min(max(state.retries, 1), len(DELAYS)) - 1]


def retry_at(state: JobState) -> float | None:
    """When a job that is put off is tried again (Unix seconds); None for any other."""
    return state.touched + delay(state) if state.put_off and not state.ended else None
