"""The worker: pulls orders, bounded by the prefetch, and runs each as a coroutine of this one process.

Stop order: no new deliveries → calls in flight finish, the rest is given back → every run settled.
"""

import asyncio
from functools import partial
from itertools import product

from eco2.consumers.executor import Executor
from eco2.consumers.outcome import (
    AlreadyEnded,
    DeadLettered,
    Finished,
    LostOwnership,
    Outcome,
    Released,
    Retry,
)
from eco2.consumers.progress import build_result, done_event
from eco2.consumers.run import ActiveJob, ActiveJobs
from eco2.consumers.scope import DRAINED
from eco2.consumers.settle import schedule_retry, settle_delivery
from eco2.errors import DecodeError, JobForgotten, PermanentFailure, RetryableError
from eco2.job import PRIORITIES, decode_order
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import bind_job, get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Clock, Delivery, Subscription, WorkQueue, jobs_queue, retry_queue

RETRY_SHARE = 4
"""For every so many slots of a pipeline there is one more, for the queue of retries."""
UNREADABLE = "the request could not be read: send it again"
"""The text for clients whose order could not be decoded."""
UNKNOWN = "UNKNOWN"
"""The code of a dead letter whose reason this worker does not know."""

log = get_logger(__name__)


class Worker:
    """`prefetch`: jobs at once per pipeline and priority. `grace`: seconds that a drain waits for calls in
    flight."""

    def __init__(
        self,
        queue: WorkQueue,
        journal: Journal,
        pipelines: tuple[AnyPipeline, ...],
        executor: Executor,
        jobs: ActiveJobs,
        metrics: Metrics,
        clock: Clock,
        *,
        prefetch: int,
        grace: float,
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._pipelines = pipelines
        self._executor = executor
        self._jobs = jobs
        self._metrics = metrics
        self._clock = clock
        self._prefetch = prefetch
        self._grace = grace
        self._changed = asyncio.Event()
        metrics.worker((pipeline.name for pipeline in pipelines), prefetch)
        for pipeline in pipelines:
            metrics.stages(pipeline.name, [stage.name for stage in pipeline.stages])

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then drains and returns with nothing unsettled."""
        self._journal.view.observe(self._fence)
        self._journal.view.observe_intake(self._changed.set)
        # A journal that replaces this one does not know the jobs that are here.
        self._journal.view.observe_resets(partial(self._jobs.cancel, Released("the journal was replaced")))
        async with asyncio.TaskGroup() as group:
            if not await self._journal.ready(stop):
                return

            async def wake() -> None:
                await stop.wait()
                self._changed.set()

            waker = group.create_task(wake())
            await self._take(group, stop)
            waker.cancel()
            await self._drain()

    async def _take(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set, but not while an operator has paused the intake."""
        kinds = ((retry_queue, -(-self._prefetch // RETRY_SHARE)), (jobs_queue, self._prefetch))
        sources = [
            (pipeline, queue(pipeline.name, priority), slots)
            for pipeline, priority, (queue, slots) in product(self._pipelines, PRIORITIES, kinds)
        ]
        subscriptions: list[Subscription] = []
        while not stop.is_set():
            self._changed.clear()
            paused = self._journal.view.paused
            if paused is None and not subscriptions:
                subscriptions = [
                    self._queue.consume(queue, slots, partial(self._deliver, group, pipeline))
                    for pipeline, queue, slots in sources
                ]
            elif paused is not None and subscriptions:
                log.warning("paused: jobs in flight continue, no more are taken", reason=paused.reason)
                while subscriptions:
                    await subscriptions.pop(0).cancel()
            await self._changed.wait()
        for subscription in subscriptions:
            await subscription.cancel()

    def _deliver(self, group: asyncio.TaskGroup, pipeline: AnyPipeline, delivery: Delivery) -> None:
        try:
            job = decode_order(delivery.body)
        except DecodeError as error:
            group.create_task(self._dead_letter(pipeline, delivery, error))
            return
        delivery.release_body()  # a hundred uploads, held twice, are most of a worker's memory
        if delivery.redelivered:
            self._metrics.delivery_redelivered(pipeline.name)
        if active := self._jobs.get(job.id):
            self._metrics.delivery_adopted(pipeline.name)
            log.info("a redelivery takes the place of the first delivery: the job runs here already")
            replaced = AlreadyEnded("another delivery of the job has taken its place")
            group.create_task(settle_delivery(active.adopt(delivery), replaced))
            return
        active = ActiveJob(job, pipeline, delivery, self._journal)
        self._jobs.add(active)
        group.create_task(self._work(active), name=f"job {job.id}")

    async def _work(self, job: ActiveJob) -> None:
        """Runs the job and settles its delivery."""
        pipeline = job.pipeline.name
        label, reason = "cancelled", None
        with bind_job(job.id):
            log.debug("job taken", pipeline=pipeline, redelivered=job.delivery.redelivered)
            self._metrics.job_started(pipeline, job.order.priority)
            try:
                outcome = await self._executor.execute(job)
                self._jobs.remove(job)  # before the delivery is settled: the next one finds the end
                if isinstance(outcome, Retry):
                    await schedule_retry(job, outcome.delay, self._queue)
                await settle_delivery(job.delivery, outcome)
                label, reason = outcome.label, outcome.reason
                self._count(pipeline, outcome)
            finally:
                self._jobs.remove(job)
                seconds = self._clock() - job.order.accepted
                self._metrics.job_left(pipeline, job.order.priority, label, seconds)
                # The journal and the metrics show success; a line of the log costs more than a small job.
                write = log.debug if label == "completed" else log.info
                write("job settled", pipeline=pipeline, outcome=label, reason=reason)

    def _count(self, pipeline: str, outcome: Outcome) -> None:
        match outcome:
            case Finished():
                self._metrics.job_ended(pipeline, outcome.status, outcome.code)
                if outcome.dead:
                    self._metrics.dead_letter(pipeline, outcome.code or UNKNOWN)
            case AlreadyEnded(dead=True) | DeadLettered():
                self._metrics.dead_letter(pipeline, UNKNOWN)
            case Retry():
                self._metrics.job_put_off(pipeline)

    async def _dead_letter(self, pipeline: AnyPipeline, delivery: Delivery, why: DecodeError) -> None:
        """Rejects an order that cannot be decoded, and ends its job as failed.

        The message id names the job; a job that a good order of it has begun is left alone.
        """
        log.error("order goes to the dead letters", why=str(why), message_id=delivery.message_id)
        job_id, error = delivery.message_id, PermanentFailure(str(why), "MALFORMED", UNREADABLE)
        try:
            state = await self._journal.find(job_id)
            if state is not None and state.run is None and not state.ended:
                end = build_result(pipeline, job_id, error, state.usage)
                await self._journal.put(done_event(pipeline, job_id, None, end, self._clock()))
                self._metrics.job_ended(pipeline.name, end.status, end.code)
        except (JobForgotten, RetryableError) as unknown:
            log.info("whose order it was cannot be said", why=str(unknown))
        await settle_delivery(delivery, DeadLettered(str(why)))
        self._metrics.dead_letter(pipeline.name, error.code)

    def _fence(self, state: JobState) -> None:
        """Ends the work on a job as soon as the journal shows its end, or another run than ours.

        The work on any other job gets the time that the job has now: more once it has started.
        """
        if (job := self._jobs.get(state.job)) is None:
            return
        if state.ended:
            job.cancel(AlreadyEnded(dead=state.dead))
        elif job.run is not None and state.run != job.run.id:
            job.cancel(LostOwnership())
        elif state.has_started:
            job.limit(self._journal.view.remaining(state), "TIMEOUT")
        elif job.run is None:
            job.limit(self._journal.view.remaining(state), "EXPIRED")

    async def _drain(self) -> None:
        log.info("draining: calls in flight finish, the rest is given back", jobs=len(self._jobs))
        for job in self._jobs:
            job.drain()
        try:
            async with asyncio.timeout(self._grace):
                await self._jobs.idle()
        except TimeoutError:
            log.warning("drain grace is over; giving back unfinished calls", jobs=len(self._jobs))
            self._jobs.cancel(DRAINED)
