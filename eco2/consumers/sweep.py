"""The sweep: ends or orders again the jobs that no run will end, of every pipeline.

All workers request it every few seconds, and the broker gives each request to the same worker (single active
consumer), which thereby leads; no worker needs to know which one does. A repeated sweep, or one with a view
that lags, is harmless: the first end of a job counts, and an order that comes twice runs once. Where no
worker lives, all gateways end overdue jobs (`GatewayDeadlines`): they have no connection for requests.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from decimal import Decimal
from functools import partial

from eco2.consumers.liveness import HolderMonitor
from eco2.consumers.progress import expired
from eco2.errors import BrokerUnavailable, NoReply, RetryableError
from eco2.event import MAX_USD, Paused, Spent
from eco2.journal.journal import Journal
from eco2.journal.orders import find_order
from eco2.journal.presence import Presence
from eco2.journal.spending import day_of
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import DEAD, DELAYS, Broker, Clock, delay_queue, jobs_queue, retry_queue
from eco2.retry import PUBLISH

SERVICE = "sweep"
INTERVAL = 5.0
"""Seconds between two sweeps."""
OVERDUE = 5.0
"""Seconds after its deadline at which a job is ended from here: its worker ends it at the deadline."""
OVERDUE_AT_GATEWAY = 15.0
"""Seconds after its deadline at which a gateway ends a job although workers live."""
DEADLINE_CHECK_INTERVAL = 2.0
"""Seconds between two checks for overdue jobs; one takes 3 ms of CPU for a view of 22,000 jobs."""
MAX_SKEW = 2.0
"""Seconds by which the clock of another process may be ahead."""
LOST_AFTER = 60.0
"""Seconds in which a job and its queues must have been quiet for its order to count as lost."""
MAX_DEPTH_AGE = 4 * INTERVAL
"""Seconds for which the depths of the queues that a sweep found are shown."""
RENEWALS_PER_WINDOW = 3
"""Times that a pause, and the sum paid, is written again within the time that views reach back."""
SPENT_INTERVAL = 60.0
"""Seconds after which a new sum of today's spending is written."""

log = get_logger(__name__)


def overdue(
    jobs: Iterable[JobState], remaining: Callable[[JobState], float], margin: float = OVERDUE
) -> Iterator[JobState]:
    """Selects the jobs that should have ended by themselves. `remaining`: seconds until a job's deadline."""
    return (job for job in jobs if not job.ended and remaining(job) < -margin)


def may_lack_order(
    jobs: Iterable[JobState], now: float, empty_since: Mapping[str, float]
) -> Iterator[JobState]:
    """Selects the jobs that may have lost their order: long without an event, while their queues are empty.

    `empty_since`: by pipeline, since when (Unix seconds) its queues have been empty.
    """
    for job in jobs:
        # A time in the future, by a clock that is ahead, would hide the loss.
        updated_at = job.updated_at if job.updated_at <= now + MAX_SKEW else 0.0
        since = max(updated_at, empty_since.get(job.pipeline, now))
        if not job.ended and now - since >= LOST_AFTER:
            yield job


def renewed_pause(view: View, now: float, window: float) -> Paused | None:
    """Returns the pause of the intake again before views that reach back `window` seconds would miss it."""
    paused = view.paused
    if paused is None or now - paused.ts <= window / RENEWALS_PER_WINDOW:
        return None
    return Paused(ts=now, reason=paused.reason, renewed=True)


def spent_event(view: View, now: float, window: float) -> Spent | None:
    """Returns the sum paid today, for views that do not reach back to the calls; None if it is known."""
    spending, day = view.spending, day_of(now)
    total, last = spending.total(day), spending.written
    if not (spending.complete and total):
        return None
    known = last is not None and last.day == day
    age = now - last.ts if last is not None and known else math.inf
    if age > window / RENEWALS_PER_WINDOW or (age > SPENT_INTERVAL and last and Decimal(last.usd) != total):
        return Spent(ts=now, day=day, usd=f"{min(total, MAX_USD):f}", up_to_offset=view.offset)
    return None


class Deadlines:
    """Ends jobs past their deadline, of any pipeline, each at most once however late the journal shows it."""

    def __init__(
        self, journal: Journal, pipelines: Iterable[AnyPipeline], metrics: Metrics, clock: Clock
    ) -> None:
        self._journal = journal
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._metrics = metrics
        self._clock = clock
        self._ended: set[str] = set()

    def enforce(self, margin: float) -> None:
        """Writes the end of every job that is past its deadline by more than `margin` seconds. Not while the
        view does not follow the journal: what it shows as late may have ended long ago."""
        if not self._journal.current:
            return
        view = self._journal.view
        late = {job.job: job for job in overdue(view, view.remaining, margin)}
        self._ended = {job for job in self._ended if (state := view.get(job)) and not state.ended}
        for job in late.values():
            if job.job not in self._ended:
                log.warning("ended from outside: past its deadline", job=job.job, status=job.status)
                self._ended.add(job.job)
                self._metrics.job_swept(job.pipeline, "ended")
                self._metrics.job_ended(job.pipeline, "failed", "DEADLINE")
                self._journal.put(expired(self._pipelines.get(job.pipeline), job, self._clock()))


class GatewayDeadlines:
    """Ends overdue jobs from a gateway if no worker does: all have stopped, or none leads a sweep."""

    def __init__(self, journal: Journal, deadlines: Deadlines, presence: Presence) -> None:
        self._journal = journal
        self._deadlines = deadlines
        self._presence = presence

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every second until `stop` is set."""
        if not await self._journal.ready(stop):
            return
        while not stop.is_set():
            no_workers = self._presence.is_complete and not self._presence.workers()
            self._deadlines.enforce(OVERDUE if no_workers else OVERDUE_AT_GATEWAY)
            with suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_CHECK_INTERVAL * (0.5 + random.random())):
                    await stop.wait()


class Sweep:
    """`window`: seconds that views reach back. `spending`: whether today's sum is written."""

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        holders: HolderMonitor,
        pipelines: tuple[AnyPipeline, ...],
        metrics: Metrics,
        clock: Clock,
        window: float,
        spending: bool = False,
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._holders = holders
        self._pipelines = {pipeline.name for pipeline in pipelines}
        self._metrics = metrics
        self._clock = clock
        self._window = window
        self._spending = spending
        self._deadlines = Deadlines(journal, pipelines, metrics, clock)
        self._last = -math.inf
        self._sweeping = asyncio.Lock()
        self._empty_since: dict[str, float] = {}
        self._watched: dict[str, ExitStack] = {}
        self._silent: set[str] = set()
        self._depths: dict[str, int] = {}
        metrics.show_queues(self.depths)

    async def run(self, stop: asyncio.Event) -> None:
        """Requests sweeps, and sweeps while it is the leader, until `stop` is set."""
        if not await self._journal.ready(stop):
            return
        serving = self._broker.serve(SERVICE, self._answer)
        async with asyncio.TaskGroup() as group:
            working = [
                group.create_task(self._request_sweeps()),
                group.create_task(self._enforce_deadlines()),
            ]
            await stop.wait()
            for task in working:
                task.cancel()
        await serving.cancel()
        self._watch(())

    async def _request_sweeps(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL * (0.5 + random.random()))
            try:
                await self._broker.request(SERVICE, b"", 2 * INTERVAL)
            except (NoReply, RetryableError) as error:
                log.info("no sweep this time", why=str(error))

    async def _enforce_deadlines(self) -> None:
        """Ends overdue jobs between two sweeps as well, as long as this process must be the leader."""
        while True:
            await asyncio.sleep(DEADLINE_CHECK_INTERVAL)
            if asyncio.get_running_loop().time() - self._last < 2 * INTERVAL:
                self._deadlines.enforce(OVERDUE)

    async def _answer(self, _: bytes) -> bytes:
        """Sweeps, unless it has just done so: all workers send requests."""
        async with self._sweeping:
            now = asyncio.get_running_loop().time()
            if now - self._last >= INTERVAL / 2:
                self._last = now
                await self.sweep()
        return b""

    async def sweep(self) -> None:
        """Ends the overdue jobs, and publishes lost orders again."""
        if not self._journal.current:
            log.warning("no sweep: the view of this worker does not follow the journal")
            return
        now, view = self._clock(), self._journal.view
        if event := renewed_pause(view, now, self._window):
            self._journal.put(event)
        if self._spending and (spent := spent_event(view, now, self._window)):
            self._journal.put(spent)
        self._deadlines.enforce(OVERDUE)
        await self._check_queues(now)
        candidates = {job.job: job for job in may_lack_order(self._journal.view, now, self._empty_since)}
        self._watch(candidates)
        for job_id in self._silent & candidates.keys():
            await self._publish_order(candidates[job_id])

    async def _check_queues(self, now: float) -> None:
        """Notes since when each pipeline has had no order in any of its queues, also one that is not ours."""
        depths = {DEAD: await self._broker.depth(DEAD)}
        others = {job.pipeline for job in self._journal.view if not job.ended} - self._pipelines
        for name in sorted(self._pipelines | others):
            queues = (jobs_queue(name), retry_queue(name), *(delay_queue(name, delay) for delay in DELAYS))
            try:
                found = {queue: await self._broker.depth(queue) for queue in queues}
            except BrokerUnavailable as error:
                if name in self._pipelines:
                    raise
                log.info("no look into the queues of another pipeline", pipeline=name, why=str(error))
                continue
            depths |= found
            if any(found.values()):
                self._empty_since.pop(name, None)
            else:
                self._empty_since.setdefault(name, now)
        self._depths = depths

    def depths(self) -> dict[str, int]:
        """Returns the messages by queue as of the last sweep; none where that is too long ago."""
        age = asyncio.get_running_loop().time() - self._last
        return self._depths if age < MAX_DEPTH_AGE else {}

    def _watch(self, jobs: Iterable[str]) -> None:
        """Queries from now on which worker has an order of these jobs, and of no others."""
        wanted = set(jobs)
        for gone in self._watched.keys() - wanted:
            self._watched.pop(gone).close()
        self._silent &= wanted
        for job in wanted - self._watched.keys():
            stack = self._watched[job] = ExitStack()
            stack.enter_context(self._holders.watch(job, None, partial(self._silent.add, job)))

    async def _publish_order(self, job: JobState) -> None:
        order = await find_order(self._broker, job.job)
        self._silent.discard(job.job)
        if watch := self._watched.pop(job.job, None):  # else the process is stopping
            watch.close()
        if order is None:
            log.warning("the order is lost, and so is its input: the job ends at its deadline", job=job.job)
            return
        # An alarm of a moment must not cost another wait for silence.
        await PUBLISH.retry(
            lambda: self._broker.publish(retry_queue(job.pipeline), order, job.job), timeout=INTERVAL
        )
        log.warning("ordered again: its order was lost", job=job.job)
        self._metrics.job_swept(job.pipeline, "ordered again")
