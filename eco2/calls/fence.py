"""The last check before a paid call: is this run still the job's current one, as the journal has it now?

A process that was frozen or cut off does not know that its jobs were taken over. So a call begins only after
a barrier of the journal, and so soon after it that nobody can have waited out our silence meanwhile.
"""

import time
from collections.abc import Callable
from typing import Protocol

from eco2.calls.caller import Caller

LEASE = 2.0
"""Seconds after the barrier within which the call must begin; far below any time-out of a silent holder."""


class Ordered(Protocol):
    """A journal, as far as the fence needs it."""

    async def barrier(self) -> None:
        """Returns once this process knows all that was written before the call."""


class Fence:
    """`monotonic`: seconds of a clock of this process alone."""

    def __init__(self, journal: Ordered, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._monotonic = monotonic

    async def check(self, caller: Caller) -> float:
        """Returns while a call of `caller` may begin: when the fence was asked, for `is_fresh`.

        A run that was overtaken ends here.
        """
        while True:
            asked = self._monotonic()
            await self._journal.barrier()
            await caller.interrupt.may_begin()
            if self.is_fresh(asked):
                return asked

    def is_fresh(self, asked: float) -> bool:
        """May a call still begin that passed the fence then?"""
        return self._monotonic() - asked <= LEASE
