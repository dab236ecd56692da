"""FastStream on RabbitMQ: a quorum queue, acks after the handler.

With results: each is published to a durable queue, persistent and confirmed, before the ack.
"""

import asyncio
import sys

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from bench.core.work import PREFETCH, QUEUE, RESULTS, URL, work_async

broker = RabbitBroker(URL, logger=None, apply_types=False)
app = FastStream(broker, logger=None)
queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
subscriber = broker.subscriber(
    queue, channel=Channel(prefetch_count=PREFETCH), ack_policy=AckPolicy.REJECT_ON_ERROR
)


async def job(body: dict[str, float]) -> dict[str, str]:
    await work_async(body["seconds"])
    return {"status": "completed"}


if RESULTS:
    results = RabbitQueue(RESULTS, queue_type=QueueType.QUORUM, durable=True)
    job = broker.publisher(results, persist=True)(job)
subscriber(job)


async def _publish() -> None:
    async with broker:
        await broker.declare_queue(queue)
        for seconds in sys.argv[1:]:
            await broker.publish({"seconds": float(seconds)}, queue, persist=True)


if __name__ == "__main__":
    asyncio.run(_publish())
