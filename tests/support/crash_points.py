"""A process that vanishes at one of its durable writes: as by `kill -9`, without a drain or a last event.

Durable is what the broker keeps: what is appended, stored, published, and every settlement. The writes are
counted as they come, so a test goes through all of them without knowing which there are.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from eco2.errors import RetryableError
from eco2.ports import Delivery
from eco2.service import Component, run
from tests.support.world import Process

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Point:
    """The `write`-th durable write (from 0), before it has an effect or after, still without its confirm."""

    write: int
    side: Side


class CrashingProcess:
    """Lets a process vanish at `point`; with None it lives, and only its writes are noted."""

    def __init__(self, process: Process, components: list[Component], point: Point | None) -> None:
        self.process = process
        self.writes: list[str] = []
        self.gone = asyncio.Event()
        self._components = components
        self._point = point
        self._life: asyncio.Task[None] | None = None
        broker: Any = process.broker
        for name in ("append", "append_order", "publish"):
            setattr(broker, name, partial(self._write, name, getattr(broker, name)))
        broker.consume = partial(self._consume, broker.consume)

    async def live(self) -> None:
        """Runs the process until it has stopped or vanished."""
        self._life = asyncio.get_running_loop().create_task(run(self._components, self.process.stop))
        await asyncio.wait({self._life})
        if not self.gone.is_set():
            await self._life

    async def during(self, work: Awaitable[object]) -> None:
        """Does `work` inside the process: it ends with it."""
        doing = asyncio.ensure_future(work)
        going = asyncio.ensure_future(self.gone.wait())
        await asyncio.wait({doing, going}, return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        doing.cancel()
        await asyncio.wait({doing, going})
        if not self.gone.is_set():
            await doing

    async def _write(self, name: str, write: Callable[..., Awaitable[None]], *args: Any) -> None:
        if self.gone.is_set():
            await _never()
        self.writes.append(name)
        if self._point is None or self._point.write != len(self.writes) - 1:
            await write(*args)
            return
        if self._point.side == "after":
            with suppress(RetryableError):  # whatever came of it, the process does not learn of it any more
                await write(*args)
        self._vanish()
        await _never()

    def _vanish(self) -> None:
        """The connection closes at once, and nothing of the process runs on."""
        self.gone.set()
        self.process.broker._disconnect()  # type: ignore[attr-defined]
        if self._life is not None:
            self._life.cancel()

    def _consume(
        self, consume: Callable[..., Any], queue: str, prefetch: int, take: Callable[[Delivery], None]
    ) -> object:
        return consume(queue, prefetch, lambda delivery: take(_Counted(delivery, self._write)))


class _Counted:
    """A delivery whose settlement is one of the writes."""

    def __init__(self, delivery: Delivery, write: Callable[..., Awaitable[None]]) -> None:
        self._delivery = delivery
        self._write = write

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._delivery, name)
        return partial(self._write, name, found) if name in ("ack", "reject", "requeue") else found


async def _never() -> None:
    await asyncio.get_running_loop().create_future()
