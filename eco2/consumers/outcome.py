"""The outcomes of one delivery: exactly one of these values. `settle.py` acts on them.

`label`: the outcome in the metrics and the log.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    reason: ClassVar[None] = None

    @property
    def label(self) -> str:
        return self.status


@dataclass(frozen=True, slots=True)
class Released:
    """Given back unfinished: the job resumes elsewhere after its last completed stage."""

    label: ClassVar[str] = "released"
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A stage failed in a way that may pass: the job is tried again after `delay` seconds.

    `stage`: "" where the journal or the broker failed.
    """

    label: ClassVar[str] = "putoff"
    reason: str
    delay: int
    stage: str = ""


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """The job has ended already. `dead`: its order belongs to the dead letters."""

    label: ClassVar[str] = "ended"
    reason: str = "the job has ended"
    dead: bool = False


@dataclass(frozen=True, slots=True)
class LostOwnership:
    """Another run holds the job. The delivery is not settled: it may be the only unacknowledged copy."""

    label: ClassVar[str] = "overtaken"
    reason: str = "another run holds the job"


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The message goes to the dead letters: it is no order for a job that the journal knows."""

    label: ClassVar[str] = "dead"
    reason: str


Outcome = Finished | Released | Retry | AlreadyEnded | LostOwnership | DeadLettered
