"""taskiq with taskiq-aio-pika: quorum queues are its default; it acks after the job has been executed."""

import asyncio
import sys

from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue

from bench.core.work import PREFETCH, QUEUE, URL, work_async

broker = AioPikaBroker(
    URL,
    qos=PREFETCH,
    exchange=Exchange(name=QUEUE),
    task_queues=[Queue(name=QUEUE)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dead"),
)


@broker.task("core.job")
async def job(seconds: float) -> None:
    await work_async(seconds)


async def _publish() -> None:
    await broker.startup()
    for seconds in sys.argv[1:]:
        await job.kiq(float(seconds))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_publish())
