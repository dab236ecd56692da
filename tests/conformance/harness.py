"""What the conformance suite needs around a broker: processes that start and stop, and patience.

A test never sees which adapter it runs on. `Node` is what an adapter gives the suite: the part of a broker
that outlives our processes. `Brokers` runs any number of "processes" (broker objects) against one node.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, PublishUncertain
from eco2.ports import Broker, Subscription, jobs_queue, retry_queue

PATIENCE = 20.0
"""Seconds after which a condition that did not come is a failure."""

QUEUE = jobs_queue("work")
"""The work queue that every node has, with `RETRIES` and its wait queues; `dead` and both streams exist."""

RETRIES = retry_queue("work")

Item = TypeVar("Item")


class Node(Protocol):
    """One broker as the test's world. `topology`: what its processes declare."""

    topology: Topology

    def process(self, topology: Topology | None = None) -> Broker:
        """The broker object of a new process of ours, not running yet. `topology`: by default the node's."""

    async def disrupt(self) -> None:
        """Every process loses every connection at once; all may connect again."""

    async def replace_stream(self, *bodies: bytes) -> None:
        """The stream is deleted and made again with these records, while every connection is cut."""


class Received(Generic[Item]):
    """What a callback was given, in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._taken = 0
        self._changed = asyncio.Event()

    def __call__(self, item: Item) -> None:
        self.items.append(item)
        self._changed.set()

    async def until(self, enough: Callable[[list[Item]], bool]) -> list[Item]:
        """Waits until `enough(items)`; fails with what came instead."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not enough(self.items):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"received only {len(self.items)}: {self.items[-3:]}") from None
        return self.items

    async def count(self, number: int) -> list[Item]:
        """Waits for `number` items in all."""
        return await self.until(lambda items: len(items) >= number)

    async def take(self) -> Item:
        """The next item that was not taken yet."""
        self._taken += 1
        return (await self.count(self._taken))[self._taken - 1]


class Heard(Received[tuple[str, bytes]]):
    """A `Received` for listeners, whose callback has two arguments."""

    def hear(self, topic: str, body: bytes) -> None:
        self((topic, body))


class Brokers:
    """Starts and stops processes on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[Broker, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    @property
    def topology(self) -> Topology:
        """What processes declare."""
        return self._node.topology

    def create(self, topology: Topology | None = None) -> Broker:
        """A process that does not run yet."""
        return self._node.process(topology)

    async def start(self, broker: Broker | None = None) -> Broker:
        """Runs `broker` (or a new one); returns when it is ready."""
        broker = broker or self.create()
        stop = asyncio.Event()
        task = asyncio.create_task(broker.run(stop))
        self._running[broker] = (stop, task)
        await eventually(lambda: task.done() or broker.ready)
        if task.done():
            task.result()
            raise AssertionError("run() returned although nobody asked it to stop")
        return broker

    async def stop(self, broker: Broker) -> None:
        """The process ends, as on SIGTERM."""
        stop, task = self._running.pop(broker)
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await task

    async def disrupt(self) -> None:
        await self._node.disrupt()

    async def replace_stream(self, *bodies: bytes) -> None:
        await self._node.replace_stream(*bodies)

    async def close(self) -> None:
        """Every process ends."""
        for broker in list(self._running):
            await self.stop(broker)


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as `condition()` holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            # The port's properties have no event to wait for.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError("the condition did not come true in time") from None


async def attached(*subscriptions: Subscription) -> None:
    """Returns when the broker has all these consumers."""
    await eventually(lambda: all(subscription.attached for subscription in subscriptions))


async def surely(send: Callable[[], Awaitable[object]]) -> None:
    """Sends again, with the same id, until it is confirmed: what the engine does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await send()
                return
            except (BrokerUnavailable, PublishUncertain):
                await asyncio.sleep(0.02)


async def publish(broker: Broker, *bodies: bytes, queue: str = QUEUE) -> None:
    """Publishes each body under itself as its id, one after the other."""
    for body in bodies:
        await surely(partial(broker.publish, queue, body, body.decode()))


async def append(broker: Broker, *bodies: bytes) -> None:
    """Appends each body under itself as its id, one after the other."""
    for body in bodies:
        await surely(partial(broker.append, body, body.decode()))
