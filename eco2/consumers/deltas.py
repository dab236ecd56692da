"""Live text of all jobs of one process on its way out: gathered, and sent as one message per interval."""

import asyncio

from msgspec.structs import replace

from eco2.delta import BRANCHES_INTERVAL, DELTA_INTERVAL, DELTA_TOPIC, Branches, Delta, Live, encode_deltas
from eco2.ports import PubSub


class DeltaSender:
    def __init__(self, live: PubSub) -> None:
        self._live = live
        self._pieces: dict[tuple[str, str, str, str], Delta] = {}
        self._branches: dict[tuple[str, str, str], Branches] = {}
        self._arrived = asyncio.Event()

    def add(self, piece: Delta) -> None:
        """Takes the next piece of a call's text; one at `pos` 0 starts over."""
        key = (piece.job, piece.run, piece.stage, piece.call)
        waiting = self._pieces.get(key)
        if waiting is not None and piece.pos == waiting.pos + len(waiting.text):
            piece = replace(waiting, text=waiting.text + piece.text)
        self._pieces[key] = piece
        self._arrived.set()

    def count(self, branches: Branches) -> None:
        """Takes the newest count of a stage's branches, in the place of one that has not been sent."""
        self._branches[branches.job, branches.run, branches.stage] = branches
        self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Sends what gathers, every `DELTA_INTERVAL` seconds while there is any, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._send())
            await stop.wait()
            sender.cancel()

    async def _send(self) -> None:
        clock, due = asyncio.get_running_loop().time, 0.0
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            branches, now = [], clock()
            if self._branches and now >= due:
                branches, due = list(self._branches.values()), now + BRANCHES_INTERVAL
                self._branches.clear()
            if self._pieces or branches:
                live: list[Live] = [*self._pieces.values(), *branches]
                self._live.broadcast(DELTA_TOPIC, encode_deltas(live))
                self._pieces.clear()
            if self._branches:  # looked at again after the pause
                self._arrived.set()
            await asyncio.sleep(DELTA_INTERVAL)
