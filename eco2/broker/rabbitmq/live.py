"""Listening to live messages: one exclusive, bounded queue per process, however many listeners there are.

The queue drops its oldest messages where the process is slow, and ends with its connection.
"""

from collections.abc import Callable

from aio_pika.abc import AbstractConnection, AbstractQueue
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.consumer import Feed
from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import call, lost_as
from eco2.broker.topic import matches
from eco2.errors import BrokerUnavailable
from eco2.log import get_logger

log = get_logger(__name__)

QUEUE_LENGTH = 10_000
"""Messages that wait at the broker for one process before the oldest are dropped."""

OnMessage = Callable[[str, bytes], None]


class Ear:
    """The process' queue on `exchange`, as a session of `link`; bound once for each pattern in use."""

    def __init__(self, link: Link, exchange: str) -> None:
        self._link = link
        self._exchange = exchange
        self._listeners: list[Listener] = []
        self._feed: Feed | None = None
        self._queue: AbstractQueue | None = None
        self._bound: set[str] = set()

    def __str__(self) -> str:
        return f"listener to {self._exchange}"

    def listen(self, pattern: str, on_message: OnMessage) -> "Listener":
        """A new listener; the first one makes the link wanted."""
        if not self._listeners:
            self._link.add(self)
        listener = Listener(self, pattern, on_message)
        self._listeners.append(listener)
        self._link.wake()
        return listener

    @property
    def attached(self) -> bool:
        return self._alive and self._patterns() <= self._bound

    async def attach(self, connection: AbstractConnection) -> None:
        if not self._alive:
            await self._open(connection)
        if self._queue is not None:
            for pattern in self._patterns() - self._bound:
                await self._queue.bind(self._exchange, pattern)
                self._bound.add(pattern)

    def detach(self) -> None:
        self._feed = None
        self._bound.clear()

    def hears(self, pattern: str) -> bool:
        """True while the broker sends us what matches `pattern`."""
        return self._alive and pattern in self._bound

    async def leave(self, listener: "Listener") -> None:
        """`listener` hears no more."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners:
            self._link.remove(self)
        if listener.pattern not in self._patterns() and self.hears(listener.pattern):
            await self._unbind(listener.pattern)

    @property
    def _alive(self) -> bool:
        return self._feed is not None and self._feed.alive

    def _patterns(self) -> set[str]:
        return {listener.pattern for listener in self._listeners}

    async def _open(self, connection: AbstractConnection) -> None:
        self._bound.clear()
        feed = await Feed.open(connection, self._link.wake)
        self._queue = await feed.channel.declare_queue(
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": QUEUE_LENGTH, "x-overflow": "drop-head"},
        )
        await feed.consume(self._queue.name, self._on_message, prefetch=None)
        self._feed = feed

    async def _unbind(self, pattern: str) -> None:
        self._bound.discard(pattern)
        try:
            with lost_as(BrokerUnavailable, "the queue was lost before it was unbound"):
                if self._queue is not None:
                    await self._queue.unbind(self._exchange, pattern)
        except BrokerUnavailable as error:
            log.debug("not unbound", why=str(error))

    async def _on_message(self, message: DeliveredMessage) -> None:
        topic = message.routing_key or ""
        for listener in [each for each in self._listeners if matches(each.pattern, topic)]:
            call(listener.on_message, topic, message.body)


class Listener:
    """One pattern and its callback (`ports.Subscription`)."""

    def __init__(self, ear: Ear, pattern: str, on_message: OnMessage) -> None:
        self.pattern = pattern
        self.on_message = on_message
        self._ear = ear
        self._cancelled = False

    @property
    def attached(self) -> bool:
        return not self._cancelled and self._ear.hears(self.pattern)

    async def cancel(self) -> None:
        self._cancelled = True
        await self._ear.leave(self)
