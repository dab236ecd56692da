"""Processes that share a budget by the journal, and what the provider sees of them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.embedded.subscription import EmbeddedSubscription, EmbeddedTail
from eco2.broker.topology import Topology
from eco2.errors import GrantExpired
from eco2.event import BudgetEvent, decode_message
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.pacer import Counting, Limits
from eco2.ports import Broker, Clock, Grant, GrantRequest, Quota, Record, Start, ignore
from eco2.quota.member import Member
from eco2.service import Component, run
from eco2.testing.clock import VirtualClock
from tests.support.provider_windows import Arrival

BUDGET = "openai"


def monotonic() -> float:
    """Returns the time on this process's own clock."""
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


class Line(Embedded):
    """A process's line to the embedded broker, which a test can disturb.

    `delay`: seconds that each message to the journal takes on its way. While `deaf`, what the broker sends
    stays on the way; while `mute`, what the process sends does. Both together are a frozen process.
    """

    def __init__(self, topology: Topology, server: Server) -> None:
        super().__init__(topology, server)
        self.delay = 0.0
        self._hearing = asyncio.Event()
        self._speaking = asyncio.Event()
        self._hearing.set()
        self._speaking.set()
        self._held: deque[Callable[[], None]] = deque()

    def disturb(self, *, deaf: bool = False, mute: bool = False) -> None:
        """Stops one direction, or both."""
        if deaf:
            self._hearing.clear()
        if mute:
            self._speaking.clear()

    def hear(self) -> None:
        """Delivers what was on its way to the process, in order."""
        self._hearing.set()
        while self._held:
            self._held.popleft()()

    def speak(self) -> None:
        """Lets go what the process had begun to send."""
        self._speaking.set()

    def cut_off(self) -> None:
        """Ends the connection; there is none until `rejoin`."""
        self._disconnect()

    def rejoin(self) -> None:
        """Connects again."""
        self._connect()

    async def append(self, body: bytes, message_id: str) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._speaking.wait()
        await super().append(body, message_id)
        await self._hearing.wait()  # the confirm

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> EmbeddedTail:
        return super().tail(start, lambda record: self._deliver(partial(on_record, record)), on_replaced)

    def broadcast(self, topic: str, body: bytes) -> None:
        if self._speaking.is_set():
            super().broadcast(topic, body)

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> EmbeddedSubscription:
        def deliver(topic: str, body: bytes) -> None:
            self._deliver(partial(on_message, topic, body))

        return super().subscribe(pattern, deliver)

    def _deliver(self, callback: Callable[[], None]) -> None:
        if self._hearing.is_set():
            callback()
        else:
            self._held.append(callback)


@dataclass
class Sharer:
    """A process whose share of the budget is read from its journal. `cut`: ends all its connections; it may
    connect again."""

    broker: Broker
    journal: Journal
    member: Member
    cut: Callable[[], None]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def quota(self) -> Quota:
        """The port that its calls use."""
        return self.member

    @property
    def leading(self) -> bool:
        """True while it grants, as far as it has read."""
        return self.running and self.member.budget.leading

    @property
    def running(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def line(self) -> Line:
        """Its line to the embedded broker."""
        assert isinstance(self.broker, Line)
        return self.broker

    async def start(self) -> None:
        """Runs it, until its journal is filled."""
        parts = [
            Component("broker", self.broker.run),
            Component("journal", self.journal.run),
            Component("budget", self.member.run),
        ]
        self.task = asyncio.get_running_loop().create_task(run(parts, self.stop))
        filled = asyncio.ensure_future(self.journal.filled.wait())
        await asyncio.wait({self.task, filled}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            filled.cancel()
            self.task.result()

    async def leave(self) -> None:
        """Stops it in order."""
        assert self.task is not None
        self.stop.set()
        await self.task

    async def die(self) -> None:
        """Ends it as `kill -9` does: nothing is put in order, nothing more is sent."""
        assert self.task is not None
        self.cut()
        self.task.cancel()
        await asyncio.wait({self.task})


@dataclass
class Fleet:
    """`void`: runs that another has replaced. `arrived`, `names`: the calls that went out, in order."""

    limits: Limits
    counting: Counting = "request"
    void: set[str] = field(default_factory=set)
    arrived: list[Arrival] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    members: list[Sharer] = field(default_factory=list)
    clock: Clock = VirtualClock.now

    async def connect(self) -> tuple[Broker, Callable[[], None]]:
        """Returns the broker object of a new process, and what cuts all its connections."""
        raise NotImplementedError

    async def join(self, limits: Limits | None = None) -> Sharer:
        """Starts a process; returns once its journal is filled."""
        broker, cut = await self.connect()
        journal = Journal(broker, View(900.0, self.clock, monotonic=monotonic))
        limits = limits or self.limits
        member = Member(BUDGET, journal, broker, limits, self._current, self.counting, monotonic)
        journal.view.join(member)
        sharer = Sharer(broker, journal, member, cut)
        self.members.append(sharer)
        await sharer.start()
        return sharer

    def leading(self) -> Sharer | None:
        """Returns the process that grants at present, if there is one."""
        return next((each for each in self.members if each.leading), None)

    async def call(self, sharer: Sharer, wanted: GrantRequest) -> None:
        """Does as a worker: acquires a grant, sends in time, goes on."""
        while True:
            try:
                async with granted(sharer.quota, wanted) as grant:
                    grant.confirm()
                    self.arrived.append((monotonic(), wanted.tokens))
                    self.names.append(wanted.job)
                    return
            except GrantExpired:
                continue

    async def end(self) -> None:
        """Stops every process that still runs, in order."""
        for sharer in self.members:
            if sharer.running:
                await sharer.leave()

    def _current(self, job: str, run: str) -> bool:
        return run not in self.void


@dataclass
class InMemory(Fleet):
    """A fleet around one embedded broker, in virtual time."""

    chaos: Chaos = CALM
    server: Server = field(init=False)
    topology: Topology = field(default_factory=lambda: Topology("t"))

    def __post_init__(self) -> None:
        self.server = Server(self.chaos, clock=VirtualClock.now)

    async def connect(self) -> tuple[Broker, Callable[[], None]]:
        line = Line(self.topology, self.server)
        return line, line.disrupt

    async def end(self) -> None:
        for sharer in self.members:
            if sharer.running:
                sharer.line.speak()
                sharer.line.hear()
        await super().end()

    def records(self) -> list[list[BudgetEvent]]:
        """Returns the budget's records in the journal, by message."""
        log = self.server.logs[self.topology.stream]
        messages: list[list[BudgetEvent]] = []
        position = 0
        while records := log.after(position):
            position = records[-1].offset + 1
            for record in records:
                _, events = decode_message(record.body)
                messages.append([event for event in events if isinstance(event, BudgetEvent)])
        return [message for message in messages if message]


@asynccontextmanager
async def fleet(
    limits: Limits, chaos: Chaos = CALM, counting: Counting = "request"
) -> AsyncIterator[InMemory]:
    """Every process that still runs stops in order at the end."""
    world = InMemory(limits, counting, chaos=chaos)
    try:
        yield world
    finally:
        await world.end()
