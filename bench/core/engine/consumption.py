"""Runs eco2's adapter and worker unchanged (deliver, handle, settle), on a journal that stays empty.

The journal is left out: finding the job, opening a run, events, `done`. The rest is the engine's own:
decoding the order, the run, its task, log, metrics, settling its outcome.
"""

import asyncio
import os
import time

import uvloop

from bench.core.engine.pipeline import core
from bench.core.work import PREFETCH, URL, work_async
from eco2 import log
from eco2.broker.rabbitmq import RabbitMQ
from eco2.broker.topology import Topology
from eco2.consumers.executor import Executor
from eco2.consumers.outcome import AlreadyEnded, Outcome
from eco2.consumers.run import ActiveJob, ActiveJobs
from eco2.consumers.worker import Worker
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.metrics import Metrics


class Handler(Executor):
    """Ends each job at once: there is no event to write, so the worker settles the delivery."""

    def __init__(self) -> None:
        """Needs nothing that an executor has."""

    async def execute(self, job: ActiveJob) -> Outcome:
        seconds = job.order.input["seconds"]
        await work_async(float(str(seconds)) if seconds else 0.0)
        return AlreadyEnded("without a journal")


async def _consume() -> None:
    topology = Topology(os.environ["ECO2_PREFIX"], (core.name,))
    broker = RabbitMQ(URL, topology, "bench")
    journal = Journal(broker, View(60.0, time.time))
    journal.filled.set()
    worker = Worker(
        broker, journal, (core,), Handler(), ActiveJobs(), Metrics(), time.time, prefetch=PREFETCH, grace=1.0
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run(stop))
        group.create_task(worker.run(stop))


if __name__ == "__main__":
    log.configure("warning", "json")
    uvloop.run(_consume())
