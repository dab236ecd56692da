"""The implementations of the quota port, for its suite: `conforms` runs a test on those that it names.

To add an implementation, write an `Installation` of it and enter it in `OPEN`; the tests stay as they are.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from eco2.broker.embedded import CALM, Server
from eco2.broker.embedded import Embedded as BrokerInMemory
from eco2.broker.rabbitmq import RabbitMQ
from eco2.broker.topology import Topology
from eco2.journal.journal import Journal
from eco2.pacer import Counting, Limits
from eco2.ports import Broker, Quota
from eco2.quota.member import Member
from eco2.service import Component, run
from tests.conformance.rabbitmq_node import delete
from tests.support.proxy import Proxy
from tests.support.quotas import Quotas, monotonic
from tests.support.recorded_quota import RecordedQuota
from tests.support.virtual_clock import VirtualClock, run_virtual

TIMELESS = ("request/reply, embedded", "journal, embedded")
"""Those in virtual time: no grant expires on its way because the machine is busy."""
SHARED = (*TIMELESS, "request/reply, RabbitMQ")
EVERY = (*SHARED, "recorded")
TIME_OUT = 180.0
"""Seconds for one test, in real or in virtual time more than the longest may take."""


class Process(Protocol):
    """One of the processes that share the budget."""

    @property
    def quota(self) -> Quota: ...

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


class Embedded(Quotas):
    """Request/reply over the embedded broker, in virtual time."""

    span = 240.0
    least_used = 0.95


@asynccontextmanager
async def embedded(
    _: pytest.FixtureRequest, limits: Limits, counting: Counting
) -> AsyncIterator[Installation]:
    world = Embedded(limits, counting=counting)
    try:
        yield world
    finally:
        await world.end()


@dataclass
class OnRabbitMQ(Quotas):
    """Request/reply over RabbitMQ, in real time; each process has a proxy of its own to be cut off at."""

    url: str = ""
    topology: Topology = field(default_factory=lambda: Topology(""))
    proxies: AsyncExitStack = field(default_factory=AsyncExitStack)
    span = 66.0
    least_used = 0.0  # on a busy machine grants expire before they come

    async def connect(self) -> tuple[Broker, Callable[[], None]]:
        proxy = await self.proxies.enter_async_context(Proxy.to(self.url))
        return RabbitMQ(proxy.url, self.topology), proxy.cut


@asynccontextmanager
async def on_rabbitmq(
    fixtures: pytest.FixtureRequest, limits: Limits, counting: Counting
) -> AsyncIterator[Installation]:
    url = fixtures.getfixturevalue("amqp_url")
    topology = Topology(fixtures.getfixturevalue("prefix"), services=("quota",))
    async with AsyncExitStack() as proxies:
        world = OnRabbitMQ(limits, counting=counting, url=url, topology=topology, proxies=proxies)
        try:
            yield world
        finally:
            await world.end()
    await delete(url, topology)


@dataclass
class JournalProcess:
    """A process whose share of the budget is read from its journal."""

    broker: Broker
    member: Member
    disrupt: Callable[[], None]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def quota(self) -> Quota:
        return self.member

    async def leave(self) -> None:
        assert self.task is not None
        self.stop.set()
        await self.task

    async def die(self) -> None:
        assert self.task is not None
        self.disrupt()
        self.task.cancel()
        await asyncio.wait({self.task})


class OnJournal:
    """Records of the journal, over the embedded broker, in virtual time."""

    span = 240.0
    least_used = 0.95

    def __init__(self, limits: Limits, counting: Counting) -> None:
        self.void: set[str] = set()
        self._limits = limits
        self._counting = counting
        self._server = Server(CALM, clock=VirtualClock.now)
        self._topology = Topology("t")
        self._processes: list[JournalProcess] = []

    async def join(self) -> JournalProcess:
        broker = BrokerInMemory(self._topology, self._server)
        journal = Journal(broker, 900.0, VirtualClock.now, monotonic=monotonic)
        member = Member("openai", journal, broker, self._limits, self._current, self._counting, monotonic)
        journal.view.join(member)
        process = JournalProcess(broker, member, broker.disrupt)
        parts = [
            Component("broker", broker.run),
            Component("journal", journal.run),
            Component("budget", member.run),
        ]
        process.task = asyncio.get_running_loop().create_task(run(parts, process.stop))
        self._processes.append(process)
        await journal.filled.wait()
        return process

    def leading(self) -> JournalProcess | None:
        alive = [each for each in self._processes if each.task is not None and not each.task.done()]
        return next((each for each in alive if each.member.budget.leading), None)

    async def end(self) -> None:
        for process in self._processes:
            if process.task is not None and not process.task.done():
                await process.leave()

    def _current(self, job: str, run: str) -> bool:
        return run not in self.void


@asynccontextmanager
async def on_journal(
    _: pytest.FixtureRequest, limits: Limits, counting: Counting
) -> AsyncIterator[Installation]:
    world = OnJournal(limits, counting)
    try:
        yield world
    finally:
        await world.end()


class Alone:
    """A process with a recorded quota: it grants at once, and shares nothing."""

    def __init__(self) -> None:
        self.quota = RecordedQuota()

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
    "journal, embedded": on_journal,
    "request/reply, embedded": embedded,
    "request/reply, RabbitMQ": on_rabbitmq,
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

            if implementation == "request/reply, RabbitMQ":
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
