"""How many messages wait in a queue, asked of the broker itself.

A passive declare, on a channel of its own: the broker closes the channel over a queue that does not exist,
and nothing else may suffer from that. The number is what nobody holds at this moment; what a wait queue holds
back is in that queue, not in the one to which it will go.
"""

import asyncio
from collections.abc import Callable

from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.loss import Lifetime, lost_as
from eco2.errors import BrokerUnavailable


class Gauge:
    """Asks over `link`, on one channel that is kept; `timeout` in seconds. `on_missing`: no such queue."""

    def __init__(self, link: Link, timeout: float, on_missing: Callable[[], None]) -> None:
        self._link = link
        self._on_missing = on_missing
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        self._lifetime = Lifetime()
        self._turn = asyncio.Lock()

    async def depth(self, queue: str) -> int:
        """Messages of `queue` (the broker's name) that nobody holds. Raises `BrokerUnavailable`."""
        try:
            with lost_as(BrokerUnavailable, f"the broker did not tell how full {queue} is; ask again"):
                async with asyncio.timeout(self._timeout), self._turn:
                    return await self._ask(queue)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                self._on_missing()
                raise BrokerUnavailable(
                    f"no queue {queue} at the broker; run `eco2 topology apply`"
                ) from error
            raise

    async def _ask(self, queue: str) -> int:
        channel = await self._open()
        try:
            async with self._lifetime.scope():
                declared = await (await channel.get_underlay_channel()).queue_declare(queue, passive=True)
        except BaseException:
            self._channel = None  # closed by a 404, or with an answer on its way that nobody waits for
            raise
        return declared.message_count or 0

    async def _open(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            connection = await self._link.connection(self._timeout)
            channel = connection.channel(publisher_confirms=False)
            lifetime = Lifetime()
            channel.close_callbacks.add(lifetime.end)
            await channel.initialize()
            self._channel, self._lifetime = channel, lifetime
        return self._channel
