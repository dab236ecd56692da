"""What was seen from outside while a fault was made: plain values, so that the verdict is a pure function.

Times are Unix seconds of this machine, on which everything runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

JSON = dict[str, object]


@dataclass(frozen=True, slots=True)
class Fact:
    """One event of the journal, as it stands there. `at`: when it reached us; `ts`: when it was written."""

    offset: int
    place: int
    at: float
    ts: float
    type: str
    job: str
    body: Mapping[str, object]

    @property
    def id(self) -> str:
        """What a client gets as the event's id."""
        return f"{self.offset}.{self.place}" if self.place else str(self.offset)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the provider. `paid`: it began to answer with 200. `fault`: what struck it."""

    job: str
    kind: str
    at: float
    paid: bool
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """A durable event as one client got it."""

    seq: int
    id: str
    at: float


@dataclass(frozen=True, slots=True)
class Trace:
    """All that one client of a job got, over all its connections. `late`: it came when all was over."""

    job: str
    sights: tuple[Sight, ...]
    late: bool = False
    opened: tuple[float, ...] = ()
    """When a gateway began to serve it, for each of its connections."""
    refusals: tuple[int, ...] = ()
    """Statuses other than 200, 204 that its requests for the stream got."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one POST. `status` 0: none came. `job`: the id in it."""

    key: str
    at: float
    seconds: float
    status: int
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that was killed, crashed or was frozen at `at`: what it had in flight may be paid again."""

    worker: str
    at: float


@dataclass(frozen=True, slots=True)
class Moment:
    """From when the recovery is counted.

    Affected are the jobs that `worker` held then, or all that were accepted and had not ended. `by`: whether
    their next durable event in the journal counts, or that their clients are served again by some gateway.
    `limit`: seconds that it may take.
    """

    at: float
    worker: str | None = None
    by: Literal["journal", "clients"] = "journal"
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so under this one fault. `detail`: what was seen."""

    what: str
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it. `failures`: codes with which jobs may fail here. `dead`: dead letters that are no job's."""

    facts: tuple[Fact, ...]
    calls: tuple[Call, ...]
    traces: tuple[Trace, ...]
    answers: tuple[Answer, ...]
    deaths: tuple[Death, ...] = ()
    moment: Moment | None = None
    connections: Mapping[str, int] = field(default_factory=dict)
    """The most that one process of a role (`gateway`, `worker`) had open to the broker."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Messages left in each queue after everything had ended and stopped."""
    failures: frozenset[str] = frozenset()
    dead: int = 0
    checks: tuple[Check, ...] = ()
