"""What the journal says of each job, folded on our own: the engine's fold must not be its own judge.

The rules are those of docs/events.md: the highest attempt is the current run, unless it did not know of a
stage that the one before had begun; events of others are void, `seq` never goes back, the first end stands.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.fault.evidence import Fact

NOTICED = 0.5
"""Seconds after which a process that crashed by itself is seen to be gone, at the latest."""


@dataclass(slots=True)
class Run:
    """A run that was current at some time. `until`: when it gave back, was overtaken, or the job ended."""

    id: str
    worker: str
    since: float
    until: float | None = None
    overtaken: bool = False

    def by(self, worker: str) -> bool:
        """True if it is a run of that process; its name in the journal may go on behind the process id."""
        return self.worker == worker or self.worker.startswith(f"{worker}-")

    def open_at(self, at: float) -> bool:
        """True if it was its worker's to end at `at`, or was taken over from a dead one just before."""
        late = NOTICED if self.overtaken else 0.0
        return self.since <= at and (self.until is None or self.until > at - late)


@dataclass(slots=True)
class History:
    """A job. `shown`: what every client must get, in order. `end`: the end that stands."""

    job: str
    queued: Fact
    shown: list[tuple[int, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    repairs: int = 0
    attempt: int = 0
    end: Fact | None = None
    superseded: bool = False

    @property
    def code(self) -> str | None:
        """The code of its failure."""
        result = self.end.body.get("result") if self.end else None
        error = result.get("error") if isinstance(result, dict) else None
        return str(error.get("code")) if isinstance(error, dict) else None

    @property
    def dead(self) -> bool:
        """True if its end says that its order is a dead letter."""
        return self.end is not None and self.end.body.get("dead") is True

    @property
    def status(self) -> str | None:
        return str(self.end.body["status"]) if self.end else None

    @property
    def stages(self) -> set[object]:
        """What has begun, `queued` too."""
        return {"queued", *(fact.body.get("stage") for fact in self.facts)}

    @property
    def recorded(self) -> int:
        """Calls whose replies the journal keeps, each once."""
        return len({fact.body["key"] for fact in self.facts if fact.type == "call_completed"})

    def held_by(self, worker: str, at: float) -> bool:
        """True if a run of `worker` (host name and process id) held the job at `at`."""
        return any(run.by(worker) and run.open_at(at) for run in self.runs)

    def open_at(self, at: float) -> bool:
        """True if it had been accepted and had not ended at `at`."""
        return self.queued.ts <= at and (self.end is None or self.end.at > at) and not self.superseded

    def add(self, fact: Fact) -> None:
        """Folds the next event of this job."""
        if self.end is not None or self.superseded:
            return
        current = self.runs[-1] if self.runs else None
        match fact.type:
            case "superseded":
                self.superseded = True
            case "run":
                self._run(fact, current)
            case "done" if fact.body.get("run") is None or _of(fact, current):
                self.end = fact
                self._show(fact)
                _close(current, fact.ts)
            case "stage" if _of(fact, current):
                self._show(fact)
            case "call_completed":
                self.repairs += _is_unfit(fact)
            case "released" if _of(fact, current):
                _close(current, fact.ts)
            case _:
                return
        self.facts.append(fact)

    def _run(self, fact: Fact, current: Run | None) -> None:
        attempt = fact.body["attempt"]
        assert isinstance(attempt, int)
        over = fact.body.get("over")
        if attempt > self.attempt:
            self.attempt = attempt
            if isinstance(over, int) and any(
                each.offset > over and _of(each, current) and each.type in ("stage", "call_completed")
                for each in self.facts
            ):
                return
            if current is not None and current.until is None:
                current.until, current.overtaken = fact.ts, True
            self.runs.append(Run(str(fact.body["run"]), str(fact.body["worker"]), fact.ts))

    def _show(self, fact: Fact) -> None:
        seq = fact.body["seq"]
        assert isinstance(seq, int)
        if seq > self.shown[-1][0]:
            self.shown.append((seq, fact.id))


def _of(fact: Fact, run: Run | None) -> bool:
    return run is not None and fact.body.get("run") == run.id


def _close(run: Run | None, at: float) -> None:
    if run is not None and run.until is None:
        run.until = at


def histories(facts: Iterable[Fact]) -> dict[str, History]:
    """All jobs, by id. Of several with one key the first holds it, and the others never run."""
    found: dict[str, History] = {}
    keys: set[tuple[object, object]] = set()
    for fact in sorted(facts, key=lambda fact: (fact.offset, fact.place)):
        if fact.job in found:
            if fact.type != "queued":
                found[fact.job].add(fact)
        elif fact.type == "queued":
            history = found[fact.job] = History(fact.job, fact, [(0, fact.id)], facts=[fact])
            if (key := fact.body.get("key")) is not None:
                owned = (fact.body.get("owner", ""), key)
                history.superseded = owned in keys
                keys.add(owned)
    return found


def _is_unfit(fact: Fact) -> bool:
    """True for a paid answer that did not fit, for which one repair is right."""
    reply = fact.body.get("reply")
    error = reply.get("error") if isinstance(reply, dict) else None
    return isinstance(error, dict) and error.get("kind") == "UNFIT"
