"""Finds out in time what an idle publisher is not told.

The broker announces an alarm only to a connection that publishes, and a dead peer is silent. So a message
that no queue gets is published every second: an alarm shows before a job is sent into it (as a ghost that
arrives when the alarm is over), and a connection that confirms nothing is given up.
"""

import asyncio

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange

from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import lost_as
from eco2.errors import PublishUncertain
from eco2.log import get_logger

log = get_logger(__name__)

PROBE_INTERVAL = 1.0


class Probe:
    """A session of `link` that publishes to `key`, which no queue has; `timeout` in seconds."""

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
                log.warning("connecting anew", link=self._link.name, why=str(error))
                self._link.drop()
