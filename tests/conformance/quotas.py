"""The implementations of the quota port, for its suite: `conforms` runs a test on those that it names.

To add an implementation, write an `Installation` of it and enter it in `OPEN`; the tests stay as they are.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from eco2.broker.rabbitmq import RabbitMQ
from eco2.broker.topology import Topology
from eco2.pacer import Counting, Limits
from eco2.ports import Broker, Clock, Quota
from eco2.testing.clock import run_virtual
from tests.conformance.rabbitmq_node import delete
from tests.support.proxy import Proxy
from tests.support.quotas import Fleet, InMemory
from tests.support.recorded_quota import RecordedQuota

TIMELESS = ("journal, embedded",)
"""Those in virtual time: no grant expires on its way because the machine is busy."""
SHARED = (*TIMELESS, "journal, RabbitMQ")
EVERY = (*SHARED, "recorded")
TIME_OUT = 180.0
"""Seconds for one test, in real or in virtual time more than the longest may take."""


class Process(Protocol):
    """One of the processes that share the budget."""

    @property
    def quota(self) -> Quota: ...

    @property
    def cut(self) -> Callable[[], None]:
        """Ends all its connections; it may connect again."""

    async def leave(self) -> None:
        """Stops it in order."""

    async def die(self) -> None:
        """Ends it as `kill -9` does: nothing is put in order, nothing more is sent."""


class Installation(Protocol):
    """Processes that share one budget. `void`: runs that another run has replaced, for all of them."""

    void: set[str]

    @property
    def span(self) -> float:
        """Seconds for a test of whole windows; more than 60."""

    @property
    def least_used(self) -> float:
        """The share of the budget that has to be used under load."""

    async def join(self) -> Process:
        """A new process; returns when it can acquire."""

    def leading(self) -> Process | None:
        """The process whose death the others would notice, if there is one."""


Scenario = Callable[[Any], Coroutine[Any, Any, None]]
Open = Callable[[pytest.FixtureRequest, Limits, Counting], AbstractAsyncContextManager[Installation]]


class Embedded(InMemory):
    """Records of the journal, over the embedded broker, in virtual time."""

    span = 240.0
    least_used = 0.95


@asynccontextmanager
async def embedded(
    _: pytest.FixtureRequest, limits: Limits, counting: Counting
) -> AsyncIterator[Installation]:
    world = Embedded(limits, counting)
    try:
        yield world
    finally:
        await world.end()


@dataclass
class OnRabbitMQ(Fleet):
    """Records of the journal, over RabbitMQ, in real time; each process has a proxy of its own to be cut off
    at."""

    url: str = ""
    topology: Topology = field(default_factory=lambda: Topology(""))
    proxies: AsyncExitStack = field(default_factory=AsyncExitStack)
    clock: Clock = time.time
    span = 66.0
    least_used = 0.9

    async def connect(self) -> tuple[Broker, Callable[[], None]]:
        proxy = await self.proxies.enter_async_context(Proxy.to(self.url))
        return RabbitMQ(proxy.url, self.topology), proxy.cut


@asynccontextmanager
async def on_rabbitmq(
    fixtures: pytest.FixtureRequest, limits: Limits, counting: Counting
) -> AsyncIterator[Installation]:
    url = fixtures.getfixturevalue("amqp_url")
    topology = Topology(fixtures.getfixturevalue("prefix"))
    async with AsyncExitStack() as proxies:
        world = OnRabbitMQ(limits, counting, url=url, topology=topology, proxies=proxies)
        try:
            yield world
        finally:
            await world.end()
    await delete(url, topology)


class Alone:
    """A process with a recorded quota: it grants at once, and shares nothing."""

    def __init__(self) -> None:
        self.quota = RecordedQuota()

    def cut(self) -> None:
        """It has no connections."""

    async def leave(self) -> None:
        """It does nothing that could be stopped."""

    async def die(self) -> None:
        """Nothing else notices."""


class Recorded:
    """The quota of the engine's tests, as far as it has to behave like the others."""

    span = 61.0
    least_used = 1.0

    def __init__(self) -> None:
        self.void: set[str] = set()

    async def join(self) -> Alone:
        return Alone()

    def leading(self) -> None:
        """Nobody leads."""


@asynccontextmanager
async def recorded(_: pytest.FixtureRequest, __: Limits, ___: Counting) -> AsyncIterator[Installation]:
    yield Recorded()


OPEN: dict[str, Open] = {
    "journal, embedded": embedded,
    "journal, RabbitMQ": on_rabbitmq,
    "recorded": recorded,
}


def conforms(
    limits: Limits, implementations: tuple[str, ...] = SHARED, counting: Counting = "request"
) -> Callable[[Scenario], Callable[[pytest.FixtureRequest, str], None]]:
    """Runs an async test, given an `Installation` with a budget of `limits`, on each implementation."""

    def decorate(scenario: Scenario) -> Callable[[pytest.FixtureRequest, str], None]:
        @pytest.mark.timeout(4 * TIME_OUT)  # RabbitMQ starts in it, too
        @pytest.mark.parametrize("implementation", implementations)
        def test(request: pytest.FixtureRequest, implementation: str) -> None:
            async def scene() -> None:
                async with (
                    asyncio.timeout(3 * TIME_OUT),
                    OPEN[implementation](request, limits, counting) as installation,
                    asyncio.timeout(2 * TIME_OUT),
                ):
                    await scenario(installation)

            if implementation == "journal, RabbitMQ":
                asyncio.run(scene())
            else:
                run_virtual(scene())

        test.__name__, test.__doc__, test.__module__ = (
            scenario.__name__,
            scenario.__doc__,
            scenario.__module__,
        )
        return test

    return decorate
