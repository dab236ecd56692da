"""The last look before a paid call: is this run still the job's current one, as the journal has it now?

A process that was frozen or cut off does not know that its jobs were taken over. So a call begins only behind
a barrier of the journal, and so soon after it that nobody can have waited out our silence meanwhile.
"""

import time
from collections.abc import Callable

from eco2.consumers.run import Run
from eco2.journal.journal import Journal

LEASE = 2.0
"""Seconds after the barrier within which the call must begin; far below any time-out of a silent holder."""


class Fence:
    """`monotonic`: seconds of a clock of this process alone."""

    def __init__(self, journal: Journal, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._monotonic = monotonic

    async def passed(self, run: Run) -> float:
        """Returns while a call of `run` may begin: when the fence was asked, for `holds`. A run that was
        overtaken ends here."""
        while True:
            asked = self._monotonic()
            await self._journal.barrier()
            await run.interrupt.may_begin()
            if self.holds(asked):
                return asked

    def holds(self, asked: float) -> bool:
        """May a call still begin that passed the fence then?"""
        return self._monotonic() - asked <= LEASE
