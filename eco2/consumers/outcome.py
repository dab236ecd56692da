"""How the handling of one delivery ends: exactly one of these values. `settle.py` acts on them."""

from dataclasses import dataclass
from typing import Literal

from eco2.job import JSON


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is at its end; `result` is what clients read."""

    status: Literal["completed", "failed"]
    result: JSON


@dataclass(frozen=True, slots=True)
class Released:
    """Given back unfinished: the job goes on elsewhere, behind its last completed stage."""

    reason: str


@dataclass(frozen=True, slots=True)
class Void:
    """Nothing is left to do for this delivery: the job has ended, or another run holds it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The message belongs to the dead letters: it is no order for a job that the journal knows."""

    reason: str


Outcome = Finished | Released | Void | Dead
