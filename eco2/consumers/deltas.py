"""Live text of all jobs of one process on its way out: gathered, and sent as one message per interval."""

import asyncio

from eco2.delta import DELTA_INTERVAL, DELTA_TOPIC, Delta, encode_deltas
from eco2.ports import PubSub


class DeltaSender:
    def __init__(self, live: PubSub) -> None:
        self._live = live
        self._pieces: dict[tuple[str, str, str], Delta] = {}
        self._arrived = asyncio.Event()

    def add(self, job: str, run: str, stage: str, pos: int, text: str) -> None:
        """The next piece of a stage's text; `pos` is the number of characters before it, 0 = start over."""
        key = (job, run, stage)
        waiting = self._pieces.get(key)
        if waiting is not None and pos == waiting.pos + len(waiting.text):
            self._pieces[key] = Delta(job, run, stage, waiting.pos, waiting.text + text)
        else:
            self._pieces[key] = Delta(job, run, stage, pos, text)
        self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Sends what gathers, every `DELTA_INTERVAL` seconds while there is any, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._send())
            await stop.wait()
            sender.cancel()

    async def _send(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._live.broadcast(DELTA_TOPIC, encode_deltas(list(self._pieces.values())))
            self._pieces.clear()
            await asyncio.sleep(DELTA_INTERVAL)
