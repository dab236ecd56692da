"""How the handling of one delivery ends: exactly one of these values. `settle.py` acts on them."""

from dataclasses import dataclass
from typing import Literal

from eco2.job import JSON


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is at its end; `result` is what clients read. `dead`: its order goes to the dead letters.

    `code`: of the error, where there was one. `cause`: why, for operators, where clients read another text.
    """

    status: Literal["completed", "failed"]
    result: JSON
    dead: bool = False
    code: str | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """Given back unfinished: the job goes on elsewhere, behind its last completed stage."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A stage failed in a way that may pass: the job is tried again after `delay` seconds."""

    reason: str
    delay: int


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """The job has its end already: nothing is left to do for this delivery but to keep a `dead` one."""

    reason: str = "the job has ended"
    dead: bool = False


@dataclass(frozen=True, slots=True)
class LostOwnership:
    """Another run holds the job. This delivery is kept: it may be the last one that is alive."""

    reason: str = "another run holds the job"


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The message belongs to the dead letters: it is no order for a job that the journal knows."""

    reason: str


Outcome = Finished | Released | Retry | AlreadyEnded | LostOwnership | DeadLettered
