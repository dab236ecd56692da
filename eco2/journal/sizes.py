"""How large the calls of one budget are, for its leader: what must outlive all workers is in the journal."""

import asyncio
from contextlib import suppress

from eco2.errors import BrokerUnavailable
from eco2.event import Large
from eco2.journal.journal import Journal
from eco2.journal.large import LIFE
from eco2.ports import Clock

RENEW = 60.0
"""Seconds for which it is enough to have said it once."""


class Sizes:
    """`budget`: which. `clock`: Unix seconds."""

    def __init__(self, journal: Journal, budget: str, clock: Clock) -> None:
        self._journal = journal
        self._budget = budget
        self._clock = clock
        self._saying = asyncio.Lock()

    async def catch_up(self) -> None:
        """Returns once `largest` knows all that was said before."""
        await self._barrier()

    def largest(self) -> float:
        """Tokens of the largest call that may have been granted lately; 0.0: none was large."""
        return self._said(LIFE)

    async def say(self, tokens: float) -> None:
        """Returns once whoever leads next, whatever crashes, will know that such a call may be granted."""
        async with self._saying:
            if self._said(RENEW) < tokens:
                await self._journal.put(Large(ts=self._clock(), budget=self._budget, tokens=tokens))
                await self._barrier()

    async def _barrier(self) -> None:
        """Passes a barrier. Where the journal is replaced meanwhile, what counts is the next one."""
        passed = False
        while not passed:
            with suppress(BrokerUnavailable):
                await self._journal.barrier()
                passed = True

    def _said(self, seconds: float) -> float:
        return self._journal.view.large.largest(self._budget, self._clock() - seconds)
