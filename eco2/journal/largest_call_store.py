"""Stores the size of a budget's largest call in the journal, so that it outlives all workers."""

import asyncio
from contextlib import suppress

from eco2.errors import BrokerUnavailable
from eco2.event import LargeCallDeclared
from eco2.journal.journal import Journal
from eco2.journal.largest_calls import DECLARATION_TTL
from eco2.ports import Clock

RENEWAL_INTERVAL = 60.0
"""Seconds after which a size is declared again, if another call needs it."""


class LargestCallStore:
    """The largest call of one budget. `clock`: Unix seconds."""

    def __init__(self, journal: Journal, budget: str, clock: Clock) -> None:
        self._journal = journal
        self._budget = budget
        self._clock = clock
        self._declaring = asyncio.Lock()

    async def catch_up(self) -> None:
        """Waits until `largest` includes all that was declared before.

        If the journal is replaced meanwhile, the barrier of the next one counts.
        """
        passed = False
        while not passed:
            with suppress(BrokerUnavailable):
                await self._journal.barrier()
                passed = True

    def largest(self) -> float:
        """Returns the tokens of the largest call that may have been granted lately; 0.0 if none was large."""
        return self._since(DECLARATION_TTL)

    async def declare(self, tokens: float) -> None:
        """Waits until every later leader will know that a call of so many tokens may be granted."""
        async with self._declaring:
            if self._since(RENEWAL_INTERVAL) < tokens:
                event = LargeCallDeclared(ts=self._clock(), budget=self._budget, tokens=tokens)
                await self._journal.put(event)
                await self.catch_up()

    def _since(self, seconds: float) -> float:
        return self._journal.view.largest_calls.largest(self._budget, self._clock() - seconds)
