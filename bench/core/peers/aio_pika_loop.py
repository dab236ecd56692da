"""Consumes without a task queue: aio-pika, a callback, an ack per message, on uvloop. This is the
reference for the cost of a library."""

import asyncio
import json

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from bench.core.work import PREFETCH, QUEUE, URL, work_async


async def _job(message: AbstractIncomingMessage) -> None:
    await work_async(json.loads(message.body)["seconds"])
    await message.ack()


async def _consume() -> None:
    connection = await aio_pika.connect(URL)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(QUEUE, ensure=False)
    await queue.consume(_job)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_consume())
