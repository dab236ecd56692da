"""The worker: pulls orders, bounded by the prefetch, and runs each as a coroutine of this one process.

Stop order: no new deliveries → calls in flight finish, the rest is given back → every run settled.
"""

import asyncio
from functools import partial

from eco2.consumers.executor import Executor
from eco2.consumers.interrupt import DRAINED
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
from eco2.consumers.run import Run
from eco2.consumers.running import Running
from eco2.consumers.settle import close, conclude, settle
from eco2.errors import DecodeError, JobForgotten, PermanentFailure, RetryableError, TooLarge
from eco2.job import decode_order
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import bind_job, get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Clock, Delivery, Subscription, WorkQueue, jobs_queue, retry_queue

FIRST_SHARE = 4
"""One in so many of the slots of a pipeline is there besides, for the jobs that go first."""
UNREADABLE = "the request could not be read: send it again"
"""What clients read of an order that is `DecodeError`."""
UNKNOWN = "UNKNOWN"
"""The code of a dead letter whose job says nothing of it here."""

OUTCOME_LABELS: dict[type[Outcome], str] = {
    Released: "released",
    Retry: "putoff",
    AlreadyEnded: "ended",
    LostOwnership: "overtaken",
    DeadLettered: "dead",
}
"""The label `outcome` of the metrics, and the field of the log, where the job has no status yet."""

log = get_logger(__name__)


class Worker:
    """`prefetch`: jobs at once per pipeline. `grace`: seconds that a drain waits for calls in flight."""

    def __init__(
        self,
        queue: WorkQueue,
        journal: Journal,
        pipelines: tuple[AnyPipeline, ...],
        executor: Executor,
        running: Running,
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
        self._running = running
        self._metrics = metrics
        self._clock = clock
        self._prefetch = prefetch
        self._grace = grace
        self._changed = asyncio.Event()
        metrics.worker((pipeline.name for pipeline in pipelines), prefetch)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then drains and returns with nothing unsettled."""
        self._journal.view.observe(self._fence)
        self._journal.view.observe_intake(self._changed.set)
        self._journal.view.observe_resets(self._give_back)
        async with asyncio.TaskGroup() as group:
            if not await self._journal.ready(stop):
                return
            waker = group.create_task(self._wake(stop))
            await self._take(group, stop)
            waker.cancel()
            await self._drain()

    async def _wake(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._changed.set()

    async def _take(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set, but not while an operator has paused the intake."""
        subscriptions: list[Subscription] = []
        while not stop.is_set():
            self._changed.clear()
            paused = self._journal.view.paused
            if paused is None and not subscriptions:
                subscriptions = self._consume(group)
            elif paused is not None and subscriptions:
                log.warning("paused: jobs in flight go on, no more are taken", reason=paused.reason)
                await _cancel(subscriptions)
                subscriptions = []
            await self._changed.wait()
        await _cancel(subscriptions)

    def _consume(self, group: asyncio.TaskGroup) -> list[Subscription]:
        first = -(-self._prefetch // FIRST_SHARE)
        return [
            self._queue.consume(name(pipeline.name), slots, partial(self._deliver, group, pipeline))
            for pipeline in self._pipelines
            for name, slots in ((retry_queue, first), (jobs_queue, self._prefetch))
        ]

    def _deliver(self, group: asyncio.TaskGroup, pipeline: AnyPipeline, delivery: Delivery) -> None:
        try:
            job = decode_order(delivery.body)
        except DecodeError as error:
            group.create_task(self._bury(pipeline, delivery, error))
            return
        delivery.release_body()  # a hundred uploads, held twice, are most of a worker's memory
        if delivery.redelivered:
            self._metrics.delivery_redelivered(pipeline.name)
        if run := self._running.get(job.id):
            self._metrics.delivery_adopted(pipeline.name)
            group.create_task(_replaced(run.adopt(delivery)))
            return
        run = Run(job, pipeline, delivery, self._journal)
        self._running.add(run)
        group.create_task(self._work(run), name=f"job {job.id}")

    async def _work(self, run: Run) -> None:
        pipeline = run.pipeline.name
        ended, reason = "cancelled", None
        with bind_job(run.job.id):
            log.debug("job taken", pipeline=pipeline, redelivered=run.delivery.redelivered)
            self._metrics.job_started(pipeline)
            try:
                outcome = await self._outcome(run)
                self._running.forget(run)  # before the broker is told: what is delivered next finds the end
                await settle(run, outcome, self._queue)
                ended, reason = _describe(outcome)
                self._count(pipeline, outcome)
            finally:
                self._running.forget(run)
                self._metrics.job_left(pipeline, ended, self._clock() - run.job.accepted)
                # What went well is told by the journal and the metrics; a line costs more than a small job.
                say = log.debug if ended == "completed" else log.info
                say("job settled", pipeline=pipeline, outcome=ended, reason=reason)

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

    async def _outcome(self, run: Run) -> Outcome:
        """What became of the job, written to the journal; an end counts once it is known to stand."""
        while True:
            outcome = await self._executor.execute(run)
            try:
                await conclude(run, outcome, self._clock)
            except TooLarge as error:  # an end without outputs fits where one with them does not
                outcome = build_result(run.pipeline, run.job.id, None, error, {})
                await conclude(run, outcome, self._clock)
            if not isinstance(outcome, Finished) or await self._executor.stands(run):
                return outcome
            run.renew()

    async def _bury(self, pipeline: AnyPipeline, delivery: Delivery, why: DecodeError) -> None:
        """To the dead letters; if the message says whose order it was, and no good one has come before, that
        job ends as failed."""
        log.error("order goes to the dead letters", why=str(why), message_id=delivery.message_id)
        job_id, error = delivery.message_id, PermanentFailure(str(why), "MALFORMED", UNREADABLE)
        try:
            state = await self._journal.find(job_id)
            if state is not None and state.run is None and not state.ended:
                end = build_result(pipeline, job_id, None, error, dict(state.usage))
                await self._journal.put(done_event(pipeline, job_id, None, end, self._clock()))
                self._metrics.job_ended(pipeline.name, end.status, end.code)
        except (JobForgotten, RetryableError) as unknown:
            log.info("whose order it was cannot be said", why=str(unknown))
        await close(delivery, DeadLettered(str(why)))
        self._metrics.dead_letter(pipeline.name, error.code)

    def _fence(self, state: JobState) -> None:
        """Stops a run as soon as the journal shows that it is not the job's current one any more."""
        run = self._running.get(state.job)
        if run is not None and run.opened and (state.ended or state.run != run.id):
            run.interrupt.fire(AlreadyEnded(dead=state.dead) if state.ended else LostOwnership())

    def _give_back(self) -> None:
        """The journal is another one, which does not know the jobs that run here."""
        for run in self._running:
            run.interrupt.fire(Released("the journal was replaced"))

    async def _drain(self) -> None:
        log.info("draining: calls in flight finish, the rest is given back", jobs=len(self._running))
        for run in self._running:
            run.interrupt.drain()
        try:
            async with asyncio.timeout(self._grace):
                await self._running.idle()
        except TimeoutError:
            log.warning("drain grace is over; giving back unfinished calls", jobs=len(self._running))
            for run in self._running:
                run.interrupt.fire(DRAINED)


async def _cancel(subscriptions: list[Subscription]) -> None:
    for subscription in subscriptions:
        await subscription.cancel()


async def _replaced(double: Delivery) -> None:
    log.info("a delivery of a job that runs here already took the place of the first")
    await close(double, AlreadyEnded("another delivery of the job has taken its place"))


def _describe(outcome: Outcome) -> tuple[str, str | None]:
    match outcome:
        case Finished(status):
            return status, None
        case _:
            return OUTCOME_LABELS[type(outcome)], outcome.reason
