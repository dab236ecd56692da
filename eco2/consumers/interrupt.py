"""Ending a run's stages before their time: because of a drain, or because the run is not current any more.

Stages run inside one timeout scope; an interrupt lets it expire at once. So no task is cancelled from
outside, and what has been paid for is recorded first: a drain waits for calls in flight, not for their stage.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from eco2.call import PaidCallFailed
from eco2.consumers.outcome import Outcome, Released

DRAINED = Released("drain")


class Interrupt:
    """`outcome`: how the run ends because of the interrupt; None as long as there was none."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._scope: asyncio.Timeout | None = None
        self._draining = False
        self._calls = 0
        self._unrecorded = 0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A model call is in flight; once it was paid for, there is a reply to record."""
        self._calls += 1
        try:
            yield
            self._unrecorded += 1
        except PaidCallFailed:
            self._unrecorded += 1
            raise
        finally:
            self._calls -= 1

    def recorded(self) -> None:
        """The reply of one paid call was put into the journal; a drain need not wait for it any more."""
        self._unrecorded -= 1

    def scope(self, seconds: float) -> asyncio.Timeout:
        """The time that the run has from now on; `fire` ends it early."""
        self._scope = asyncio.timeout(seconds)
        return self._scope

    def close(self) -> None:
        """The scope is over: from here on nothing interrupts the run."""
        self._scope = None

    def reset(self) -> None:
        """The interrupt has been heeded; another may come."""
        self.outcome = None
        self._unrecorded = 0

    def fire(self, outcome: Outcome) -> None:
        """Ends the scope at its next await; the first reason stands."""
        if self._scope is not None and not self._scope.expired():
            self.outcome = self.outcome or outcome
            self._scope.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """Ends the run now, or before its next call once the replies that it paid for are recorded."""
        self._draining = True
        if self._free:
            self.fire(DRAINED)

    async def may_begin(self) -> None:
        """Returns if the run may go on and begin something; a run that must end, ends here.

        Also for a stage that cleans up: once the scope is over, nothing is begun any more. And where the time
        was over before the scope began: what never waits would not notice.
        """
        if self._scope is not None and self._scope.expired():
            raise asyncio.CancelledError
        if self.outcome is not None or (self._draining and self._free):
            self.fire(DRAINED)
        elif not self._late:
            return
        await asyncio.get_running_loop().create_future()  # the scope ends this wait
        raise AssertionError("an interrupted run went on")

    @property
    def _late(self) -> bool:
        until = None if self._scope is None else self._scope.when()
        return until is not None and until <= asyncio.get_running_loop().time()

    @property
    def _free(self) -> bool:
        return not (self._calls or self._unrecorded)
