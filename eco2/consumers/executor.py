"""Runs a job from its delivery to its outcome.

Find the job, wait for its holder, open a run, await the stages, record the outcome.

Guarantees: a stage runs only while its run is the job's current one; a job whose holder may be at work is not
touched; a completed stage is not run again; whatever goes wrong, the job has an outcome, and it is recorded.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from pydantic import BaseModel

from eco2.consumers.cause import bug
from eco2.consumers.context import Engine, StageContext
from eco2.consumers.liveness import HolderMonitor
from eco2.consumers.outcome import (
    AlreadyEnded,
    DeadLettered,
    Finished,
    LostOwnership,
    Outcome,
    Released,
    Retry,
)
from eco2.consumers.progress import Progress, build_result, deadline_exceeded, time_code
from eco2.consumers.quarantine import Quarantine, is_poison, is_suspect
from eco2.consumers.recorder import StageRecorder
from eco2.consumers.retries import next_delay, remaining_delay
from eco2.consumers.run import ActiveJob, Allowance, Run
from eco2.consumers.scope import DeadlineExceeded
from eco2.consumers.settle import accepted_end, record_outcome
from eco2.errors import (
    JobForgotten,
    PermanentError,
    PermanentFailure,
    ProviderError,
    RetryableError,
)
from eco2.event import RunStarted
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import Outputs
from eco2.ports import DELAYS
from eco2.watchdog import Running, running

IDLE_TIMEOUT = 1.0
"""Seconds of silence after which a holder counts as gone if no stage is open: no call of it is in flight."""

MAX_RETURNS = 900
"""Times that the broker may take an order back. Beyond its own limit it would drop the order silently."""

log = get_logger(__name__)


class Settled(Exception):
    """Ends an attempt with its outcome, without (another) run."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Executor:
    """One per process. `worker`: its name in the journal."""

    def __init__(self, engine: Engine, holders: HolderMonitor, metrics: Metrics, worker: str) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._clock = engine.clock
        self._holders = holders
        self._metrics = metrics
        self._worker = worker
        self._quarantine = Quarantine()

    async def execute(self, job: ActiveJob) -> Outcome:
        """Runs the job, and again whenever another run took it over, until its outcome is recorded.

        Raises nothing but cancellation.
        """
        while True:
            outcome = await self._attempt(job)
            if isinstance(outcome, LostOwnership):
                continue
            outcome = await record_outcome(job, outcome, self._clock)
            if not isinstance(outcome, Finished):
                return outcome
            if (end := await accepted_end(job, outcome, self._journal.view)) is not None:
                return end

    async def _attempt(self, job: ActiveJob) -> Outcome:
        """Makes one attempt at the job, with at most one run."""
        job.run = None
        try:
            state = await self._find(job)
            # The order names the deadline by its gateway's clock, which may be wrong; the view measures it.
            view, now = self._journal.view, self._clock()
            seconds = view.remaining(state) if view.get(job.id) else job.order.deadline - now
            async with job.scope(seconds, time_code(state)) as scope:
                await scope.checkpoint()
                state, over = await self._wait_for_holder(job, state)
                if outcome := outcome_without_run(job, state, self._clock()):
                    return outcome
                await self._quarantine.acquire(is_suspect(state))
            match scope.reason:
                case DeadlineExceeded(code):
                    return failed(job, state, deadline_exceeded(state, code))
                case Released() | AlreadyEnded() | LostOwnership() as outcome:
                    return outcome
            with self._quarantine.hold(is_suspect(state)) as downgrade:
                run, state = await self._open_run(job, state, over)
                return await self._run_stages(job, run, state, downgrade)
        except Settled as settled:
            return settled.outcome
        except JobForgotten as error:
            ended = self._journal.view.ended.find(job.id)
            return DeadLettered(str(error)) if ended is None else AlreadyEnded(dead=ended.dead)
        except RetryableError as error:
            return Retry(str(error), DELAYS[0])

    async def _find(self, job: ActiveJob) -> JobState:
        state = await self._journal.recent(job.id)
        if state is None and (ended := self._journal.view.ended.find(job.id)):
            raise Settled(AlreadyEnded(dead=ended.dead))
        if state is None and self._clock() > job.order.deadline:
            # Older than the view: after hours without workers there are thousands of these, and reading
            # the journal for each would keep the jobs waiting that can still be done. A first end stands.
            raise Settled(build_result(job.pipeline, job.id, deadline_exceeded(job.order, "EXPIRED"), {}))
        state = state or await self._journal.find(job.id)
        if state is None:
            raise Settled(
                DeadLettered("the journal knows no such job: its order was not published by a gateway")
            )
        if state.ended:
            raise Settled(AlreadyEnded(dead=state.dead))
        return state

    async def _wait_for_holder(self, job: ActiveJob, state: JobState) -> tuple[JobState, int | None]:
        """Returns the job's state once no run holds it, or its holder is silent.

        Then with the offset up to which that run had no stage open, or None: it may have had one.
        """
        if not state.is_held:
            return state, None
        log.info("on standby: another run holds the job", holder=state.run, attempt=state.attempt)
        view = self._journal.view
        with self._metrics.job_parked(job.pipeline.name):
            while True:
                change, timeout = view.change(job.id, state), None if state.is_open else IDLE_TIMEOUT
                try:
                    state = await self._holders.while_alive(job.id, state.run, change, timeout)
                    if not state.is_held:
                        return state, None
                except TimeoutError:
                    if view.get(job.id) is not state:
                        continue  # it changed at this very moment
                    log.warning("taking over: the holder is silent", holder=state.run, attempt=state.attempt)
                    self._metrics.job_taken_over(job.pipeline.name)
                    return state, None if state.is_open else view.offset

    async def _open_run(self, job: ActiveJob, state: JobState, over: int | None) -> tuple[Run, JobState]:
        """Makes a new run the job's current one; `over`: see `RunStarted`.

        Raises `Settled` if another was faster, the holder has opened a stage meanwhile, or the job ended.
        """
        run_id, attempt, alone = uuid.uuid4().hex, state.attempt + 1, is_suspect(state)
        opened = RunStarted(
            ts=self._clock(),
            job=job.id,
            run=run_id,
            attempt=attempt,
            worker=self._worker,
            exclusive=alone,
            over=over,
        )
        job.write(opened)
        await job.confirmed()
        while state.attempt < attempt and not state.ended:
            state = await self._journal.view.change(job.id, state)
        if state.ended:
            raise Settled(AlreadyEnded(dead=state.dead))
        if state.run != run_id:
            raise Settled(LostOwnership())
        if state.outputs:
            self._metrics.job_resumed(job.pipeline.name)
        view = self._journal.view
        if state.has_started:
            scope = job.scope(view.remaining(state))
        else:
            scope = job.scope(state.timeout, max_wait=view.remaining_wait(state))
        limit = job.order.max_usd
        job.run = Run(
            id=run_id,
            job=job.order,
            scope=scope,
            retries=state.retries,
            offset=state.queued_at,
            started=bool(state.outputs),
            age=view.age(state),
            allowance=None if limit is None else Allowance(Decimal(str(limit)), job.id, run_id, view),
        )
        return job.run, state

    async def _run_stages(
        self, job: ActiveJob, run: Run, state: JobState, downgrade: Callable[[], None]
    ) -> Outcome:
        """Awaits the stages that no earlier run completed; returns how the run ended."""
        try:
            progress = Progress.restore(job.pipeline, job.order, state)
        except PermanentError as error:
            return failed(job, state, error)
        end: Outputs | PermanentError | Outcome = progress.outputs
        try:
            async with run.scope:
                await run.scope.checkpoint()
                for stage in job.pipeline.stages:
                    recorder = StageRecorder(job, run, stage, progress, self._engine.live, self._clock)
                    if stage.name in state.outputs:
                        recorder.repeated(state)
                        continue
                    await self._run_stage(job, recorder, state)
                    run = recorder.run
                    if state.exclusive:
                        await job.confirmed()  # or a crash right now would still be blamed on it
                        downgrade()
        except PermanentError as error:
            end = error
        except Settled as settled:
            end = settled.outcome
        match run.scope.reason or end:
            case DeadlineExceeded(code):
                return build_result(job.pipeline, job.id, deadline_exceeded(state, code), progress.usage)
            case Outputs() | PermanentError() as complete:
                return build_result(job.pipeline, job.id, complete, progress.usage)
            case outcome:
                return outcome

    async def _run_stage(self, job: ActiveJob, recorder: StageRecorder, state: JobState) -> None:
        """Awaits one stage and records it. Raises `PermanentError`, or `Settled` where it is tried again."""
        stage, began, status = recorder.stage, self._clock(), "interrupted"
        context: StageContext[BaseModel] = StageContext(self._engine, job, recorder, state.recorded)
        token = running.set(Running(job.pipeline.name, stage.name, job.id))
        try:
            with translate_errors(recorder):
                recorder.completed(await stage.run(context))
            status = "completed"
        except PermanentError as error:
            if recorder.run.scope.reason is None:  # else the stage failed because it was cancelled
                status = "failed"
                log.warning("a stage failed", stage=stage.name, code=error.code, error=str(error))
                recorder.failed(error)
            raise
        except Settled:
            status = "put off"
            raise
        finally:
            running.reset(token)
            self._metrics.stage_ended(job.pipeline.name, stage.name, status, self._clock() - began)


def failed(job: ActiveJob, state: JobState, error: PermanentError) -> Finished:
    """Returns the end of a job that no stage of this run has touched."""
    return build_result(job.pipeline, job.id, error, state.usage)


def outcome_without_run(job: ActiveJob, state: JobState, now: float) -> Outcome | None:
    """Decides whether a job that no run holds is run (again): None if it is. `now`: Unix seconds."""
    if state.ended:
        return AlreadyEnded(dead=state.dead)
    if is_poison(state):
        reason = (
            f"its worker crashed {state.crashes + 1} times, at last with this job alone; "
            "look for the cause in the logs of its workers"
        )
        return failed(job, state, PermanentFailure(reason, "POISON"))
    if (returned := job.delivery.delivery_count) >= MAX_RETURNS:
        reason = f"given back {returned} times without an end; see the logs"
        return failed(job, state, PermanentFailure(reason, "POISON"))
    if state.retrying and (delay := remaining_delay(state.retrying.until, now)):
        return Retry("another order of it waits until it is tried again", delay)
    return None


@contextmanager
def translate_errors(recorder: StageRecorder) -> Iterator[None]:
    """Turns whatever goes wrong in a stage into a `PermanentError`, or `Settled` where it is tried again.

    A bug ends its job, never the worker.
    """
    stage = recorder.stage
    try:
        yield
    except PermanentError:
        raise
    except RetryableError as error:
        asked = error.retry_after if isinstance(error, ProviderError) else None
        left = recorder.run.scope
        delay = next_delay(stage.retry, recorder.run.retries, asked, left.remaining, left.remaining_wait)
        if delay is None:
            raise PermanentFailure(str(error), "UNAVAILABLE", error.for_clients) from error
        raise Settled(Retry(str(error), delay, stage.name)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The run was not cancelled: the stage awaited something that was cancelled itself.
        raise bug(f"a bug in stage {stage.name}: a stray cancellation", error) from error
    except Exception as error:
        log.exception("a stage failed by a bug", stage=stage.name)
        raise bug(f"a bug in stage {stage.name}", error) from error
