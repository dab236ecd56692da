"""The sweep: ends or orders again the jobs that no run will end, of every pipeline.

One worker leads: of the living ones that can sweep, the one with the lowest process name. Each worker judges
this alone, from the heartbeats that it hears. So two may lead for a while, and none for a few seconds; both
are harmless, as is a sweep with a view that lags: the first end of a job counts, and an order that comes
twice runs once. Where no worker leads, all gateways end overdue jobs (`Deadlines.run_at_gateway`).
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product

from eco2.consumers.liveness import HolderMonitor
from eco2.consumers.progress import expired, time_code
from eco2.consumers.scope import TimeCode
from eco2.errors import BrokerUnavailable, RetryableError
from eco2.event import Paused
from eco2.job import PRIORITIES, Priority
from eco2.journal.journal import Journal
from eco2.journal.orders import find_order
from eco2.journal.presence import Peer, Presence
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import DEAD, DELAYS, Broker, Clock, delay_queue, jobs_queue, retry_queue
from eco2.retry import PUBLISH

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
"""Seconds for which the depths that a sweep found count: a lost connection stops some sweeps."""
MAX_LEADER_SILENCE = 7.0
"""Seconds without a heartbeat after which a worker is passed over: two were lost. A process counts as stopped
later, but a second leader does no harm."""
RENEWALS_PER_WINDOW = 3
"""Times that a pause is written again within the time that views reach back."""

log = get_logger(__name__)


def leads(process: str, peers: Iterable[Peer], now: float) -> bool:
    """Decides whether a worker that can sweep leads: none that can has a lower name than `process`.

    `peers`: those that it hears; without any it leads. `now`: its monotonic clock.
    """
    return not any(
        peer.heartbeat.can_sweep
        and peer.heartbeat.process < process
        and now - peer.received_at <= MAX_LEADER_SILENCE
        for peer in peers
    )


def overdue(
    jobs: Iterable[JobState], remaining: Callable[[JobState], float], margin: float = OVERDUE
) -> Iterator[JobState]:
    """Selects the jobs that should have ended by themselves. `remaining`: seconds until a job's deadline."""
    return (job for job in jobs if not job.ended and remaining(job) < -margin)


def may_lack_order(
    jobs: Iterable[JobState], now: float, empty_since: Mapping[tuple[str, Priority], float]
) -> Iterator[JobState]:
    """Selects the jobs that may have lost their order: long without an event, while their queues are empty.

    `empty_since`: by pipeline and priority, since when (Unix seconds) its queues have been empty.
    """
    for job in jobs:
        # A time in the future, by a clock that is ahead, would hide the loss.
        updated_at = job.updated_at if job.updated_at <= now + MAX_SKEW else 0.0
        since = max(updated_at, empty_since.get((job.pipeline, job.priority), now))
        if not job.ended and now - since >= LOST_AFTER:
            yield job


def renewed_pause(view: View, now: float, window: float) -> Paused | None:
    """Returns the pause of the intake again before views that reach back `window` seconds would miss it."""
    paused = view.paused
    if paused is None or now - paused.ts <= window / RENEWALS_PER_WINDOW:
        return None
    return Paused(ts=now, reason=paused.reason, renewed=True)


class Deadlines:
    """Ends jobs past their deadline, of any pipeline, each once for each code, however late that shows."""

    def __init__(self, journal: Journal, metrics: Metrics, clock: Clock) -> None:
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._ended: set[tuple[str, TimeCode]] = set()

    def enforce(self, margin: float) -> None:
        """Writes the end of every job that is past its deadline by more than `margin` seconds. Not while the
        view does not follow the journal: what it shows as late may have ended long ago."""
        if not self._journal.current:
            return
        view = self._journal.view
        late = {job.job: job for job in overdue(view, view.remaining, margin)}
        self._ended = {end for end in self._ended if (state := view.get(end[0])) and not state.ended}
        for job in late.values():
            end = job.job, time_code(job)  # that it expired may have been void
            if end not in self._ended:
                log.warning("ended from outside: past its deadline", job=job.job, status=job.status)
                self._ended.add(end)
                self._metrics.job_swept(job.pipeline, "ended")
                self._metrics.job_ended(job.pipeline, "failed", end[1])
                self._journal.put(expired(job, self._clock()))

    async def run_at_gateway(self, presence: Presence, stop: asyncio.Event) -> None:
        """Ends overdue jobs, until `stop` is set, if no worker does: all have stopped, or none leads."""
        if not await self._journal.ready(stop):
            return
        while not stop.is_set():
            no_workers = presence.is_complete and not presence.workers()
            self.enforce(OVERDUE if no_workers else OVERDUE_AT_GATEWAY)
            with suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_CHECK_INTERVAL * (0.5 + random.random())):
                    await stop.wait()


class Sweep:
    """`window`: seconds that views reach back."""

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        presence: Presence,
        holders: HolderMonitor,
        pipelines: tuple[AnyPipeline, ...],
        metrics: Metrics,
        window: float,
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._presence = presence
        self._holders = holders
        self._pipelines = {pipeline.name for pipeline in pipelines}
        self._metrics = metrics
        self._window = window
        self._deadlines = Deadlines(journal, metrics, presence.now)
        self._empty_since: dict[tuple[str, Priority], float] = {}
        self._watched: dict[str, ExitStack] = {}
        self._silent: set[str] = set()
        self._depths: dict[str, int] = {}
        self._depths_at = -math.inf
        metrics.show_queues(self.depths)

    async def run(self, stop: asyncio.Event) -> None:
        """Sweeps while it is the leader, until `stop` is set; then it is passed over."""
        if not await self._journal.ready(stop):
            return
        async with asyncio.TaskGroup() as group:
            leading = [
                group.create_task(self._enforce_deadlines()),
                group.create_task(self._sweep_repeatedly()),
            ]
            await stop.wait()
            for task in leading:
                task.cancel()
        self._presence.can_sweep = False
        self._watch(())

    @property
    def leading(self) -> bool:
        """True while this worker sweeps for all."""
        return self._journal.current and self._elected

    @property
    def _elected(self) -> bool:
        presence = self._presence
        return leads(presence.process, presence.peers, presence.steady())

    async def _enforce_deadlines(self) -> None:
        """Ends overdue jobs, also while a sweep waits for the broker."""
        while True:
            self._presence.can_sweep = self._journal.current
            if self.leading:
                self._deadlines.enforce(OVERDUE)
            await asyncio.sleep(DEADLINE_CHECK_INTERVAL)

    async def _sweep_repeatedly(self) -> None:
        """Survives a bug in a sweep, which would otherwise end one leader after the other."""
        while True:
            await asyncio.sleep(INTERVAL)
            if not self._elected:
                self._watch(())
            if not self.leading:
                continue
            try:
                await self.sweep()
            except RetryableError as error:
                log.info("no sweep this time", why=str(error))
            except Exception:
                log.exception("a sweep failed by a bug")

    async def sweep(self) -> None:
        """Writes a pause again that views forget, and publishes lost orders again."""
        now, view = self._presence.now(), self._journal.view
        if event := renewed_pause(view, now, self._window):
            self._journal.put(event)
        await self._check_queues(now)
        candidates = {job.job: job for job in may_lack_order(self._journal.view, now, self._empty_since)}
        self._watch(candidates)
        for job_id in self._silent & candidates.keys():
            await self._publish_order(candidates[job_id])

    async def _check_queues(self, now: float) -> None:
        """Notes since when each pipeline has had no order of a priority in any of its queues.

        Also one that is not ours.
        """
        if self._presence.steady() - self._depths_at >= MAX_DEPTH_AGE:
            self._empty_since.clear()  # the queues may have filled and emptied again without our notice
        depths = {DEAD: await self._broker.depth(DEAD)}
        others = {job.pipeline for job in self._journal.view if not job.ended} - self._pipelines
        for name, priority in product(sorted(self._pipelines | others), PRIORITIES):
            queues = (
                jobs_queue(name, priority),
                retry_queue(name, priority),
                *(delay_queue(name, delay, priority) for delay in DELAYS),
            )
            try:
                found = {queue: await self._broker.depth(queue) for queue in queues}
            except BrokerUnavailable as error:
                if name in self._pipelines:
                    raise
                log.info("no look into the queues of another pipeline", pipeline=name, why=str(error))
                continue
            depths |= found
            if any(found.values()):
                self._empty_since.pop((name, priority), None)
            else:
                self._empty_since.setdefault((name, priority), now)
        self._depths, self._depths_at = depths, self._presence.steady()

    def depths(self) -> dict[str, int]:
        """Returns the messages by queue as of the last sweep; none where that is too long ago."""
        age = self._presence.steady() - self._depths_at
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
        self._watched.pop(job.job).close()
        if order is None:
            log.warning("the order is lost, and so is its input: the job ends at its deadline", job=job.job)
            return
        # An alarm of a moment must not cost another wait for silence.
        queue = retry_queue(job.pipeline, job.priority)
        await PUBLISH.retry(lambda: self._broker.publish(queue, order, job.job), timeout=INTERVAL)
        log.warning("ordered again: its order was lost", job=job.job)
        self._metrics.job_swept(job.pipeline, "ordered again")
