"""Publishing with confirms, and casting without.

A publish that returned is safe at the broker. Otherwise the error says whether it was sent at all: a caller
that gets `PublishUncertain` must assume both outcomes and repeat with the same id.
"""

import asyncio
import logging
from collections import deque
from typing import NamedTuple

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import Lifetime, lost_as
from eco2.errors import BrokerUnavailable, PublishUncertain, Unroutable

log = logging.getLogger(__name__)

CAST_BUFFER = 1000
"""Casts that wait for the socket; the oldest are dropped beyond it."""

PROBE_INTERVAL = 1.0

BLOCKED = "the broker takes no publishes (memory or disk alarm)"


class Publisher:
    """A confirm channel for messages that must not be lost. One for life: a channel per publish is slow.

    Publishes with the same id wait for each other, because a returned message is known by its id only.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        self._lifetime = Lifetime()
        self._in_flight: dict[str, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        link.add(self)

    def __str__(self) -> str:
        return "publisher"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        channel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        self._lifetime = Lifetime()
        channel.close_callbacks.add(self._lifetime.end)
        channel.close_callbacks.add(self._link.wake)
        self._channel = channel

    def detach(self) -> None:
        self._channel = None

    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        """Returns once `queue` (the broker's name) holds the message. Errors as `ports.WorkQueue.publish`."""
        while earlier := self._in_flight.get(message_id):
            await earlier.wait()
        exchange = self._exchange()
        done = self._in_flight[message_id] = asyncio.Event()
        self._idle.clear()
        try:
            message = Message(body, message_id=message_id, delivery_mode=DeliveryMode.PERSISTENT)
            with lost_as(PublishUncertain, f"{message_id}: no confirm; publish it again with the same id"):
                async with self._lifetime.scope():
                    await self._send(exchange, queue, message)
        finally:
            del self._in_flight[message_id]
            done.set()
            if not self._in_flight:
                self._idle.set()

    async def _send(self, exchange: AbstractExchange, queue: str, message: Message) -> None:
        try:
            await exchange.publish(message, queue, mandatory=True, timeout=self._timeout)
        except PublishError:
            raise Unroutable(f"no queue {queue} at the broker; run `eco2 topology apply`") from None
        except DeliveryError as nack:
            # A nack says that the queue could not take it; after a change of its leader it may have.
            raise PublishUncertain(
                f"{message.message_id}: {nack}; publish it again with the same id"
            ) from nack

    def _exchange(self) -> AbstractExchange:
        if self._channel is None or self._channel.is_closed:
            raise BrokerUnavailable("not connected to the broker; nothing was sent, try again later")
        if self._link.blocked:
            raise BrokerUnavailable(f"{BLOCKED}; nothing was sent, try again later")
        return self._channel.default_exchange

    async def flush(self) -> None:
        """Returns when no publish is in flight; each ends within the time-out."""
        await self._idle.wait()


class Cast(NamedTuple):
    """A live message on its way."""

    exchange: str
    topic: str
    body: bytes


class Caster:
    """Sends live messages without confirms, from a bounded buffer; drops them when not connected."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: AbstractChannel | None = None
        self._buffer: deque[Cast] = deque(maxlen=CAST_BUFFER)
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        link.add(self)

    def __str__(self) -> str:
        return "caster"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(self._link.wake)
        self._channel = channel

    def detach(self) -> None:
        self._channel = None

    def cast(self, exchange: str, topic: str, body: bytes) -> None:
        """Hands over and returns."""
        if self.attached and not self._link.blocked:
            self._buffer.append(Cast(exchange, topic, body))
            self._empty.clear()
            self._filled.set()

    async def run(self) -> None:
        """Sends what was cast until cancelled."""
        while True:
            await self._filled.wait()
            while self._buffer:
                await self._send(self._buffer.popleft())
            self._filled.clear()
            self._empty.set()

    async def flush(self) -> None:
        """Returns when everything was handed to the socket."""
        await self._empty.wait()

    async def _send(self, cast: Cast) -> None:
        if self._channel is None:
            return
        try:
            with lost_as(BrokerUnavailable, f"the cast to {cast.topic} was dropped"):
                exchange = await self._channel.get_exchange(cast.exchange, ensure=False)
                await exchange.publish(Message(cast.body), cast.topic, mandatory=False)
        except BrokerUnavailable as error:
            log.debug("%s", error)


class Probe:
    """Finds out in time what an idle publisher is not told.

    The broker announces an alarm only to a connection that publishes, and a dead peer is silent. So a
    message that no queue gets is published every second: an alarm shows before a job is sent into it, and
    a connection that confirms nothing is given up.
    """

    def __init__(self, link: Link, key: str, timeout: float) -> None:
        self._link = link
        self._key = key
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        link.add(self)

    def __str__(self) -> str:
        return "probe"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        channel = connection.channel(publisher_confirms=True)
        await channel.initialize()
        self._channel = channel

    def detach(self) -> None:
        self._channel = None

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            if self._channel is not None and not self._link.blocked:
                await self._publish(self._channel.default_exchange)

    async def _publish(self, exchange: AbstractExchange) -> None:
        try:
            with lost_as(PublishUncertain, "a probe was not confirmed"):
                await exchange.publish(Message(b""), self._key, mandatory=False, timeout=self._timeout)
        except PublishUncertain as error:
            if self.attached and not self._link.blocked:
                log.warning("%s: %s; connecting anew", self._link.name, error)
                self._link.drop()
