"""The cases as values: limits, offered jobs, incidents and targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eco2.settings import Counting

PipelineName = Literal["scan", "mixed", "note"]
Incident = Literal["none", "freeze", "kill", "restart", "exchange"]
Rank = Literal["oldest job first", "first asked first"]

SECONDS = 240.0
"""Of load."""
WINDOW = 60.0
"""Seconds: what the provider's limits are about."""
WARM = 60.0
"""Seconds from the first call on that are not judged: a new leader takes the minute before it for full."""
TAIL = 35.0
"""Seconds before the end in which no job is judged that begins then: it could not have ended. In a short run
half of what is judged."""

MEAN_CALLS = {"scan": 1.95, "mixed": 2.0, "note": 1.0}
"""Calls of a job. A scan whose picture shows nothing known asks no second time."""
MEAN_TOKENS = {
    ("scan", "request"): 1793.0,
    ("scan", "usage"): 2000.0,
    ("mixed", "request"): 1170.0,
    ("note", "request"): 100.0,
}
"""Tokens that the provider counts for a job, by pipeline and counting; measured, to know what 120 % are."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case. `rpm`, `tpm`: the provider's limits. `load`: the offered share of the binding limit.

    `workers`: those that run at first. `busy`: other processes keep all cores busy half of the time.
    Judged are `utilisation`, the least used share of it; `calm`, whether jobs take as long as at an unloaded
    provider; `grants`, the time of a grant. None and False: not judged.
    `batch`: jobs of one call each and of priority `batch`, which are submitted at once at the start. `alone`:
    the case with the same other jobs without them, which it is compared with. `seconds`: of load, unless the
    command line says so.
    """

    name: str
    title: str
    rpm: int
    tpm: int
    load: float = 1.2
    pipelines: tuple[PipelineName, ...] = ("scan",)
    counting: Counting = "request"
    incident: Incident = "none"
    rank: Rank = "oldest job first"
    workers: int = 3
    busy: bool = False
    utilisation: float | None = 0.98
    calm: bool = True
    grants: bool = False
    batch: int = 0
    alone: str = ""
    seconds: float = SECONDS

    @property
    def jobs_per_second(self) -> float:
        """The offered jobs of all pipelines together."""
        return self.load * min(self._by_requests, self._by_tokens) / 60

    @property
    def binding(self) -> Literal["requests", "tokens"]:
        return "requests" if self._by_requests <= self._by_tokens else "tokens"

    @property
    def limit(self) -> int:
        """The binding limit, per minute."""
        return self.rpm if self.binding == "requests" else self.tpm

    @property
    def _by_requests(self) -> float:
        return self.rpm / _mean([MEAN_CALLS[name] for name in self.pipelines])

    @property
    def _by_tokens(self) -> float:
        return self.tpm / _mean([MEAN_TOKENS[name, self.counting] for name in self.pipelines])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


UNLOADED = Case(
    "unloaded",
    "a tenth of the budget: durations of jobs that never wait",
    1000,
    2_000_000,
    load=0.1,
    pipelines=("scan", "mixed"),
    utilisation=None,
    calm=False,
)

CASES = (
    UNLOADED,
    Case(
        "half",
        "half of the budget: the time of a grant",
        500,
        1_000_000,
        load=0.5,
        utilisation=None,
        grants=True,
    ),
    Case("requests", "requests bind", 500, 1_000_000),
    Case("tokens", "tokens bind", 1000, 300_000),
    Case(
        "fifo",
        "requests bind, grants in the order of requests",
        500,
        1_000_000,
        rank="first asked first",
        calm=False,
    ),
    Case("mixed", "tokens bind, calls of 60 to 4,000 tokens", 1000, 400_000, pipelines=("mixed",)),
    Case(
        "deaths",
        "the leader is killed every 20 s",
        500,
        1_000_000,
        incident="kill",
        utilisation=0.97,
    ),
    Case("frozen", "a worker is frozen for 30 s", 500, 1_000_000, incident="freeze"),
    Case("replicas", "replicas join and leave", 500, 1_000_000, incident="exchange"),
    Case(
        "usage",
        "the provider counts the real tokens of calls",
        1000,
        400_000,
        counting="usage",
        utilisation=0.97,
    ),
    Case(
        "restarts",
        "the only worker is killed every 80 s, and started again",
        240,
        1_000_000,
        incident="restart",
        workers=1,
        utilisation=0.92,
        calm=False,
    ),
    Case(
        "busy",
        "as mixed, beside programs that keep all cores busy half of the time",
        1000,
        400_000,
        pipelines=("mixed",),
        busy=True,
        utilisation=0.95,
        calm=False,
    ),
    Case(
        "people",
        "people at 60 % of the budget, and nothing besides",
        500,
        1_000_000,
        load=0.6,
        utilisation=None,
        calm=False,
        seconds=600.0,
    ),
    Case(
        "batch",
        "the same people beside 5,000 batch jobs",
        500,
        1_000_000,
        load=0.6,
        utilisation=0.985,
        calm=False,
        batch=5000,
        alone="people",
        seconds=600.0,
    ),
)
"""In the order in which they run: what later ones are compared with comes first."""


def batches(cases: Sequence[Case], at_once: int) -> list[list[Case]]:
    """Groups the cases that run concurrently, each with separate processes: the light cases, since one of
    them measures milliseconds; `at_once` of the others, which measure seconds; each busy case alone; the
    longer cases together."""
    compared = [case for case in cases if case.seconds > SECONDS]
    light = [case for case in cases if case.load < 1 and case not in compared]
    loaded = [case for case in cases if case.load >= 1 and not case.busy]
    rest = [loaded[start : start + at_once] for start in range(0, len(loaded), at_once)]
    rest += [[case] for case in cases if case.busy] + ([compared] if compared else [])
    return [light, *rest] if light else rest
