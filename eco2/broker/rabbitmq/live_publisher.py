"""Sends live messages: no confirms, a bounded buffer, no wait.

A publish never raises and never delays its caller. The message is dropped when the link is down or blocked,
and the oldest waiting ones when the socket is too slow.
"""

import asyncio
from collections import deque
from typing import NamedTuple

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as AmqpChannel

from eco2.broker.rabbitmq.connection_errors import ignore_connection_errors
from eco2.broker.rabbitmq.link import Link

BUFFER_SIZE = 1000
"""Messages that wait for the socket."""


class LiveMessage(NamedTuple):
    """A live message on its way."""

    exchange: str
    topic: str
    body: bytes


class LivePublisher:
    """Sends live messages without confirms, from a bounded buffer; drops them when not connected."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: AbstractChannel | None = None
        self._amqp: AmqpChannel | None = None
        self._buffer: deque[LiveMessage] = deque(maxlen=BUFFER_SIZE)
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        link.add(self)

    def __str__(self) -> str:
        return "live publisher"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(self._link.wake)
        self._channel, self._amqp = channel, await channel.get_underlay_channel()

    def detach(self) -> None:
        self._channel = self._amqp = None

    def publish(self, exchange: str, topic: str, body: bytes) -> None:
        """Buffers the message and returns."""
        if self.attached and not self._link.blocked:
            self._buffer.append(LiveMessage(exchange, topic, body))
            self._empty.clear()
            self._filled.set()

    async def run(self) -> None:
        """Sends the buffered messages until cancelled."""
        while True:
            await self._filled.wait()
            while self._buffer:
                message = self._buffer.popleft()
                if self._amqp is None:
                    continue
                with ignore_connection_errors("live message dropped", topic=message.topic):
                    await self._amqp.basic_publish(
                        message.body, exchange=message.exchange, routing_key=message.topic
                    )
            self._filled.clear()
            self._empty.set()

    async def flush(self) -> None:
        """Returns when everything was handed to the socket."""
        await self._empty.wait()
