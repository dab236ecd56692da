"""Receives live messages: one exclusive, bounded queue per process for all its subscriptions.

The queue drops its oldest messages if the process is slow, and is deleted with its connection.
"""

from collections.abc import Callable

from aio_pika.abc import AbstractConnection, AbstractQueue
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.connection_errors import call, ignore_connection_errors
from eco2.broker.rabbitmq.consumer import ConsumerChannel
from eco2.broker.rabbitmq.link import Link
from eco2.broker.topic import matches

QUEUE_LENGTH = 10_000
"""Messages that wait at the broker for one process before it drops the oldest."""

OnMessage = Callable[[str, bytes], None]


class LiveSubscriber:
    """The process' queue on `exchange`, as a session of `link`; bound once for each pattern in use."""

    def __init__(self, link: Link, exchange: str) -> None:
        self._link = link
        self._exchange = exchange
        self._subscriptions: list[LiveSubscription] = []
        self._feed: ConsumerChannel | None = None
        self._queue: AbstractQueue | None = None
        self._bound: set[str] = set()

    def __str__(self) -> str:
        return f"live subscriber of {self._exchange}"

    def subscribe(self, pattern: str, on_message: OnMessage) -> "LiveSubscription":
        """Adds a subscription; the first one opens the link."""
        if not self._subscriptions:
            self._link.add(self)
        subscription = LiveSubscription(self, pattern, on_message)
        self._subscriptions.append(subscription)
        self._link.wake()
        return subscription

    @property
    def attached(self) -> bool:
        return self._alive and self._patterns() <= self._bound

    async def attach(self, connection: AbstractConnection) -> None:
        if not self._alive:
            self._bound.clear()
            feed = await ConsumerChannel.open(connection, self._link.wake)
            self._queue = await feed.channel.declare_queue(
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": QUEUE_LENGTH, "x-overflow": "drop-head"},
            )
            await feed.consume(self._queue.name, self._on_message, prefetch=None)
            self._feed = feed
        if self._queue is not None:
            for pattern in self._patterns() - self._bound:
                await self._queue.bind(self._exchange, pattern)
                self._bound.add(pattern)

    def detach(self) -> None:
        self._feed = None
        self._bound.clear()

    def is_bound(self, pattern: str) -> bool:
        """True while the broker sends messages that match `pattern`."""
        return self._alive and pattern in self._bound

    async def unsubscribe(self, subscription: "LiveSubscription") -> None:
        """Ends `subscription`."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        if not self._subscriptions:
            self._link.remove(self)
        if subscription.pattern not in self._patterns() and self.is_bound(subscription.pattern):
            self._bound.discard(subscription.pattern)
            if self._queue is not None:
                with ignore_connection_errors("live queue not unbound"):
                    await self._queue.unbind(self._exchange, subscription.pattern)

    @property
    def _alive(self) -> bool:
        return self._feed is not None and self._feed.alive

    def _patterns(self) -> set[str]:
        return {subscription.pattern for subscription in self._subscriptions}

    async def _on_message(self, message: DeliveredMessage) -> None:
        topic = message.routing_key or ""
        for subscription in [each for each in self._subscriptions if matches(each.pattern, topic)]:
            call(subscription.on_message, topic, message.body)


class LiveSubscription:
    """One pattern and its callback (`ports.Subscription`)."""

    def __init__(self, subscriber: LiveSubscriber, pattern: str, on_message: OnMessage) -> None:
        self.pattern = pattern
        self.on_message = on_message
        self._subscriber = subscriber
        self._cancelled = False

    @property
    def attached(self) -> bool:
        return not self._cancelled and self._subscriber.is_bound(self.pattern)

    async def cancel(self) -> None:
        self._cancelled = True
        await self._subscriber.unsubscribe(self)
