"""The embedded broker in unit tests: processes that run for the length of a block, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, PublishUncertain
from eco2.testing.clock import VirtualClock

TOPOLOGY = Topology("t", pipelines=("work",))
QUEUE = "jobs.work"


def only(seed: int = 1, **rates: Any) -> Chaos:
    """Chaos with these rates and no other; late things are up to a second late."""
    return replace(CALM, seed=seed, delay=1.0, **rates)


def server(chaos: Chaos | None = None) -> Server:
    """A server in virtual time, calm without `chaos`."""
    return Server(clock=VirtualClock.now) if chaos is None else Server(chaos, clock=VirtualClock.now)


@asynccontextmanager
async def running(*brokers: Embedded) -> AsyncIterator[None]:
    """Runs the brokers, ready from the first line of the block on, and stops them at its end."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for broker in brokers:
            tasks.create_task(broker.run(stop))
        try:
            await quiet()
            yield
        finally:
            stop.set()


async def quiet() -> None:
    """Returns when everything late has happened: a minute of virtual time."""
    await asyncio.sleep(60)


async def surely(send: Callable[[], Awaitable[None]]) -> None:
    """Sends again until it is confirmed, as the engine does."""
    while True:
        try:
            return await send()
        except (BrokerUnavailable, PublishUncertain):
            await asyncio.sleep(0.1)
