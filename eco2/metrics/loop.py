"""How late the event loop is: whoever sleeps here wakes later than asked when something holds the loop."""

import asyncio
import time

from eco2.metrics.metrics import Metrics

PERIOD = 0.25
"""Seconds; a hold-up of a longer time is seen for certain."""


class LoopWatch:
    """A component of every process. `period`: seconds between two looks."""

    def __init__(self, metrics: Metrics, period: float = PERIOD) -> None:
        self._metrics = metrics
        self._period = period

    async def run(self, stop: asyncio.Event) -> None:
        """Sleeps and looks at the clock until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await stop.wait()
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + self._period
            await asyncio.sleep(self._period)
            self._metrics.loop_late(max(0.0, time.monotonic() - due))
