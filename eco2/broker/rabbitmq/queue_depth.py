"""Reads the depth of a queue from the broker.

By a passive declare, on a separate channel: the broker closes the channel if the queue does not exist. The
depth counts the messages that no consumer holds. Those in a wait queue count there, not in the queue to which
they will go.
"""

import asyncio
from collections.abc import Callable

from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from eco2.broker.rabbitmq.connection_errors import ConnectionScope, map_connection_errors
from eco2.broker.rabbitmq.link import Link
from eco2.errors import BrokerUnavailable


class QueueDepth:
    """Reads depths over `link`, on one channel that stays open; `timeout` in seconds.

    `on_missing` is called when a queue does not exist.
    """

    def __init__(self, link: Link, timeout: float, on_missing: Callable[[], None]) -> None:
        self._link = link
        self._on_missing = on_missing
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        self._scope = ConnectionScope()
        self._turn = asyncio.Lock()

    async def depth(self, queue: str) -> int:
        """Messages of `queue` (the broker's name) that no consumer holds. Raises `BrokerUnavailable`."""
        try:
            with map_connection_errors(
                BrokerUnavailable, f"the broker did not tell how full {queue} is; ask again"
            ):
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
            async with self._scope.scope():
                declared = await (await channel.get_underlay_channel()).queue_declare(queue, passive=True)
        except BaseException:
            self._channel = None  # closed by a 404, or with an answer on its way for which no call waits
            raise
        return declared.message_count or 0

    async def _open(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            connection = await self._link.connection(self._timeout)
            channel = connection.channel(publisher_confirms=False)
            scope = ConnectionScope()
            channel.close_callbacks.add(scope.end)
            await channel.initialize()
            self._channel, self._scope = channel, scope
        return self._channel
