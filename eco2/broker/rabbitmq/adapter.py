"""`RabbitMQ`: puts links, publishers and consumers together as a `ports.Broker`.

A process has at most three connections, whatever it does: `publish` (orders, events, casts), `jobs` (work
queues) and `journal` (tails, readers, listening, depths). A gateway never uses `jobs`, so it has two.
Publishing has its own because a broker in memory alarm stops reading from connections that publish, and acks
must not wait for that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from aio_pika.abc import AbstractConnection

from eco2.broker.rabbitmq import probe, stream, versions
from eco2.broker.rabbitmq import queue as work
from eco2.broker.rabbitmq.connect import server
from eco2.broker.rabbitmq.declare import declare, refuse_old_workers
from eco2.broker.rabbitmq.link import Link, Nodes
from eco2.broker.rabbitmq.live_publisher import LivePublisher
from eco2.broker.rabbitmq.live_subscriber import LiveSubscriber
from eco2.broker.rabbitmq.probe import Probe
from eco2.broker.rabbitmq.publisher import BLOCKED, Publisher
from eco2.broker.rabbitmq.queue_depth import QueueDepth
from eco2.broker.rabbitmq.recovery import TopologyRecovery
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, ConfigurationError
from eco2.log import get_logger
from eco2.ports import Delivery, LinkStatus, Record, Start, Subscription, Tail, ignore

log = get_logger(__name__)

JOBS_HEARTBEAT = 5.0
"""Seconds; the broker hands jobs to a half-open connection until it has missed two to three of them."""
LIVE_FLUSH_TIMEOUT = 1.0
"""Seconds that live messages get to leave when the process stops."""


class RabbitMQ:
    """The broker at `url`, with the queues of `topology`.

    `process` names the connections for operators (`eco2 gateway publish`). `heartbeat` and
    `publish_timeout` in seconds: a publish without a confirm raises `PublishUncertain` after the latter.
    """

    def __init__(
        self,
        url: str,
        topology: Topology,
        process: str = "eco2",
        heartbeat: float = 10.0,
        publish_timeout: float = 5.0,
    ) -> None:
        self._topology = topology
        self._timeout = publish_timeout
        self._running = False
        self._declared = asyncio.Event()
        self._recovery = TopologyRecovery(topology)
        link, wait = partial(Link, Nodes(url)), self._wait_for_topology
        self._publish = link(f"{process} publish", heartbeat, self._declare)
        self._jobs = link(f"{process} jobs", min(heartbeat, JOBS_HEARTBEAT), wait)
        self._journal = link(f"{process} journal", heartbeat, wait)
        for each in self._links:
            each.on_missing = self._recovery.missing
        self._orders = Publisher(self._publish, publish_timeout, self._recovery.missing)
        self._events = Publisher(self._publish, publish_timeout, self._recovery.missing)
        self._store = Publisher(self._publish, publish_timeout, self._recovery.missing)
        self._live_publisher = LivePublisher(self._publish)
        self._probes = (
            Probe(self._publish, probe.publish(f"{topology.prefix}.probe"), publish_timeout),
            Probe(self._jobs, probe.ask, publish_timeout),
            Probe(self._journal, probe.ask, publish_timeout),
        )
        self._live_subscriber = LiveSubscriber(self._journal, topology.live)
        self._queue_depth = QueueDepth(self._journal, publish_timeout, self._recovery.missing)

    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        self._must_run()
        await self._orders.publish(self._topology.queue(queue), body, message_id)

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Subscription:
        return work.consume(self._jobs, self._topology.queue(queue), prefetch, on_delivery)

    async def depth(self, queue: str) -> int:
        self._must_run()
        return await self._queue_depth.depth(self._topology.queue(queue))

    async def append(self, body: bytes, message_id: str) -> None:
        self._must_run()
        await self._events.append(self._topology.stream, body, message_id)

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> Tail:
        return stream.StreamTail(self._journal, self._topology.stream, start, on_record, on_replaced)

    def read(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._read(self._topology.stream, start)

    async def append_order(self, body: bytes, message_id: str) -> None:
        self._must_run()
        await self._store.append(self._topology.inputs, body, message_id)

    def read_orders(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._read(self._topology.inputs, start)

    async def append_snapshot(self, body: bytes, message_id: str) -> None:
        self._must_run()
        await self._store.append(self._topology.snapshots, body, message_id)

    def read_snapshots(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self._read(self._topology.snapshots, start)

    def broadcast(self, topic: str, body: bytes) -> None:
        if self._running:
            self._live_publisher.publish(self._topology.live, topic, body)

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> Subscription:
        return self._live_subscriber.subscribe(pattern, on_message)

    @property
    def blocked(self) -> str | None:
        return BLOCKED if self._publish.blocked else None

    @property
    def ready(self) -> bool:
        return self._running and all(link.ready for link in self._links)

    @property
    def links(self) -> tuple[LinkStatus, ...]:
        return tuple(status for link in self._links if (status := link.status) is not None)

    async def run(self, stop: asyncio.Event) -> None:
        """See `ports.Broker.run`; once per object."""
        try:
            async with asyncio.TaskGroup() as group:
                loops = [link.run() for link in self._links] + [each.run() for each in self._probes]
                loops += [self._live_publisher.run(), self._recovery.run(self._publish)]
                upkeep = [group.create_task(loop) for loop in loops]
                self._running = True
                await stop.wait()
                self._running = False
                await self._flush()
                for task in upkeep:
                    task.cancel()
        except BaseExceptionGroup as errors:
            if refused := find_error(errors, ConfigurationError):
                raise refused from None
            raise
        finally:
            self._running = False

    @property
    def _links(self) -> tuple[Link, ...]:
        return (self._publish, self._jobs, self._journal)

    async def _flush(self) -> None:
        """Waits until what was sent is confirmed, and what was cast is on its way."""
        # Each publish has its time-out.
        await asyncio.gather(self._orders.flush(), self._events.flush(), self._store.flush())
        try:
            async with asyncio.timeout(LIVE_FLUSH_TIMEOUT):
                await self._live_publisher.flush()
        except TimeoutError:
            log.info("live messages that the broker did not take in time were dropped")

    def _read(self, queue: str, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        timeout = self._timeout if self._running else 0
        return stream.read(self._journal, queue, start, timeout)

    def _must_run(self) -> None:
        if not self._running:
            raise BrokerUnavailable("the broker's connections are not running; nothing was sent")

    async def _declare(self, connection: AbstractConnection) -> None:
        if not self._declared.is_set():
            await refuse_old_workers(connection, self._topology)
        await declare(connection, self._topology)
        if not self._declared.is_set():
            for caution in versions.cautions(server(connection)):
                log.warning(caution)
        self._declared.set()

    async def _wait_for_topology(self, _: AbstractConnection) -> None:
        await self._declared.wait()


def find_error(
    group: BaseExceptionGroup[BaseException], kind: type[ConfigurationError]
) -> ConfigurationError | None:
    """The first error of `kind` in `group`, at any depth."""
    for error in group.exceptions:
        found = find_error(error, kind) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, kind):
            return found
    return None
