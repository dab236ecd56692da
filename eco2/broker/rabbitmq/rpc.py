"""Request and reply: a queue of its own for who asks, one with a single active consumer for who serves.

Not direct reply-to: a reply to an address on a node that is down ends the connection of whoever replies,
again and again (RabbitMQ 3.10). To a queue that is gone it goes nowhere. A request expires with its asker's
patience, so that a new server is not busy with questions that nobody waits for. It is acked after its reply,
so that a server that goes leaves it to its successor.

The service's queue is a quorum queue, which writes a request to disk before it hands it over. So a server may
have a desk besides, a queue in memory that ends with its connection: replies name it, and a copy of a request
goes there ahead. A copy for a desk that is gone goes nowhere; the request follows if no answer comes soon.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import NamedTuple

from aio_pika.abc import AbstractConnection
from aiormq import spec
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.consumer import Consumer, Feed
from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import lost_as
from eco2.errors import BrokerUnavailable, DeliveryLost, NoReply
from eco2.log import get_logger
from eco2.ports import Express

log = get_logger(__name__)

SERVE_PREFETCH = 256
"""Requests that one server handles at once."""
HEAD_START = 0.005
"""Seconds that a copy is ahead: a request whose copy was answered by then is not sent itself."""
DESK_LENGTH = 1000
"""Copies that wait at a desk before the oldest are dropped."""

Handler = Callable[[bytes], Awaitable[bytes]]
Spawn = Callable[[Coroutine[None, None, None]], object]


class _Question(NamedTuple):
    """What was asked of whoever serves `queue`."""

    queue: str
    reply: asyncio.Future[bytes]


class RpcClient:
    """The process' reply address, as a session of `link`, and the questions that wait for a reply."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._feed: Feed | None = None
        self._queue = ""
        self._attached = asyncio.Event()
        self._waiting: dict[str, _Question] = {}
        self._desks: dict[str, str] = {}
        """Where whoever answered last has its desk, by the queue that was asked."""
        self._wanted = False

    def __str__(self) -> str:
        return "reply address"

    @property
    def attached(self) -> bool:
        return self._feed is not None and self._feed.alive

    async def attach(self, connection: AbstractConnection) -> None:
        feed = await Feed.open(connection, self._on_loss)
        queue = await feed.channel.declare_queue(exclusive=True, auto_delete=True)
        await feed.consume(queue.name, self._on_reply, prefetch=None)
        self._feed, self._queue = feed, queue.name
        self._attached.set()

    def detach(self) -> None:
        self._feed = None
        self._attached.clear()
        self._desks.clear()
        for question in self._waiting.values():
            question.reply.cancel()

    async def request(self, queue: str, body: bytes, timeout: float, express: bool = False) -> bytes:
        """The reply to `body` from whoever serves `queue`, in at most `timeout` seconds."""
        if not self._wanted:
            self._wanted = True
            self._link.add(self)
        deadline = asyncio.get_running_loop().time() + timeout
        feed = await self._address(deadline)
        name = uuid.uuid4().hex
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[name] = _Question(queue, reply)
        desk = self._desks.get(queue) if express else None
        try:
            async with asyncio.timeout_at(deadline):
                with lost_as(NoReply, "the connection went with the request; ask again"):
                    if desk is not None:
                        properties = spec.Basic.Properties(correlation_id=name, reply_to=self._queue)
                        await _publish(feed, desk, body, properties)
                        await asyncio.wait((reply,), timeout=HEAD_START)
                    if not reply.done():
                        await self._send(feed, queue, body, name, timeout)
                await asyncio.wait((reply,))
        except TimeoutError:
            raise NoReply(f"nobody answered on {queue} within {timeout:g} s; ask again") from None
        finally:
            del self._waiting[name]
        if reply.cancelled():
            raise NoReply("the connection went before the reply came; ask again")
        return reply.result()

    async def _send(self, feed: Feed, queue: str, body: bytes, name: str, timeout: float) -> None:
        patience = str(max(1, round(timeout * 1000)))
        properties = spec.Basic.Properties(correlation_id=name, reply_to=self._queue, expiration=patience)
        await _publish(feed, queue, body, properties)

    async def _address(self, deadline: float) -> Feed:
        try:
            async with asyncio.timeout_at(deadline):
                await self._attached.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"{self._link.name}: not connected; nothing was asked") from None
        if self._feed is None or not self._feed.alive:
            raise BrokerUnavailable(f"{self._link.name}: the connection was lost just now; ask again")
        return self._feed

    def _on_loss(self, *_: object) -> None:
        self.detach()
        self._link.wake()

    async def _on_reply(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        question = self._waiting.get(properties.correlation_id or "")
        if question is not None and not question.reply.done():
            if properties.reply_to:
                self._desks[question.queue] = properties.reply_to
            question.reply.set_result(message.body)


def serve(link: Link, queue: str, handler: Handler, spawn: Spawn, express: Express | None = None) -> Consumer:
    """A candidate for `queue`; requests are handled side by side in tasks that `spawn` starts."""

    async def start(_: Consumer, feed: Feed) -> None:
        desk: str | None = None

        async def on_message(message: DeliveredMessage) -> None:
            # In a task of our own: aiormq cancels its callbacks with the connection.
            feed.hold()
            spawn(_answer(feed, message, handler, desk))

        async def on_copy(message: DeliveredMessage) -> None:
            if express is not None and desk is not None and feed.alive:
                await _answer_copy(feed, message, express, desk)

        if express is not None:
            desk = await feed.open_desk(on_copy, DESK_LENGTH)
        await feed.consume(queue, on_message, SERVE_PREFETCH)

    return Consumer(link, queue, start)


async def _answer(feed: Feed, message: DeliveredMessage, handler: Handler, desk: str | None) -> None:
    """Handles one request, replies, acks. An error in `handler` means no reply, and no second try."""
    try:
        reply = await handler(message.body)
    except Exception:
        log.exception("a handler failed; the request gets no reply", service=message.routing_key)
        reply = None
    try:
        with lost_as(DeliveryLost, "the connection went before the reply; a successor answers"):
            if reply is not None:
                await _reply(feed, message, reply, desk)
        await feed.ack(message.delivery_tag or 0)
    except DeliveryLost as error:
        log.info("no reply sent", why=str(error))


async def _answer_copy(feed: Feed, message: DeliveredMessage, express: Express, desk: str) -> None:
    """Lets `express` answer, if it wants to. Whatever fails here, the request itself comes yet."""
    reply = express(message.body)
    if reply is None:
        return
    await asyncio.sleep(0)  # what was cast gets to its socket in the next turn, as this does then
    try:
        with lost_as(DeliveryLost, "the connection went before the reply; a successor answers"):
            await _reply(feed, message, reply, desk)
    except DeliveryLost as error:
        log.debug("no reply to a copy", why=str(error))


async def _reply(feed: Feed, message: DeliveredMessage, reply: bytes, desk: str | None) -> None:
    asked = message.header.properties
    if asked.reply_to:
        properties = spec.Basic.Properties(correlation_id=asked.correlation_id, reply_to=desk)
        await _publish(feed, asked.reply_to, reply, properties)


async def _publish(feed: Feed, queue: str, body: bytes, properties: spec.Basic.Properties) -> None:
    """Sends straight to `queue`; not mandatory: whoever has gone needs no word."""
    await feed.amqp.basic_publish(body, routing_key=queue, properties=properties)
