"""Dead letters for operators: read without being consumed, dropped one by one.

Guarantees: a dead letter leaves the queue only by its own `drop`. When the block ends, also by an exception,
all others are in the queue again, and in the old order if all were held. Reading them any number of times is
harmless, since the queue's delivery limit is out of reach (`topology.py`). During the block no other reader
sees them. If its connection goes, they are back at once, perhaps in another order.

One consumer holds them all, since a quorum queue keeps no order among messages that different readers (or
several `basic.get`) return, and for one reader only the order of a few at a time.

An ack has no answer, and a channel keeps acks back while more than 32 of them are not yet in the queue's log:
those are lost when the channel closes. So each drop waits for a `basic.get`, which goes through that log.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from aiormq.abc import AbstractChannel, DeliveredMessage

from eco2.broker.rabbitmq.connection_errors import map_connection_errors
from eco2.broker.rabbitmq.declare import open_for
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, DeliveryLost
from eco2.log import get_logger
from eco2.ports import DEAD

log = get_logger(__name__)

MAX_HELD = 65_535
"""Letters that can be held at once: AMQP counts a prefetch in 16 bits."""
ARRIVAL_TIMEOUT = 3.0
"""Seconds without a further letter after which another reader must hold the missing ones."""
RETURN_TIMEOUT = 10.0
"""Seconds for giving letters back in order; the rest then goes back in any order."""
RETURN_BATCH = 8
"""Letters given back together. Of more than about thirty RabbitMQ 3.10 loses the order."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message died last. None where the broker gives no reason: it was published to the queue."""

    queue: str | None
    """Where, by its full name."""
    reason: str | None
    """`rejected`, `delivery_limit`, `expired` or `maxlen`."""
    when: float | None
    """Unix seconds."""
    count: int
    """How often it died there for this reason."""


def death(headers: Mapping[str, object]) -> Death:
    """Returns the newest death in a message's `headers`; `x-first-death-*` may name a wait queue."""
    deaths = headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(newest := deaths[0], Mapping):
        return Death(None, None, None, 0)
    queue, reason, when, count = (newest.get(name) for name in ("queue", "reason", "time", "count"))
    return Death(
        queue if isinstance(queue, str) else None,
        reason if isinstance(reason, str) else None,
        when.timestamp() if isinstance(when, datetime) else None,
        count if isinstance(count, int) else 0,
    )


class DeadLetterMessage:
    """One dead letter that is held here.

    `queue` (its logical name, as `jobs.scan`), `reason`, `when` (Unix seconds) and `count` are those of its
    last death, as in `Death`.
    """

    def __init__(self, queue: "DeadLetterQueue", message: DeliveredMessage, prefix: str) -> None:
        properties = message.header.properties
        last = death(properties.headers or {})
        self.body = message.body
        self.message_id = properties.message_id or ""
        self.queue = last.queue and last.queue.removeprefix(prefix)
        self.reason = last.reason
        self.when = last.when
        self.count = last.count
        self._queue = queue
        self._tag = message.delivery_tag or 0

    async def drop(self) -> None:
        """Returns when the broker has forgotten it; a second call does nothing.

        Raises `DeliveryLost` when the connection is gone: the letter is in the queue again, or was dropped.
        """
        await self._queue.drop(self._tag)


class DeadLetterQueue:
    """The queue of dead letters, over one channel."""

    def __init__(self, channel: AbstractChannel, topology: Topology) -> None:
        self._channel = channel
        self._queue = topology.queue(DEAD)
        self._prefix = topology.queue("")
        self._held: dict[int, DeadLetterMessage] = {}
        self._arrived = asyncio.Event()
        self._next = 0  # delivery tag of the letter that `_pass_log` holds; 0: none
        self._drops = asyncio.Lock()  # one `_pass_log` at a time

    async def take(self, limit: int) -> list[DeadLetterMessage]:
        """Takes the oldest letters that no other reader holds, at most `limit`."""
        wanted = min(await self._waiting(), limit)
        if not wanted:
            return []
        await self._channel.basic_qos(prefetch_count=wanted)
        started = await self._channel.basic_consume(self._queue, self._on_message)
        try:
            while len(self._held) < wanted:
                self._arrived.clear()
                async with asyncio.timeout(ARRIVAL_TIMEOUT):
                    await self._arrived.wait()
        except TimeoutError:
            log.info("another consumer holds dead letters", missing=wanted - len(self._held))
        await self._channel.basic_cancel(started.consumer_tag or "")
        return list(self._held.values())

    async def drop(self, tag: int) -> None:
        """Acks the letter of this tag, if it is held."""
        if self._held.pop(tag, None) is not None:
            with map_connection_errors(
                DeliveryLost, "the connection went; look again whether the letter is still there"
            ):
                await self._channel.basic_ack(tag)
                async with self._drops:
                    await self._pass_log()

    async def close(self) -> None:
        """Gives back every letter that was not dropped: a few at a time, to keep their order."""
        try:
            with map_connection_errors(
                BrokerUnavailable, "the connection went, and the letters went back by themselves"
            ):
                tags = list(self._held)
                parts = [tags[start : start + RETURN_BATCH] for start in range(0, len(tags), RETURN_BATCH)]
                if self._next:
                    parts.append([self._next])  # alone: letters of two readers lose their order
                deadline = asyncio.get_running_loop().time() + RETURN_TIMEOUT
                for part in parts:
                    expected = await self._waiting() + len(part)
                    await self._channel.basic_nack(part[-1], multiple=True, requeue=True)
                    # The broker sends no notice of a return; another reader may take them before.
                    while await self._waiting() < expected and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                        await asyncio.sleep(0.002)
        except BrokerUnavailable as error:
            log.info("dead letters not given back", why=str(error))

    async def _pass_log(self) -> None:
        """Returns when the queue's log has all acks that were sent; holds the oldest letter of the rest."""
        if self._next:
            await self._channel.basic_nack(self._next, requeue=True)
        self._next = (await self._channel.basic_get(self._queue)).delivery_tag or 0

    async def _waiting(self) -> int:
        return (await self._channel.queue_declare(self._queue, passive=True)).message_count or 0

    async def _on_message(self, message: DeliveredMessage) -> None:
        self._held[message.delivery_tag or 0] = DeadLetterMessage(self, message, self._prefix)
        self._arrived.set()


@asynccontextmanager
async def open_dead_letters(
    url: str, topology: Topology, limit: int = 1000
) -> AsyncIterator[list[DeadLetterMessage]]:
    """The oldest dead letters, at most `limit`, in the order in which they died.

    Raises `ConfigurationError` for a refused login, `BrokerUnavailable` without a broker or the queue.
    The broker takes letters back that are held for longer than its `consumer_timeout` (30 minutes).
    """
    if not 1 <= limit <= MAX_HELD:
        raise ValueError(f"limit must be from 1 to {MAX_HELD}")
    async with await open_for(url, "eco2 dead letters") as connection:
        with map_connection_errors(
            BrokerUnavailable, "the dead letters cannot be read; see `eco2 topology check`"
        ):
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            queue = DeadLetterQueue(await channel.get_underlay_channel(), topology)
            held = await queue.take(limit)
        try:
            yield held
        finally:
            await queue.close()
