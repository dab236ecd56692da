"""What waits in the queues, looked at by a client of the suite's own."""

import asyncio
import time
from collections.abc import Callable, Mapping

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity

SETTLED = 10.0
"""Seconds in which the queues must be as they should be once all have stopped."""


async def depths(url: str, names: list[str]) -> dict[str, int]:
    """Messages that nobody holds, by queue; a queue that does not exist is left out."""
    found = {}
    async with await aio_pika.connect(url) as connection:
        for name in names:
            channel = await connection.channel()
            try:
                queue = await channel.declare_queue(name, passive=True)
            except ChannelNotFoundEntity:
                continue
            found[name] = queue.declaration_result.message_count or 0
            await channel.close()
    return found


async def settled(url: Callable[[], str], wanted: Mapping[str, int]) -> dict[str, int]:
    """The depths as soon as they are as wanted, or as they are after `SETTLED` seconds."""
    deadline = time.monotonic() + SETTLED
    while True:
        found = await depths(url(), list(wanted))
        if all(wanted[name] == count for name, count in found.items()) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def bodies(url: Callable[[], str], queue: str, count: int) -> list[bytes]:
    """So many messages of the queue, sorted, once they are there; they stay."""
    await settled(url, {queue: count})
    async with await aio_pika.connect(url()) as connection:
        channel = await connection.channel()
        source = await channel.declare_queue(queue, passive=True)
        messages = [await source.get(fail=False, no_ack=False) for _ in range(count)]
        return sorted(message.body for message in messages if message is not None)
