"""The run that a call is made for, as far as a call needs to know it.

The engine implements these protocols.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from eco2.event import StageChanged
from eco2.job import Job


class Scope(Protocol):
    """Ends a run's work early: its time is over, or it is not the current run any more."""

    async def checkpoint(self) -> None:
        """Returns if the run may continue; a run that must end is cancelled here."""

    def waiting(self) -> AbstractContextManager[None]:
        """Marks that a call waits for its turn: a job that has not started waits for `max_wait` at most."""

    def in_call(self) -> AbstractContextManager[None]:
        """Marks a call as in flight for the block; a drain waits for it and for its record."""


class Caller(Protocol):
    """A run of a job. `offset`, `started`, `age`: its rank, see `eco2.ports.GrantRequest`.

    `retries`: how often the job was put off since it last made progress.
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
