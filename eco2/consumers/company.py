"""Which jobs run beside each other in one process: all of them, but a suspect runs alone.

When a process crashes, all its jobs look alike. A job that was there too often gets the process for itself
until it has got on: if that crashes as well, the job did it; if not, it was innocent. So no neighbour is ever
blamed.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Company:
    """One per process. A suspect that waits keeps others from beginning, so that its turn comes."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._suspects = 0
        self._changed = asyncio.Event()

    async def turn(self, alone: bool) -> None:
        """Returns when the job may run: with `alone` once nobody else does. `seat` must follow at once."""
        self._suspects += alone
        try:
            while not self._free(alone):
                await self._changed.wait()
        finally:
            self._suspects -= alone
            self._wake()

    @contextmanager
    def seat(self, alone: bool) -> Iterator[Callable[[], None]]:
        """The job runs while the block does. It gets what to call once it has got on: then nobody blames it
        any more, and others may begin beside it."""
        self._inside += 1
        self._alone = alone
        try:
            yield self._shared
        finally:
            self._inside -= 1
            self._shared()

    def _shared(self) -> None:
        self._alone = False
        self._wake()

    def _free(self, alone: bool) -> bool:
        return self._inside == 0 if alone else not (self._alone or self._suspects)

    def _wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()
