"""The sweep: jobs that nobody will ever end by themselves are ended, or ordered again.

All workers ask for it, every few seconds, and the broker gives each request to one and the same of them
(single active consumer): so whoever sweeps is the leader, and nobody needs to know who that is. What it does
twice, or with a view that lags, is harmless: the first end of a job stands, and an order that comes twice
runs once.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from functools import partial

from eco2.consumers.holders import Holders
from eco2.consumers.progress import done, finished, late
from eco2.errors import NoReply, RetryableError
from eco2.event import Paused, Spent
from eco2.journal.journal import Journal
from eco2.journal.orders import Orders
from eco2.journal.spending import day_of
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import DEAD, DELAYS, Broker, Clock, delay_queue, first_queue, jobs_queue

SERVICE = "sweep"
INTERVAL = 5.0
"""Seconds between two sweeps."""
OVERDUE = 5.0
"""Seconds behind its deadline after which a job is ended from here: its worker ends it at the deadline."""
LOST_AFTER = 60.0
"""Seconds in which a job and its queues must have been quiet for its order to count as lost."""
FRESH = 4 * INTERVAL
"""Seconds after which what a sweep saw of the queues is not shown any more."""
RENEW = 3
"""A pause, and what was paid, is written again after one so-manieth of the time that views reach back."""
SPENT_EVERY = 60.0
"""Seconds after which a new sum of what was paid today is written."""

log = get_logger(__name__)


def overdue(jobs: Iterable[JobState], now: float) -> Iterator[JobState]:
    """Those that should have ended by themselves. `now`: Unix seconds."""
    return (job for job in jobs if not job.ended and now > job.deadline + OVERDUE)


def quiet(jobs: Iterable[JobState], now: float, empty_since: Mapping[str, float]) -> Iterator[JobState]:
    """Those that may have lost their order: nothing happened for long, and nothing waits in their queues.

    `empty_since`: by pipeline, since when (Unix seconds) its queues have been empty.
    """
    for job in jobs:
        since = max(job.touched, empty_since.get(job.pipeline, now))
        if not job.ended and now - since >= LOST_AFTER:
            yield job


class Sweep:
    """`keep`: seconds that views reach back. `spending`: write down what was paid today."""

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        orders: Orders,
        holders: Holders,
        pipelines: tuple[AnyPipeline, ...],
        metrics: Metrics,
        clock: Clock,
        keep: float,
        spending: bool = False,
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._orders = orders
        self._holders = holders
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._metrics = metrics
        self._clock = clock
        self._keep = keep
        self._spending = spending
        self._last = -INTERVAL
        self._sweeping = asyncio.Lock()
        self._empty_since: dict[str, float] = {}
        self._watched: dict[str, ExitStack] = {}
        self._silent: set[str] = set()
        self._depths: dict[str, int] = {}
        metrics.show_queues(self._known_depths)

    async def run(self, stop: asyncio.Event) -> None:
        """Asks for sweeps, and sweeps where it is the leader, until `stop` is set."""
        if not await self._journal.ready(stop):
            return
        serving = self._broker.serve(SERVICE, self._answer)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask())
            await stop.wait()
            asking.cancel()
        await serving.cancel()
        self._watch(())

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL * (0.5 + random.random()))
            try:
                await self._broker.ask(SERVICE, b"", 2 * INTERVAL)
            except (NoReply, RetryableError) as error:
                log.info("no sweep this time", why=str(error))

    async def _answer(self, _: bytes) -> bytes:
        """One sweep, unless there was one just now; all workers ask."""
        async with self._sweeping:
            now = asyncio.get_running_loop().time()
            if now - self._last >= INTERVAL / 2:
                self._last = now
                await self._sweep()
        return b""

    async def _sweep(self) -> None:
        now = self._clock()
        self._renew_pause(now)
        if self._spending:
            self._write_spent(now)
        for job in overdue(tuple(self._journal.view), now):
            self._end(job, now)
        await self._look_into_queues(now)
        candidates = {job.job: job for job in quiet(self._journal.view, now, self._empty_since)}
        self._watch(candidates)
        for job_id in self._silent & candidates.keys():
            await self._order_again(candidates[job_id])

    def _renew_pause(self, now: float) -> None:
        paused = self._journal.view.paused
        if paused is not None and now - paused.ts > self._keep / RENEW:
            self._journal.put(Paused(ts=now, reason=paused.reason, renewed=True))

    def _write_spent(self, now: float) -> None:
        """So that views know it which do not reach back to what was paid."""
        spending, day = self._journal.view.spending, day_of(now)
        total, last = spending.total(day), spending.written
        if not (spending.complete and total):
            return
        known = last is not None and last.day == day
        age = now - last.ts if last is not None and known else math.inf
        if age > self._keep / RENEW or (age > SPENT_EVERY and last and Decimal(last.usd) != total):
            self._journal.put(Spent(ts=now, day=day, usd=f"{total:f}", upto=self._journal.view.offset))

    def _end(self, job: JobState, now: float) -> None:
        pipeline = self._pipelines.get(job.pipeline)
        if pipeline is None:
            return  # only who knows the pipeline can say what its results look like
        log.warning("ended by the sweep: past its deadline", job=job.job, status=job.status)
        self._metrics.job_swept(job.pipeline, "ended")
        end = finished(pipeline, job.job, None, late(job), dict(job.usage))
        self._metrics.job_ended(job.pipeline, end.status, end.code)
        self._journal.put(done(pipeline, job.job, None, end, now))

    async def _look_into_queues(self, now: float) -> None:
        """Notes since when each pipeline has had no order in any of its queues."""
        depths = {DEAD: await self._broker.depth(DEAD)}
        for name in self._pipelines:
            queues = (jobs_queue(name), first_queue(name), *(delay_queue(name, delay) for delay in DELAYS))
            depths |= {queue: await self._broker.depth(queue) for queue in queues}
            if any(depths[queue] for queue in queues):
                self._empty_since.pop(name, None)
            else:
                self._empty_since.setdefault(name, now)
        self._depths = depths

    def _known_depths(self) -> dict[str, int]:
        """Messages by queue, as long as this process leads: what it saw long ago says nothing."""
        age = asyncio.get_running_loop().time() - self._last
        return self._depths if age < FRESH else {}

    def _watch(self, jobs: Iterable[str]) -> None:
        """Asks from now on who has an order of these jobs, and of no others."""
        wanted = set(jobs)
        for gone in self._watched.keys() - wanted:
            self._watched.pop(gone).close()
        self._silent &= wanted
        for job in wanted - self._watched.keys():
            stack = self._watched[job] = ExitStack()
            stack.enter_context(self._holders.watch(job, None, partial(self._silent.add, job)))

    async def _order_again(self, job: JobState) -> None:
        order = await self._orders.find(job.job)
        self._silent.discard(job.job)
        if watch := self._watched.pop(job.job, None):  # else the process is stopping
            watch.close()
        if order is None:
            log.warning("the order is lost, and so is its input: the job ends at its deadline", job=job.job)
            return
        await self._broker.publish(first_queue(job.pipeline), order, job.job)
        log.warning("ordered again: its order was lost", job=job.job)
        self._metrics.job_swept(job.pipeline, "ordered again")
