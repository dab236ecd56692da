"""Reading the stream: tails that survive lost connections, and readers that end with theirs.

A tail resumes at its last record, compares it, and drops what it has seen: no record is lost or repeated, and
a stream that was deleted and made again is not taken for the old one (`Position`). Offsets are sparse: they
are compared, never counted with.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from math import floor

from aiormq.abc import DeliveredMessage

from eco2.broker.position import Position
from eco2.broker.rabbitmq.connection_errors import call, map_connection_errors
from eco2.broker.rabbitmq.consumer import Arguments, Consumer, ConsumerChannel
from eco2.broker.rabbitmq.link import Link
from eco2.errors import BrokerUnavailable
from eco2.ports import FromLast, FromOffset, FromStart, FromTime, Record, Start

TAIL_PREFETCH = 400
READ_PREFETCH = 200
CLOCK_MARGIN = 2.0
"""Seconds that our clock may be ahead of the broker's when we ask for a time."""


def arguments(start: Start) -> Arguments:
    """The consumer's arguments that make the broker begin at `start` or earlier."""
    match start:
        case FromStart():
            return {"x-stream-offset": "first"}
        case FromOffset(offset):
            return {"x-stream-offset": offset}
        case FromLast():
            return {"x-stream-offset": "last"}  # the whole last chunk
        case FromTime(ts):
            whole = max(0, floor(ts - CLOCK_MARGIN))
            return {"x-stream-offset": datetime.fromtimestamp(whole, UTC)}


def wanted(start: Start, offset: int) -> bool:
    """False for a record before `start`: the broker begins with a whole chunk."""
    return not (isinstance(start, FromOffset) and offset < start.offset)


class Acks:
    """Acks with `multiple` after every quarter of a prefetch: single acks cost two thirds of the rate."""

    def __init__(self, feed: ConsumerChannel, prefetch: int) -> None:
        self._feed = feed
        self._every = max(1, prefetch // 4)
        self._seen = 0
        self._tag = 0
        self._sending = False

    async def seen(self, message: DeliveredMessage) -> None:
        """`message` was handed over."""
        self._seen += 1
        self._tag = message.delivery_tag or 0
        if self._sending:  # one at a time: an older tag after a newer one closes the channel
            return
        self._sending = True
        try:
            while self._seen >= self._every:
                self._seen = 0
                await self._feed.amqp.basic_ack(self._tag, multiple=True, wait=False)
        finally:
            self._sending = False


def record(message: DeliveredMessage) -> Record:
    """The record that `message` of a stream carries."""
    headers = message.header.properties.headers or {}
    offset = headers["x-stream-offset"]
    if not isinstance(offset, int):
        raise TypeError(f"x-stream-offset is {offset!r}, not an integer: is the queue a stream?")
    return Record(offset, message.body)


class StreamTail:
    """`ports.Tail` of `stream` (the broker's name) on `link`."""

    def __init__(
        self,
        link: Link,
        stream: str,
        start: Start,
        on_record: Callable[[Record], None],
        on_replaced: Callable[[], None],
    ) -> None:
        self._link = link
        self._stream = stream
        self._position = Position(start, lambda item: call(on_record, item), lambda: call(on_replaced))
        self._feed: ConsumerChannel | None = None
        self._consumer = Consumer(link, stream, self._begin)

    @property
    def attached(self) -> bool:
        return self._consumer.attached and self._position.proven

    async def reattach(self) -> None:
        # The whole connection: what keeps a tail silent may keep every channel of it silent.
        if self._consumer.attached:
            self._link.give_up()

    async def cancel(self) -> None:
        await self._consumer.cancel()

    async def _begin(self, consumer: Consumer, feed: ConsumerChannel) -> None:
        acks = Acks(feed, TAIL_PREFETCH)
        self._feed = feed

        async def on_message(message: DeliveredMessage) -> None:
            if feed is self._feed and not consumer.cancelled:  # else left over from the connection before
                self._position.take(record(message))
            await acks.seen(message)

        await feed.consume(self._stream, on_message, TAIL_PREFETCH, arguments(self._position.attach()))


@asynccontextmanager
async def read(link: Link, stream: str, start: Start, timeout: float) -> AsyncIterator[AsyncIterator[Record]]:
    """An independent reader; the iteration raises `BrokerUnavailable` when the connection goes."""
    connection = await link.connection(timeout)
    arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()

    def on_loss(*_: object) -> None:
        arrived.put_nowait(None)

    async def on_message(message: DeliveredMessage) -> None:
        arrived.put_nowait(message)

    with map_connection_errors(BrokerUnavailable, f"{stream} cannot be read now; try again later"):
        feed = await ConsumerChannel.open(connection, on_loss)
        await feed.consume(stream, on_message, READ_PREFETCH, arguments(start))
    try:
        yield _records(arrived, start, Acks(feed, READ_PREFETCH))
    finally:
        await feed.close()


async def _records(
    arrived: asyncio.Queue[DeliveredMessage | None], start: Start, acks: Acks
) -> AsyncIterator[Record]:
    while (message := await arrived.get()) is not None:
        item = record(message)
        if wanted(start, item.offset):
            yield item
        with map_connection_errors(BrokerUnavailable, "the reader's connection was lost; open another"):
            await acks.seen(message)
    raise BrokerUnavailable("the reader's connection was lost; open another")
