"""Ends the work on a job before its time, for a reason.

The reason is a drain, a newer run, the job's end, the end of its time, or an output that the broker refused.

The block of a scope is ended as by `asyncio.timeout`, so no task is cancelled from outside. A drain waits for
calls in flight and until their replies are recorded, but not for the stage around them.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from eco2.call import PaidCallFailed
from eco2.consumers.outcome import AlreadyEnded, LostOwnership, Released
from eco2.errors import TooLarge

TimeCode = Literal["EXPIRED", "TIMEOUT"]
"""The job's `max_wait`, or its `timeout`, is over."""


@dataclass(frozen=True, slots=True)
class DeadlineExceeded:
    """The job's time is over."""

    code: TimeCode


Reason = Released | AlreadyEnded | LostOwnership | DeadlineExceeded | TooLarge
DRAINED = Released("drain")


class CancelScope:
    """An `async with` block of at most `seconds`, entered once; after these it ends with `code`.

    `max_wait`: seconds after which it ends as `EXPIRED` while it waits for a call's turn; this wait does not
    count in `seconds`. None: the job has started, or has no run here; so it is from `limit` on.
    `reason`: why the block was cancelled, None if it was not. Being cancelled, it ends without an exception,
    unless the block raises another one while it cleans up. `draining`: the worker stops already.
    """

    def __init__(
        self,
        seconds: float,
        code: TimeCode = "TIMEOUT",
        *,
        max_wait: float | None = None,
        draining: bool = False,
    ) -> None:
        self.reason: Reason | None = None
        now = asyncio.get_running_loop().time()
        self._end = now + seconds, DeadlineExceeded(code)
        self._expiry = None if max_wait is None else (now + max_wait, DeadlineExceeded("EXPIRED"))
        self._next = self._end
        self._timeout = asyncio.timeout_at(self._end[0])
        self._active = False
        self._draining = draining
        self._waits = 0
        self._waits_since = 0.0
        self._calls = 0
        self._unsaved = 0
        self._held = False

    async def __aenter__(self) -> "CancelScope":
        await self._timeout.__aenter__()
        self._active = True
        return self

    @property
    def remaining(self) -> float:
        """Seconds until the block ends if it does not wait for a call's turn."""
        return self._end[0] - asyncio.get_running_loop().time()

    @property
    def remaining_wait(self) -> float | None:
        """Seconds until the job expires; None once it has started."""
        return None if self._expiry is None else self._expiry[0] - asyncio.get_running_loop().time()

    def limit(self, seconds: float, code: TimeCode = "TIMEOUT") -> None:
        """Ends the block after `seconds` from now, whether it waits or not."""
        self._end = asyncio.get_running_loop().time() + seconds, DeadlineExceeded(code)
        self._expiry = None
        self._reschedule()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks that a call waits for its turn: until the job has started, `max_wait` bounds the block."""
        clock = asyncio.get_running_loop().time
        if not self._waits:
            self._waits_since = clock()
        self._waits += 1
        self._reschedule()
        try:
            yield
        finally:
            self._waits -= 1
            if self._expiry is not None and not self._waits:
                self._end = self._end[0] + clock() - self._waits_since, self._end[1]
            self._reschedule()

    def _reschedule(self) -> None:
        if self.reason is None and not self._timeout.expired():
            self._next = self._expiry if self._waits and self._expiry is not None else self._end
            if self._active:
                self._timeout.reschedule(self._next[0])

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
            self.reason = self.reason or self._next[1]
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

    async def checkpoint(self, *, begins: bool = False) -> None:
        """Returns if the block may continue; a block that must end, ends here.

        It also ends a clean-up that would begin something after the scope is over. `begins`: a call or a step
        follows that is none of those in flight; in a drain it waits here for these, and for the end.
        """
        if not self._active or self._timeout.expired():
            raise asyncio.CancelledError
        if self._draining:
            self.drain()
        until = self._timeout.when()
        # A deadline that passed before the block began would not end a block that never awaits.
        if self.reason is None and (until is None or until > asyncio.get_running_loop().time()):
            if not (begins and self._draining):
                return
            self._held = True  # else branches side by side would begin calls for as long as there are any
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
            self._end_drain()

    def mark_saved(self) -> None:
        """Notes that the reply of one paid call was put into the journal."""
        self._unsaved -= 1
        self._end_drain()

    def _end_drain(self) -> None:
        """Ends a block that drains once its last call is over, if others wait to begin."""
        if self._draining and (self._held or self._waits):
            self.drain()
