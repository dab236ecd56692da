"""Processes that share a budget around one embedded broker, in virtual time, and what the provider sees."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.errors import GrantExpired
from eco2.pacer import Counting, Limits
from eco2.ports import Broker, Express, Grant, GrantRequest, Quota, Rpc, Subscription
from eco2.quota.asker import Asker
from eco2.quota.leader import Leader
from eco2.quota.message import Ask, Granted
from eco2.service import Component, run
from tests.support.provider_windows import Arrival
from tests.support.virtual_clock import VirtualClock
from tests.support.world import until

TOPOLOGY = Topology("t", services=("quota",))


def monotonic() -> float:
    """This process' own clock."""
    return asyncio.get_running_loop().time()


def request(offset: int = 1, *, started: bool = False, tokens: float = 1.0, run: str = "run") -> GrantRequest:
    return GrantRequest(f"job {offset}", run, offset, started, "answer", tokens)


@asynccontextmanager
async def granted(quota: Quota, wanted: GrantRequest) -> AsyncIterator[Grant]:
    """A grant, released at the end of the block as every caller has to."""
    grant = await quota.acquire(wanted)
    try:
        yield grant
    finally:
        grant.release()


@dataclass
class FakeLargestCallStore:
    """A store of sizes that outlives all members. `forgets`: as though nothing had been declared."""

    forgets: bool = False
    times: int = 0
    most: float = 0.0

    async def catch_up(self) -> None:
        await asyncio.sleep(0)

    def largest(self) -> float:
        return 0.0 if self.forgets else self.most

    async def declare(self, tokens: float) -> None:
        await asyncio.sleep(0.002)
        self.times += 1
        self.most = max(self.most, tokens)


class Freezer:
    """An `Rpc` whose process can be frozen: it handles and asks nothing, and does not know.

    `deaf`: requests are lost, and only copies that come the shorter way are answered.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._running = asyncio.Event()
        self._running.set()
        self.asked = 0
        self.deaf = False

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    async def running(self) -> None:
        """Returns at once, or when it thaws."""
        await self._running.wait()

    async def request(self, service: str, body: bytes, timeout: float, *, express: bool = False) -> bytes:
        self.asked += 1
        reply = await self._rpc.request(service, body, timeout, express=express)
        await self._running.wait()
        return reply

    def serve(
        self, service: str, handler: Callable[[bytes], Awaitable[bytes]], express: Express | None = None
    ) -> Subscription:
        async def handle(body: bytes) -> bytes:
            if self.deaf:
                raise ConnectionError("lost, as the test wants it")
            await self._running.wait()
            reply = await handler(body)
            await self._running.wait()
            return reply

        def answer(body: bytes) -> bytes | None:
            return express(body) if express is not None and self._running.is_set() else None

        return self._rpc.serve(service, handle, answer)


@dataclass
class Member:
    """A process of ours: it may lead, and it asks."""

    broker: Broker
    rpc: Freezer
    leader: Leader
    asker: Asker
    disrupt: Callable[[], None]
    """Cuts all its connections; it may connect again."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def quota(self) -> Quota:
        """The port that its calls use."""
        return self.asker

    async def leave(self) -> None:
        """It stops in order."""
        assert self.task is not None
        self.stop.set()
        await self.task

    async def die(self) -> None:
        """As by kill -9: nothing is put in order."""
        assert self.task is not None
        self.disrupt()
        self.task.cancel()
        await asyncio.wait({self.task})


@dataclass
class Quotas:
    """`void`: runs that another has overtaken. `arrived`: the calls that went out, in order."""

    limits: Limits
    chaos: Chaos = CALM
    counting: Counting = "request"
    sizes: FakeLargestCallStore = field(default_factory=FakeLargestCallStore)
    void: set[str] = field(default_factory=set)
    arrived: list[Arrival] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self.chaos, clock=VirtualClock.now)
        self.members: list[Member] = []

    async def join(self, limits: Limits | None = None) -> Member:
        """A new process; the first one leads."""
        broker, disrupt = await self.connect()
        rpc, limits = Freezer(broker), limits or self.limits
        leader = Leader(rpc, broker, "quota", limits, self._current, self.sizes, self.counting, monotonic)

        async def near(ask: Ask) -> Granted | None:
            granted = await leader.near(ask)
            await rpc.running()
            return granted

        asker = Asker(rpc, "quota", f"w{len(self.members)}", limits, near, monotonic)
        member = Member(broker, rpc, leader, asker, disrupt)
        components = [
            Component("broker", broker.run),
            Component("leader", leader.run),
            Component("asker", member.asker.run),
        ]
        member.task = asyncio.get_running_loop().create_task(run(components, member.stop))
        self.members.append(member)
        await until(lambda: broker.ready)
        return member

    def leading(self) -> Member | None:
        """The process that grants at present, if there is one."""
        return next((member for member in self.members if member.leader.leading), None)

    async def connect(self) -> tuple[Broker, Callable[[], None]]:
        """Returns the broker object of a new process, and what cuts all its connections."""
        broker = Embedded(TOPOLOGY, self.server)
        return broker, broker.disrupt

    async def call(self, quota: Quota, wanted: GrantRequest) -> None:
        """Does as a worker: acquires a grant, sends in time, goes on."""
        while True:
            try:
                async with granted(quota, wanted) as grant:
                    grant.confirm()
                    self.arrived.append((monotonic(), wanted.tokens))
                    self.names.append(wanted.job)
                    return
            except GrantExpired:
                continue

    async def end(self) -> None:
        """Stops every member that is still there, in order."""
        for member in self.members:
            member.rpc.thaw()
            if member.task is not None and not member.task.done():
                await member.leave()

    def _current(self, job: str, run: str) -> bool:
        return run not in self.void


@asynccontextmanager
async def quotas(
    limits: Limits, chaos: Chaos = CALM, sizes: FakeLargestCallStore | None = None
) -> AsyncIterator[Quotas]:
    """Every member that is still there stops in order at the end."""
    world = Quotas(limits, chaos, sizes=sizes or FakeLargestCallStore())
    try:
        yield world
    finally:
        await world.end()
