"""One consumer at the broker, on a channel of its own, re-attached by its link.

The channel outlives a cancel for as long as deliveries of it are unsettled, so that work in flight can still
be acked while intake is paused; then it is closed, so that pausing often does not pile channels up.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as AmqpChannel
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.connection_errors import ConnectionScope, map_connection_errors
from eco2.broker.rabbitmq.link import Link
from eco2.errors import BrokerUnavailable, DeliveryLost
from eco2.log import get_logger

log = get_logger(__name__)

OnMessage = Callable[[DeliveredMessage], Coroutine[None, None, None]]
Arguments = Mapping[str, str | int | bool | datetime]


class Ack(NamedTuple):
    """One ack frame: for the delivery `tag`, or with `multiple` for all deliveries up to it."""

    tag: int
    multiple: bool


class AckTracker:
    """Decides which deliveries of a channel one cumulative ack can settle; tags count from 1 without gaps.

    Single acks are most of what a job costs at the broker. A cumulative ack means "this one, and all before
    it", so it is sent only if all before it are settled: no delivery waits for the ack of a slower one.
    """

    def __init__(self) -> None:
        self._whole = 0
        self._beyond: set[int] = set()

    def settled(self, tag: int) -> None:
        """Notes a delivery that was settled, or will be by a frame sent before the next cumulative ack."""
        self._beyond.add(tag)
        while self._whole + 1 in self._beyond:
            self._whole += 1
            self._beyond.remove(self._whole)

    def acks(self, tags: Iterable[int]) -> Iterator[Ack]:
        """Returns the fewest frames that ack `tags` and no other unsettled delivery, in order of sending."""
        tags = sorted(tags)
        for tag in tags:
            self.settled(tag)
        row = [tag for tag in tags if tag <= self._whole]
        if row:
            yield Ack(row[-1], multiple=len(row) > 1)
        for tag in tags[len(row) :]:
            yield Ack(tag, multiple=False)


class ConsumerChannel:
    """A channel that carries one consumer. It is of no further use once the channel or consumer is gone."""

    def __init__(self, channel: AbstractChannel, amqp: AmqpChannel) -> None:
        self.channel = channel  # a strong reference: aio-pika's connection holds it weakly
        self.amqp = amqp
        self._tag: str | None = None
        self._scope = ConnectionScope()
        self._unsettled = 0
        self._closing = False
        self._tracker = AckTracker()
        self._acked: list[int] = []
        self._acking = False
        self._max_batch = 1

    @classmethod
    async def open(cls, connection: AbstractConnection, on_loss: Callable[..., None]) -> "ConsumerChannel":
        """Opens a channel; `on_loss` is called when it or its consumer is gone."""
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(on_loss)
        amqp = await channel.get_underlay_channel()
        feed = cls(channel, amqp)
        amqp.on_consumer_cancel_callbacks.add(feed._cancelled_by_broker)
        amqp.on_consumer_cancel_callbacks.add(on_loss)
        channel.close_callbacks.add(feed._scope.end)
        return feed

    @property
    def alive(self) -> bool:
        """True while the broker has the consumer."""
        return self._tag is not None and not self.amqp.is_closed

    async def consume(
        self,
        queue: str,
        on_message: OnMessage,
        prefetch: int | None,
        arguments: Arguments | None = None,
    ) -> None:
        """Starts the consumer; without a prefetch messages need no settling."""
        if prefetch is not None:
            self._max_batch = max(1, prefetch // 4)
            await self.amqp.basic_qos(prefetch_count=prefetch)
        started = await self.amqp.basic_consume(
            queue, on_message, no_ack=prefetch is None, arguments=dict(arguments) if arguments else None
        )
        self._tag = started.consumer_tag

    def _cancelled_by_broker(self, _: object) -> None:
        # The queue was deleted or its leader moved; there is no other notice.
        self._tag = None

    def track(self) -> None:
        """Counts one more unsettled delivery."""
        self._unsettled += 1

    async def ack(self, tag: int) -> None:
        """Acks one delivery, together with those acked in the next turns of the loop.

        The first caller sends for the others, and gets the `DeliveryLost` when the channel is gone.
        """
        self._acked.append(tag)
        if self._acking:
            return
        self._acking = True
        try:
            while self._acked:
                await self._gather()
                tags, self._acked = self._acked, []
                async with self._settling(len(tags)):
                    for ack in self._tracker.acks(tags):
                        await self.amqp.basic_ack(ack.tag, multiple=ack.multiple, wait=False)
        finally:
            self._acking = False

    async def _gather(self) -> None:
        """Returns after the first turn of the loop without a further ack, or with enough of them."""
        before = 0
        while before < len(self._acked) < self._max_batch:
            before = len(self._acked)
            await asyncio.sleep(0)

    async def nack(self, tag: int) -> None:
        """Gives one delivery back. Not by a reject: from RabbitMQ 4.3 only that counts towards the limit."""
        async with self._settling(1):
            await self.amqp.basic_nack(tag, requeue=True)
        self._tracker.settled(tag)

    async def reject(self, tag: int) -> None:
        """Sends one delivery to the dead letters."""
        async with self._settling(1):
            await self.amqp.basic_reject(tag, requeue=False)
        self._tracker.settled(tag)

    @asynccontextmanager
    async def _settling(self, deliveries: int) -> AsyncIterator[None]:
        with map_connection_errors(
            DeliveryLost, "the connection of this delivery is gone; the broker delivers it again"
        ):
            async with self._scope.scope():
                yield
        self._unsettled -= deliveries
        if self._closing and self._unsettled == 0:
            await self.close()

    async def close_when_settled(self) -> None:
        """Cancels the consumer; the channel is closed when the last delivery is settled."""
        tag, self._tag = self._tag, None
        try:
            with map_connection_errors(BrokerUnavailable, "the consumer was lost before it was cancelled"):
                if tag is not None:
                    await self.amqp.basic_cancel(tag)
        except BrokerUnavailable as error:
            log.debug("consumer not cancelled", why=str(error))
        self._closing = True
        if self._unsettled == 0:
            await self.close()

    async def close(self) -> None:
        """Closes the channel; what is unsettled on it goes back to its queue."""
        self._tag = None
        try:
            with map_connection_errors(BrokerUnavailable, "the channel was lost before it was closed"):
                await self.channel.close()
        except BrokerUnavailable as error:
            log.debug("channel not closed", why=str(error))


class Consumer:
    """A session of `link` and a `ports.Subscription`; `start` begins to consume on a new channel."""

    def __init__(
        self, link: Link, name: str, start: Callable[["Consumer", ConsumerChannel], Awaitable[None]]
    ) -> None:
        self.cancelled = False
        self._link = link
        self._name = name
        self._start = start
        self._feed: ConsumerChannel | None = None
        link.add(self)

    def __str__(self) -> str:
        return f"consumer of {self._name}"

    @property
    def attached(self) -> bool:
        return self._feed is not None and self._feed.alive

    async def attach(self, connection: AbstractConnection) -> None:
        if self._feed is not None:
            # The broker cancelled the consumer and left the channel; both together hold twice the prefetch.
            await self._feed.close()
            self._feed = None
        feed = await ConsumerChannel.open(connection, self._link.wake)
        try:
            await self._start(self, feed)
        except Exception:
            await feed.close()
            raise
        self._feed = feed
        if self.cancelled:
            await feed.close_when_settled()

    def detach(self) -> None:
        self._feed = None

    async def cancel(self) -> None:
        self.cancelled = True
        self._link.remove(self)
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close_when_settled()
