"""The worker: pulls orders, bounded by the prefetch, and runs each as a coroutine of this one process.

Stop order: no new deliveries → calls in flight finish, the rest is given back → every run settled.
"""

import asyncio
from functools import partial

from eco2.consumers.execution import Executor
from eco2.consumers.interrupt import DRAINED
from eco2.consumers.outcome import Dead, Ended, Finished, Outcome, Overtaken
from eco2.consumers.run import Run
from eco2.consumers.settle import conclude, settle
from eco2.errors import Malformed
from eco2.job import decode_order
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import bind_job, get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Clock, Delivery, WorkQueue

log = get_logger(__name__)


class Worker:
    """`prefetch`: jobs at once per pipeline. `grace`: seconds that a drain waits for calls in flight."""

    def __init__(
        self,
        queue: WorkQueue,
        journal: Journal,
        pipelines: tuple[AnyPipeline, ...],
        executor: Executor,
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
        self._metrics = metrics
        self._clock = clock
        self._prefetch = prefetch
        self._grace = grace
        self._running: dict[str, Run] = {}
        self._idle = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then drains and returns with nothing unsettled."""
        self._journal.view.observe(self._fence)
        async with asyncio.TaskGroup() as group:
            if not await self._journal.ready(stop):
                return
            subscriptions = [
                self._queue.consume(
                    f"jobs.{pipeline.name}", self._prefetch, partial(self._deliver, group, pipeline)
                )
                for pipeline in self._pipelines
            ]
            await stop.wait()
            for subscription in subscriptions:
                await subscription.cancel()
            await self._drain()

    def _deliver(self, group: asyncio.TaskGroup, pipeline: AnyPipeline, delivery: Delivery) -> None:
        try:
            job = decode_order(delivery.body)
        except Malformed as error:
            group.create_task(self._bury(delivery, str(error)))
            return
        if run := self._running.get(job.id):
            group.create_task(_replaced(run.adopt(delivery)))
            return
        run = self._running[job.id] = Run(job, pipeline, delivery, self._journal)
        group.create_task(self._work(run), name=f"job {job.id}")

    async def _work(self, run: Run) -> None:
        pipeline = run.pipeline.name
        ended, reason = "cancelled", None
        with bind_job(run.job.id):
            log.info("job taken", pipeline=pipeline, redelivered=run.delivery.redelivered)
            self._metrics.job_started(pipeline)
            try:
                outcome = await self._executor.execute(run)
                await conclude(run, outcome, self._clock)
                if isinstance(outcome, Finished) and not await self._executor.stands(run):
                    outcome = await self._executor.stand_by(run)
                    await conclude(run, outcome, self._clock)
                self._forget(run)  # before the broker is told: what is delivered from now on finds the end
                await settle(run.delivery, outcome)
                ended, reason = _describe(outcome)
            finally:
                self._forget(run)
                self._metrics.job_ended(pipeline, ended, self._clock() - run.job.accepted)
                log.info("job settled", pipeline=pipeline, outcome=ended, reason=reason)

    def _forget(self, run: Run) -> None:
        if self._running.get(run.job.id) is run:
            del self._running[run.job.id]
        if not self._running:
            self._idle.set()

    async def _bury(self, delivery: Delivery, why: str) -> None:
        log.error("order goes to the dead letters", why=why, message_id=delivery.message_id)
        await settle(delivery, Dead(why))

    def _fence(self, state: JobState) -> None:
        """Stops a run as soon as the journal shows that it is not the job's current one any more."""
        run = self._running.get(state.job)
        if run is not None and run.opened and (state.ended or state.run != run.id):
            run.interrupt.fire(Ended() if state.ended else Overtaken())

    async def _drain(self) -> None:
        log.info("draining: calls in flight finish, the rest is given back", jobs=len(self._running))
        for run in self._running.values():
            run.interrupt.drain()
        try:
            async with asyncio.timeout(self._grace):
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.warning("drain grace is over; giving back unfinished calls", jobs=len(self._running))
            for run in self._running.values():
                run.interrupt.fire(DRAINED)


async def _replaced(double: Delivery) -> None:
    log.info("a delivery of a job that runs here already took the place of the first")
    await settle(double, Ended("another delivery of the job has taken its place"))


def _describe(outcome: Outcome) -> tuple[str, str | None]:
    match outcome:
        case Finished(status):
            return status, None
        case _:
            return type(outcome).__name__.lower(), outcome.reason
