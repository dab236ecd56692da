"""One consumer at the broker, on a channel of its own, re-attached by its link.

The channel outlives a cancel for as long as deliveries of it are unsettled, so that work in flight can still
be acked while intake is paused; then it is closed, so that pausing often does not pile channels up.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as AmqpChannel
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.acks import Rows
from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import Lifetime, lost_as
from eco2.errors import BrokerUnavailable, DeliveryLost
from eco2.log import get_logger

log = get_logger(__name__)

OnMessage = Callable[[DeliveredMessage], Coroutine[None, None, None]]
Arguments = Mapping[str, str | int | bool | datetime]


class Feed:
    """A channel that carries one consumer. Dead for ever once the channel or the consumer is gone."""

    def __init__(self, channel: AbstractChannel, amqp: AmqpChannel) -> None:
        self.channel = channel  # a strong reference: aio-pika's connection holds it weakly
        self.amqp = amqp
        self._tag: str | None = None
        self._lifetime = Lifetime()
        self._unsettled = 0
        self._retired = False
        self._rows = Rows()
        self._acked: list[int] = []
        self._acking = False
        self._longest_row = 1

    @classmethod
    async def open(cls, connection: AbstractConnection, on_loss: Callable[..., None]) -> "Feed":
        """A new channel; `on_loss` is called when it or its consumer is gone."""
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(on_loss)
        amqp = await channel.get_underlay_channel()
        feed = cls(channel, amqp)
        amqp.on_consumer_cancel_callbacks.add(feed._cancelled_by_broker)
        amqp.on_consumer_cancel_callbacks.add(on_loss)
        channel.close_callbacks.add(feed._lifetime.end)
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
            self._longest_row = max(1, prefetch // 4)
            await self.amqp.basic_qos(prefetch_count=prefetch)
        started = await self.amqp.basic_consume(
            queue, on_message, no_ack=prefetch is None, arguments=dict(arguments) if arguments else None
        )
        self._tag = started.consumer_tag

    async def open_desk(self, on_message: OnMessage, length: int) -> str:
        """A queue in memory on the same channel, that ends with it; returns its name. Of more than `length`
        messages the oldest are dropped, and none needs settling."""
        queue = await self.channel.declare_queue(
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": length, "x-overflow": "drop-head"},
        )
        await self.amqp.basic_consume(queue.name, on_message, no_ack=True)
        return queue.name

    def _cancelled_by_broker(self, _: object) -> None:
        # The queue was deleted or its leader moved; nothing else tells.
        self._tag = None

    def hold(self) -> None:
        """One more delivery waits to be settled."""
        self._unsettled += 1

    async def ack(self, tag: int) -> None:
        """Acks one delivery, together with those that are acked in the next turns of the loop: the first of
        them sends for the others, too, and gets the `DeliveryLost` when the channel is gone."""
        self._acked.append(tag)
        if self._acking:
            return
        self._acking = True
        try:
            while self._acked:
                await self._gather()
                tags, self._acked = self._acked, []
                async with self._settling(len(tags)):
                    for ack in self._rows.acks(tags):
                        await self.amqp.basic_ack(ack.tag, multiple=ack.multiple, wait=False)
        finally:
            self._acking = False

    async def _gather(self) -> None:
        """Returns after the first turn of the loop that brings no more acks, or with a row of them."""
        before = 0
        while before < len(self._acked) < self._longest_row:
            before = len(self._acked)
            await asyncio.sleep(0)

    async def nack(self, tag: int) -> None:
        """Gives one delivery back. Not by a reject: from RabbitMQ 4.3 only that counts towards the limit."""
        async with self._settling(1):
            await self.amqp.basic_nack(tag, requeue=True)
        self._rows.settled(tag)

    async def reject(self, tag: int) -> None:
        """Sends one delivery to the dead letters."""
        async with self._settling(1):
            await self.amqp.basic_reject(tag, requeue=False)
        self._rows.settled(tag)

    @asynccontextmanager
    async def _settling(self, deliveries: int) -> AsyncIterator[None]:
        with lost_as(DeliveryLost, "the connection of this delivery is gone; the broker delivers it again"):
            async with self._lifetime.scope():
                yield
        self._unsettled -= deliveries
        if self._retired and self._unsettled == 0:
            await self.close()

    async def retire(self) -> None:
        """Cancels the consumer; the channel is closed when the last delivery is settled."""
        tag, self._tag = self._tag, None
        try:
            with lost_as(BrokerUnavailable, "the consumer was lost before it was cancelled"):
                if tag is not None:
                    await self.amqp.basic_cancel(tag)
        except BrokerUnavailable as error:
            log.debug("consumer not cancelled", why=str(error))
        self._retired = True
        if self._unsettled == 0:
            await self.close()

    async def close(self) -> None:
        """Closes the channel; what is unsettled on it goes back to its queue."""
        self._tag = None
        try:
            with lost_as(BrokerUnavailable, "the channel was lost before it was closed"):
                await self.channel.close()
        except BrokerUnavailable as error:
            log.debug("channel not closed", why=str(error))


class Consumer:
    """A session of `link` and a `ports.Subscription`; `start` begins to consume on a new feed."""

    def __init__(self, link: Link, name: str, start: Callable[["Consumer", Feed], Awaitable[None]]) -> None:
        self.cancelled = False
        self._link = link
        self._name = name
        self._start = start
        self._feed: Feed | None = None
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
        feed = await Feed.open(connection, self._link.wake)
        try:
            await self._start(self, feed)
        except Exception:
            await feed.close()
            raise
        self._feed = feed
        if self.cancelled:
            await feed.retire()

    def detach(self) -> None:
        self._feed = None

    async def cancel(self) -> None:
        self.cancelled = True
        self._link.remove(self)
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.retire()
