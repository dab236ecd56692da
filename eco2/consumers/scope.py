"""Ends the work on a job before its time, for a reason.

The reason is a drain, a newer run, the job's end, its deadline, or an output that the broker refused.

The block of a scope is ended as by `asyncio.timeout`, so no task is cancelled from outside. A drain waits for
calls in flight and until their replies are recorded, but not for the stage around them.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from eco2.call import PaidCallFailed
from eco2.consumers.outcome import AlreadyEnded, LostOwnership, Released
from eco2.errors import TooLarge


@dataclass(frozen=True, slots=True)
class DeadlineExceeded:
    """The job's time is over."""


Reason = Released | AlreadyEnded | LostOwnership | DeadlineExceeded | TooLarge
DRAINED = Released("drain")


class CancelScope:
    """An `async with` block of at most `seconds`, entered once.

    `reason`: why the block was cancelled, None if it was not. Being cancelled, it ends without an exception,
    unless the block raises another one while it cleans up. `draining`: the worker stops already.
    """

    def __init__(self, seconds: float, *, draining: bool = False) -> None:
        self.reason: Reason | None = None
        self._timeout = asyncio.timeout(seconds)
        self._active = False
        self._draining = draining
        self._calls = 0
        self._unsaved = 0

    async def __aenter__(self) -> "CancelScope":
        await self._timeout.__aenter__()
        self._active = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._active = False
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            self.reason = self.reason or DeadlineExceeded()
            return True
        return False

    def cancel(self, reason: Reason) -> None:
        """Ends the block at its next await. The first reason stands; without effect outside of the block."""
        if self._active and not self._timeout.expired():
            self.reason = self.reason or reason
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """Cancels the block now, or before its next call once the replies that it paid for are recorded."""
        self._draining = True
        if not (self._calls or self._unsaved):
            self.cancel(DRAINED)

    async def checkpoint(self) -> None:
        """Returns if the block may continue and begin something; a block that must end, ends here.

        It also ends a clean-up that would begin something after the scope is over.
        """
        if not self._active or self._timeout.expired():
            raise asyncio.CancelledError
        if self._draining:
            self.drain()
        until = self._timeout.when()
        # A deadline that passed before the block began would not end a block that never awaits.
        if self.reason is None and (until is None or until > asyncio.get_running_loop().time()):
            return
        await asyncio.get_running_loop().create_future()  # the time-out ends this wait

    @contextmanager
    def in_call(self) -> Iterator[None]:
        """Marks a model call as in flight; if it was paid, its reply is unsaved until `mark_saved`."""
        self._calls += 1
        try:
            yield
            self._unsaved += 1
        except PaidCallFailed:
            self._unsaved += 1
            raise
        finally:
            self._calls -= 1

    def mark_saved(self) -> None:
        """Notes that the reply of one paid call was put into the journal."""
        self._unsaved -= 1
