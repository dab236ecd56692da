"""Consumes with aiormq alone, which aio-pika and eco2 use: a callback, an ack per message, on uvloop."""

import asyncio
import json

import aiormq
import uvloop
from aiormq.abc import DeliveredMessage

from bench.core.work import PREFETCH, QUEUE, URL, work_async


async def _consume() -> None:
    connection = await aiormq.connect(URL)
    channel = await connection.channel()
    await channel.basic_qos(prefetch_count=PREFETCH)

    async def job(message: DeliveredMessage) -> None:
        await work_async(json.loads(message.body)["seconds"])
        await channel.basic_ack(message.delivery_tag or 0)

    await channel.basic_consume(QUEUE, job)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_consume())
