"""Request and reply: each process has a reply queue; each service, one queue with a single active consumer.

Direct reply-to is not used: a reply to an address on a node that is down ends the connection of the process
that replies, again and again (RabbitMQ 3.10). A reply to a deleted queue is dropped. A request expires when
its client stops waiting, so a new server does not handle requests that need no answer. It is acked after its
reply: if a server fails, its successor gets the request.

The service's queue is a quorum queue, which writes a request to disk before it delivers it. A server may also
have a direct queue: in memory, and deleted with its connection. Replies name it, and a client sends a copy of
its next request there first. The request itself follows if no reply comes soon.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import NamedTuple

from aio_pika.abc import AbstractConnection
from aiormq import spec
from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.connection_errors import map_connection_errors
from eco2.broker.rabbitmq.consumer import Consumer, ConsumerChannel
from eco2.broker.rabbitmq.link import Link
from eco2.errors import BrokerUnavailable, DeliveryLost, NoReply
from eco2.log import get_logger
from eco2.ports import Express

log = get_logger(__name__)

SERVE_PREFETCH = 256
"""Requests that one server handles at once."""
HEAD_START = 0.005
"""Seconds between a copy and its request; a request whose copy was answered by then is not sent."""
DIRECT_QUEUE_LENGTH = 1000
"""Copies that wait in a direct queue before the oldest are dropped."""

Handler = Callable[[bytes], Awaitable[bytes]]
Spawn = Callable[[Coroutine[None, None, None]], object]


class _PendingRequest(NamedTuple):
    """A request to `queue` that has no reply yet."""

    queue: str
    reply: asyncio.Future[bytes]


class RpcClient:
    """A reply queue, as a session of `link`, and the requests that wait for a reply."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._feed: ConsumerChannel | None = None
        self._queue = ""
        self._attached = asyncio.Event()
        self._waiting: dict[str, _PendingRequest] = {}
        self._direct_queues: dict[str, str] = {}
        """The direct queue of the last process that replied, by the service's queue."""
        self._wanted = False

    def __str__(self) -> str:
        return "reply address"

    @property
    def attached(self) -> bool:
        return self._feed is not None and self._feed.alive

    async def attach(self, connection: AbstractConnection) -> None:
        feed = await ConsumerChannel.open(connection, self._on_loss)
        queue = await feed.channel.declare_queue(exclusive=True, auto_delete=True)
        await feed.consume(queue.name, self._on_reply, prefetch=None)
        self._feed, self._queue = feed, queue.name
        self._attached.set()

    def detach(self) -> None:
        self._feed = None
        self._attached.clear()
        self._direct_queues.clear()
        for pending in self._waiting.values():
            pending.reply.cancel()

    async def request(self, queue: str, body: bytes, timeout: float, express: bool = False) -> bytes:
        """Returns the reply to `body` from the server of `queue`, in at most `timeout` seconds."""
        if not self._wanted:
            self._wanted = True
            self._link.add(self)
        loop = asyncio.get_running_loop()
        deadline, name = loop.time() + timeout, uuid.uuid4().hex
        try:
            async with asyncio.timeout_at(deadline):
                await self._attached.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"{self._link.name}: not connected; nothing was sent") from None
        feed = self._feed
        if feed is None or not feed.alive:
            raise BrokerUnavailable(f"{self._link.name}: the connection was lost just now; ask again")
        reply: asyncio.Future[bytes] = loop.create_future()
        self._waiting[name] = _PendingRequest(queue, reply)
        direct_queue = self._direct_queues.get(queue) if express else None
        properties = spec.Basic.Properties(correlation_id=name, reply_to=self._queue)
        try:
            async with asyncio.timeout_at(deadline):
                with map_connection_errors(NoReply, "the connection went with the request; ask again"):
                    if direct_queue is not None:
                        await feed.send(direct_queue, body, properties)
                        await asyncio.wait((reply,), timeout=HEAD_START)
                    if not reply.done():
                        # Only the rest: the wait for a connection has used some of the time already.
                        properties.expiration = str(max(1, round((deadline - loop.time()) * 1000)))
                        await feed.send(queue, body, properties)
                await asyncio.wait((reply,))
        except TimeoutError:
            raise NoReply(f"no reply from {queue} within {timeout:g} s; ask again") from None
        finally:
            del self._waiting[name]
        if reply.cancelled():
            raise NoReply("the connection went before the reply came; ask again")
        return reply.result()

    def _on_loss(self, *_: object) -> None:
        self.detach()
        self._link.wake()

    async def _on_reply(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        pending = self._waiting.get(properties.correlation_id or "")
        if pending is not None and not pending.reply.done():
            if properties.reply_to:
                self._direct_queues[pending.queue] = properties.reply_to
            pending.reply.set_result(message.body)


def serve(link: Link, queue: str, handler: Handler, spawn: Spawn, express: Express | None = None) -> Consumer:
    """Stands for election at `queue`; requests are handled side by side, in tasks that `spawn` starts."""

    async def start(_: Consumer, feed: ConsumerChannel) -> None:
        direct_queue: str | None = None

        async def on_message(message: DeliveredMessage) -> None:
            # In a task of our own: aiormq cancels its callbacks with the connection.
            feed.track()
            spawn(_answer(feed, message, handler, direct_queue))

        async def on_copy(message: DeliveredMessage) -> None:
            if express is None or not feed.alive or (reply := express(message.body)) is None:
                return
            await asyncio.sleep(0)  # broadcasts get to their socket in the next turn, before this reply
            try:
                await _reply(feed, message, reply, direct_queue)
            except DeliveryLost as error:  # the request itself still comes
                log.debug("no reply to a copy", why=str(error))

        if express is not None:
            direct_queue = await feed.open_direct_queue(on_copy, DIRECT_QUEUE_LENGTH)
        await feed.consume(queue, on_message, SERVE_PREFETCH)

    return Consumer(link, queue, start)


async def _answer(
    feed: ConsumerChannel, message: DeliveredMessage, handler: Handler, direct_queue: str | None
) -> None:
    """Handles one request, replies and acks. A handler that fails sends no reply and is not called again."""
    try:
        reply = await handler(message.body)
    except Exception:
        log.exception("a handler failed; the request gets no reply", service=message.routing_key)
        reply = None
    try:
        if reply is not None:
            await _reply(feed, message, reply, direct_queue)
        await feed.ack(message.delivery_tag or 0)
    except DeliveryLost as error:
        log.info("no reply sent", why=str(error))


async def _reply(
    feed: ConsumerChannel, message: DeliveredMessage, reply: bytes, direct_queue: str | None
) -> None:
    request = message.header.properties
    if request.reply_to:
        properties = spec.Basic.Properties(correlation_id=request.correlation_id, reply_to=direct_queue)
        with map_connection_errors(DeliveryLost, "the connection went before the reply; a successor answers"):
            await feed.send(request.reply_to, reply, properties)
