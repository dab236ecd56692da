"""Ending a run's stages before their time: because of a drain, or because the run is not current any more.

Stages run inside one timeout scope; an interrupt lets it expire at once. So no task is cancelled from
outside, and what has been paid for is saved first: a drain waits for calls in flight and for their stage.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from eco2.call import NoAnswer
from eco2.consumers.outcome import Outcome, Released

DRAINED = Released("drain")


class Interrupt:
    """`outcome`: how the run ends because of the interrupt; None as long as there was none."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._scope: asyncio.Timeout | None = None
        self._draining = False
        self._calls = 0
        self._unsaved = False

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A model call is in flight; once it was paid for, there is something to save."""
        self._calls += 1
        try:
            yield
            self._unsaved = True
        except NoAnswer:
            self._unsaved = True  # the stage may go on from it
            raise
        finally:
            self._calls -= 1

    def saved(self) -> None:
        """The run wrote to the journal what its calls brought."""
        self._unsaved = False

    def scope(self, seconds: float) -> asyncio.Timeout:
        """The time that the run has from now on; `fire` ends it early."""
        self._scope = asyncio.timeout(seconds)
        return self._scope

    def close(self) -> None:
        """The scope is over: from here on nothing interrupts the run."""
        self._scope = None

    def reset(self) -> None:
        """The interrupt has been heeded; another may come. What the run paid for and did not save is void."""
        self.outcome = None
        self._unsaved = False

    def fire(self, outcome: Outcome) -> None:
        """Ends the scope at its next await; the first reason stands."""
        if self._scope is not None and not self._scope.expired():
            self.outcome = self.outcome or outcome
            self._scope.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """Ends the run now, or as soon as what it has paid for is saved."""
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
        return not (self._calls or self._unsaved)
