"""The run that a call is made for, as far as a call needs to know it.

The engine implements these protocols.
"""

from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Protocol

from eco2.event import StageChanged
from eco2.job import Job


class Scope(Protocol):
    """Ends a run's work early: its time is over, or it is not the current run any more."""

    async def checkpoint(self, *, begins: bool = False) -> None:
        """Returns if the run may continue; a run that must end is cancelled here.

        `begins`: a call is to begin; there is none while a drain waits for others of the run.
        """

    def waiting(self) -> AbstractContextManager[None]:
        """Marks that a call waits for its turn: a job that has not started waits for `max_wait` at most."""

    def in_call(self) -> AbstractContextManager[None]:
        """Marks a call as in flight for the block; a drain waits for it and for its record."""


class Allowance(Protocol):
    """The USD that a job may cost."""

    def reserve(self, most: Decimal) -> None:
        """Reserves what a call may cost, until `settle`. Raises `BudgetExceeded` if less is left."""

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replaces what was reserved for a call by what it cost."""


class Caller(Protocol):
    """A run of a job. `offset`, `started`, `age`: its rank, see `eco2.ports.GrantRequest`.

    `retries`: how often the job was put off since it last made progress. `allowance`: None without a limit.
    """

    @property
    def id(self) -> str: ...
    @property
    def job(self) -> Job: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def offset(self) -> int: ...
    @property
    def started(self) -> bool: ...
    @property
    def age(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def allowance(self) -> Allowance | None: ...


class Output(Protocol):
    """Shows a call to clients.

    `stage_started`: shows that the call's stage started; None once it was written. `emitted`: characters of
    the text that the present attempt emitted; 0 voids the text of earlier ones.
    """

    stage_started: StageChanged | None
    emitted: int

    def show_started(self, *, granted: bool = False) -> None:
        """Writes `stage_started`, if it was not written. `granted`: a call has waited for its turn."""

    def emit(self, text: str) -> None:
        """Shows the next piece of a streamed text."""
