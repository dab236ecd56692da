"""The embedded broker as the engine sees it: `ports.Broker` for one "process" at a `Server` in memory.

It keeps every promise of the port, so that code which works here works on RabbitMQ, and under chaos breaks
exactly the promises that the port does not make. One event loop serves all connections of a server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.live import Exchange, Listener
from eco2.broker.embedded.publishing import Publisher
from eco2.broker.embedded.queues import Consumer, Message, Queue
from eco2.broker.embedded.server import Server
from eco2.broker.embedded.stream import Log, Reader
from eco2.broker.embedded.subscription import EmbeddedSubscription, EmbeddedTail, Link
from eco2.broker.position import Position
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, Unroutable
from eco2.ports import Delivery, LinkStatus, Record, Start, ignore

AnySubscription = TypeVar("AnySubscription", bound=EmbeddedSubscription)


class Embedded:
    """One process's connection to `server` (default: a server of its own)."""

    def __init__(self, topology: Topology, server: Server | None = None) -> None:
        self._topology = topology
        self._names = frozenset(entity.name for entity in topology.entities)
        self._server = server or Server()
        self._publisher = Publisher(self._server)
        self._subscriptions: dict[EmbeddedSubscription, None] = {}
        self._channel: Channel | None = None
        self._draining = False
        self._connects = 0
        self._reconnect: asyncio.TimerHandle | None = None

    @property
    def blocked(self) -> str | None:
        return self._server.blocked

    @property
    def ready(self) -> bool:
        return self._channel is not None and all(
            subscription.attached for subscription in self._subscriptions
        )

    @property
    def links(self) -> tuple[LinkStatus, ...]:
        return (LinkStatus("memory", self._channel is not None, max(0, self._connects - 1)),)

    async def run(self, stop: asyncio.Event) -> None:
        self._draining = False
        self._server.refuse_old_workers(self._topology)
        self._connect()
        try:
            await stop.wait()
            self._draining = True
            await self._publisher.all_confirmed()
        finally:
            self._disconnect()
            if self._reconnect is not None:
                self._reconnect.cancel()

    def disrupt(self) -> None:
        """Breaks the connection; it comes back by itself, at once or, under chaos, after a while."""
        if self._channel is None:
            return
        self._disconnect()
        delay = self._server.dice.delay("reconnect", times=5)
        self._reconnect = asyncio.get_running_loop().call_later(delay, self._connect)

    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        channel = self._connected()
        put = self._queue(self._topology.queue(queue)).put
        await self._publisher.publish(channel, message_id, partial(put, Message(body, message_id)))

    def consume(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> EmbeddedSubscription:
        name = self._existing(self._topology.queue(queue))
        return self._subscribe(lambda channel: Consumer(self._queue(name), channel, prefetch, on_delivery))

    async def depth(self, queue: str) -> int:
        self._connected()
        try:
            return len(self._queue(self._topology.queue(queue)))
        except Unroutable as missing:
            raise BrokerUnavailable(str(missing)) from missing

    async def append(self, body: bytes, message_id: str) -> None:
        await self._add(self._topology.stream, body, message_id)

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> EmbeddedTail:
        log, position = partial(self._log, self._topology.stream), Position(start, on_record, on_replaced)
        return self._add_subscription(EmbeddedTail(log, position, self._forget))

    def read(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._reader(self._topology.stream, start)

    async def append_order(self, body: bytes, message_id: str) -> None:
        await self._add(self._topology.inputs, body, message_id)

    def read_orders(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._reader(self._topology.inputs, start)

    async def append_snapshot(self, body: bytes, message_id: str) -> None:
        await self._add(self._topology.snapshots, body, message_id)

    def read_snapshots(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._reader(self._topology.snapshots, start)

    def broadcast(self, topic: str, body: bytes) -> None:
        if self._channel is not None and self._server.blocked is None:
            self._exchange().publish(topic, body)

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> EmbeddedSubscription:
        return self._subscribe(lambda _: Listener(self._exchange(), pattern, on_message))

    def _subscribe(self, link: Callable[[Channel], Link]) -> EmbeddedSubscription:
        return self._add_subscription(EmbeddedSubscription(link, self._forget))

    def _add_subscription(self, subscription: AnySubscription) -> AnySubscription:
        self._subscriptions[subscription] = None
        if self._channel is not None:
            asyncio.get_running_loop().call_soon(subscription.attach, self._channel)
        return subscription

    def _forget(self, subscription: EmbeddedSubscription) -> None:
        self._subscriptions.pop(subscription, None)

    def _connect(self) -> None:
        self._server.declare(self._topology)  # perhaps again: it may have been wiped meanwhile
        self._channel = Channel(on_cut=self.disrupt)
        self._connects += 1
        self._server.channels.add(self._channel)
        for subscription in list(self._subscriptions):
            subscription.attach(self._channel)

    def _disconnect(self) -> None:
        """Consumers go first, so that what they held is not handed back to them."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        for subscription in self._subscriptions:
            subscription.detach()
        self._server.channels.discard(channel)
        channel.close()

    def _connected(self) -> Channel:
        if self._channel is None or self._draining:
            state = "stopping" if self._draining else "not connected to the broker"
            raise BrokerUnavailable(f"{state}: nothing was sent, try again when the broker is ready")
        return self._channel

    async def _add(self, stream: str, body: bytes, message_id: str) -> None:
        channel = self._connected()
        await self._publisher.publish(channel, message_id, partial(self._log(stream).append, body))

    @asynccontextmanager
    async def _reader(self, stream: str, start: Start) -> AsyncIterator[AsyncIterator[Record]]:
        channel, log = self._connected(), self._log(stream)
        reader = Reader(log, log.resolve(start), channel)
        try:
            yield reader
        finally:
            reader.close()

    def _log(self, stream: str) -> Log:
        return self._server.logs[stream]

    def _exchange(self) -> Exchange:
        return self._server.exchanges[self._topology.live]

    def _queue(self, name: str) -> Queue:
        return self._server.queues[self._existing(name)]

    def _existing(self, name: str) -> str:
        if name not in self._names and name not in self._server.queues:  # another process may know it
            raise Unroutable(f"there is no queue {name}: add it to the topology, then try again")
        return name
