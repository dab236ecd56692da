"""Limits the asks of one process that are on their way at once: a congestion window for grants.

A grant lives for a fraction of a second. Where a process sends more asks at once than it, the broker and the
leader handle in that time, every grant comes late, goes back and is asked for again, for ever. So the window
halves when a grant was late, and grows by one a round trip while grants come in half of their time.

The best asks go first, so the leader always has the one that is next in turn. The price: a burst of more
than `MAX_ASKS` takes more than one round trip, and after congestion the window opens slowly.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

MAX_ASKS = 32
"""Asks of one process on their way at once, at most: an idle machine brings more in a grant's life."""

Rank = tuple[bool, int]
"""Of a claim: the lowest goes first."""


@dataclass(frozen=True, slots=True)
class Window:
    """The asks that may be on their way. `halved`: when it was made smaller last."""

    size: float = MAX_ASKS
    halved: float = float("-inf")

    def arrived(self, asked: float, now: float, transit: float, life: float) -> "Window":
        """A grant came that was on its way for `transit` seconds and is good for `life`.

        Asks sent before the last halving show nothing about the size since: all of a burst are late together.
        """
        if transit >= life:
            return self.lost(asked, now)
        grown = self.size + 1.0 / self.size if transit < life / 2 else self.size
        return Window(min(MAX_ASKS, grown), self.halved)

    def lost(self, asked: float, now: float) -> "Window":
        """No reply came, or it came too late."""
        return self if asked < self.halved else Window(max(1.0, self.size / 2), now)


class Line:
    """Lets the best asks of one process out, as many at once as its window holds.

    One that goes before any that is out never waits: else the leader would grant a worse one of another
    process before it.
    """

    def __init__(self) -> None:
        self.window = Window()
        self._out: list[Rank] = []
        self._waiting: list[tuple[Rank, int, asyncio.Future[None]]] = []
        self._number = count()

    @asynccontextmanager
    async def turn(self, rank: Rank) -> AsyncIterator[None]:
        """Waits for a place of the window and holds it for the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._number), turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            # A caller cancelled just after its turn came holds a place, too.
            if not turn.cancelled():
                self._out.remove(rank)
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            rank, _, turn = self._waiting[0]
            if not turn.cancelled():
                if len(self._out) >= int(self.window.size) and rank >= max(self._out):
                    return
                self._out.append(rank)
                turn.set_result(None)
            heapq.heappop(self._waiting)
