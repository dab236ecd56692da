"""Measures the lag of the event loop: a sleeping task wakes late when something blocks the loop."""

import asyncio
import time

from eco2.metrics.metrics import Metrics

PERIOD = 0.25
"""Seconds between two measurements; a longer block is always seen."""


class LoopWatch:
    """A component of every process. `period`: seconds between two measurements."""

    def __init__(self, metrics: Metrics, period: float = PERIOD) -> None:
        self._metrics = metrics
        self._period = period

    async def run(self, stop: asyncio.Event) -> None:
        """Measures until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await stop.wait()
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + self._period
            await asyncio.sleep(self._period)
            self._metrics.loop_late(max(0.0, time.monotonic() - due))
