"""The dead letters, for whoever has to look at them: read without being consumed, dropped one by one.

Guarantees: a letter leaves the queue only by its own `drop`; every other one is back in the queue, in the old
order, when the block ends, also by an exception. How often they were looked at does no harm: the queue has no
delivery limit that anyone reaches (`topology.py`). While the block lasts nobody else sees the letters; when
its connection goes, they are back at once, then perhaps in another order.

A consumer holds them, not one `basic.get` each: a quorum queue takes what different readers held back in any
order, and of one reader only a few messages at a time in theirs.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from aiormq.abc import AbstractChannel, DeliveredMessage

from eco2.broker.rabbitmq.declare import open_for
from eco2.broker.rabbitmq.loss import lost_as
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, DeliveryLost
from eco2.log import get_logger
from eco2.ports import DEAD

log = get_logger(__name__)

MOST = 65_535
"""Letters that can be held at once: AMQP counts a prefetch in 16 bits."""
ARRIVAL = 3.0
"""Seconds without a further letter after which somebody else must hold the missing ones."""
RETURN = 10.0
"""Seconds for giving letters back in order; what then is left goes back in any."""
RETURNED_AT_ONCE = 8
"""Letters given back together. Of more than about thirty RabbitMQ 3.10 loses the order."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message died last. None where the broker does not tell: somebody published it to the queue."""

    queue: str | None
    """Where, by its full name."""
    reason: str | None
    """`rejected`, `delivery_limit`, `expired` or `maxlen`."""
    when: float | None
    """Unix seconds."""
    count: int
    """How often it died there for this reason."""


def death(headers: Mapping[str, object]) -> Death:
    """The newest death in the `headers` of a message: `x-first-death-*` would tell of a wait queue."""
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


class Letter:
    """One dead letter in our hands.

    `queue` (its logical name, as `jobs.scan`), `reason`, `when` (Unix seconds) and `count` tell of its last
    death, as in `Death`.
    """

    def __init__(self, box: "Box", message: DeliveredMessage, prefix: str) -> None:
        properties = message.header.properties
        last = death(properties.headers or {})
        self.body = message.body
        self.message_id = properties.message_id or ""
        self.queue = last.queue and last.queue.removeprefix(prefix)
        self.reason = last.reason
        self.when = last.when
        self.count = last.count
        self._box = box
        self._tag = message.delivery_tag or 0

    async def drop(self) -> None:
        """Returns when the broker has forgotten it; a second call does nothing.

        Raises `DeliveryLost` when the connection is gone: the letter is in the queue again, or was dropped.
        """
        await self._box.drop(self._tag)


class Box:
    """The queue of dead letters, over one channel."""

    def __init__(self, channel: AbstractChannel, topology: Topology) -> None:
        self._channel = channel
        self._queue = topology.queue(DEAD)
        self._prefix = topology.queue("")
        self._held: dict[int, Letter] = {}
        self._arrived = asyncio.Event()

    async def take(self, limit: int) -> list[Letter]:
        """The oldest letters that nobody holds, at most `limit`."""
        wanted = min(await self._waiting(), limit)
        if not wanted:
            return []
        await self._channel.basic_qos(prefetch_count=wanted)
        started = await self._channel.basic_consume(self._queue, self._on_message)
        try:
            while len(self._held) < wanted:
                self._arrived.clear()
                async with asyncio.timeout(ARRIVAL):
                    await self._arrived.wait()
        except TimeoutError:
            log.info("somebody else holds dead letters", missing=wanted - len(self._held))
        await self._channel.basic_cancel(started.consumer_tag or "")
        return list(self._held.values())

    async def drop(self, tag: int) -> None:
        """Acks the letter of this tag, if it is held."""
        if self._held.pop(tag, None) is not None:
            with lost_as(DeliveryLost, "the connection went; look again whether the letter is still there"):
                await self._channel.basic_ack(tag)
                await self._waiting()  # answered behind the ack, which has no answer of its own

    async def close(self) -> None:
        """Every letter that was not dropped goes back."""
        try:
            with lost_as(BrokerUnavailable, "the connection went, and the letters went back by themselves"):
                await self._give_back(list(self._held))
        except BrokerUnavailable as error:
            log.info("dead letters not given back", why=str(error))

    async def _give_back(self, tags: list[int]) -> None:
        """The letters of these tags, a few at a time: the next when the queue has the last."""
        deadline = asyncio.get_running_loop().time() + RETURN
        for start in range(0, len(tags), RETURNED_AT_ONCE):
            part = tags[start : start + RETURNED_AT_ONCE]
            expected = await self._waiting() + len(part)
            await self._channel.basic_nack(part[-1], multiple=True, requeue=True)
            # The broker has no notice of a return. Who takes letters meanwhile makes us wait to the deadline.
            while await self._waiting() < expected and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def _waiting(self) -> int:
        return (await self._channel.queue_declare(self._queue, passive=True)).message_count or 0

    async def _on_message(self, message: DeliveredMessage) -> None:
        self._held[message.delivery_tag or 0] = Letter(self, message, self._prefix)
        self._arrived.set()


@asynccontextmanager
async def letters(url: str, topology: Topology, limit: int = 1000) -> AsyncIterator[list[Letter]]:
    """The oldest dead letters, at most `limit`, in the order in which they died.

    Raises `ConfigurationError` for a refused login, `BrokerUnavailable` without a broker or the queue.
    The broker takes letters back that are held for longer than its `consumer_timeout` (30 minutes).
    """
    if not 1 <= limit <= MOST:
        raise ValueError(f"limit must be from 1 to {MOST}")
    async with await open_for(url, "eco2 dead letters") as connection:
        with lost_as(BrokerUnavailable, "the dead letters cannot be read; see `eco2 topology check`"):
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            box = Box(await channel.get_underlay_channel(), topology)
            held = await box.take(limit)
        try:
            yield held
        finally:
            await box.close()
