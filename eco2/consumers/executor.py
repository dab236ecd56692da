"""A job in this worker's hands, from its delivery to its outcome: find it, wait until nobody else holds it,
open a run, await the stages, build the result.

What it guarantees: a stage runs only while the run is the job's current one; a job whose holder may be at
work is not touched; a completed stage is not run again; whatever goes wrong, the job has an outcome.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from eco2.consumers.cause import bug
from eco2.consumers.context import Engine, StageContext
from eco2.consumers.liveness import HolderMonitor
from eco2.consumers.outcome import AlreadyEnded, DeadLettered, Finished, LostOwnership, Outcome, Retry
from eco2.consumers.progress import Progress, build_result, deadline_exceeded
from eco2.consumers.quarantine import Quarantine, is_poison, is_suspect
from eco2.consumers.retries import next_delay, remaining_delay
from eco2.consumers.run import Run
from eco2.errors import (
    BrokerUnavailable,
    JobForgotten,
    PermanentError,
    PermanentFailure,
    ProviderError,
    RetryableError,
)
from eco2.event import RunStarted, StageChanged
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import Stage
from eco2.ports import DELAYS

MAX_RETURNS = 900
"""Times that the broker may take an order back. Behind its own limit it would drop it without a word."""

log = get_logger(__name__)


class Executor:
    """`worker`: this process's name in the journal."""

    def __init__(
        self, journal: Journal, engine: Engine, holders: HolderMonitor, metrics: Metrics, worker: str
    ) -> None:
        self._journal = journal
        self._engine = engine
        self._holders = holders
        self._metrics = metrics
        self._worker = worker
        self._quarantine = Quarantine()

    async def execute(self, run: Run) -> Outcome:
        """Runs the job as far as it goes, anew whenever another run has taken it over and left it.

        Raises nothing but cancellation.
        """
        while isinstance(outcome := await _guarded(self._attempt(run)), LostOwnership):
            run.renew()
        return outcome

    async def stands(self, run: Run) -> bool:
        """Once the end that the run wrote is confirmed: False if it was void, since the run was overtaken."""
        state = self._journal.view.get(run.job.id)
        try:
            while state is not None and not state.ended and (state.run == run.id or not run.opened):
                state = await self._journal.view.change(run.job.id, state)
        except (JobForgotten, BrokerUnavailable):
            return True  # the journal has dropped it, or was replaced: no end stands against this one
        return state is None or state.ended

    async def _attempt(self, run: Run) -> Outcome:
        state = await self._journal.recent(run.job.id)
        if state is None and self._engine.clock() > run.job.deadline:
            # Too old even for the view: after hours without workers there are thousands of these, and reading
            # the journal for each would keep the jobs waiting that can still be done. A first end stands.
            return build_result(run.pipeline, run.job.id, None, deadline_exceeded(run.job), {})
        state = state or await self._journal.find(run.job.id)
        if state is None:
            return DeadLettered("the journal knows no such job: its order was not published by a gateway")
        if state.ended:
            return AlreadyEnded(dead=state.dead)
        try:
            async with run.interrupt.scope(self._remaining(run, state)):
                await run.interrupt.may_begin()
                state = await self._vacancy(run, state)
                if state.ended:
                    return AlreadyEnded(dead=state.dead)
                if failure := _hopeless(run, state):
                    return self._failed(run, state, failure)
                if delay := _too_early(state, self._engine.clock()):
                    return Retry("another order of it waits until it is tried again", delay)
                await self._quarantine.acquire(alone := is_suspect(state))
        except TimeoutError:
            return run.interrupt.outcome or self._failed(run, state, deadline_exceeded(run.job))
        finally:
            run.interrupt.close()
        with self._quarantine.hold(alone) as downgrade:
            state = await self._open(run, state, alone)
            if state.ended:
                return AlreadyEnded(dead=state.dead)
            return await self._stages(run, state, alone, downgrade) if run.opened else LostOwnership()

    async def _vacancy(self, run: Run, state: JobState) -> JobState:
        """The job's state once no run holds it: not begun, given back, ended, or its holder is silent."""
        if not state.is_held:
            return state
        log.info("parked: another run holds the job", holder=state.run, attempt=state.attempt)
        with self._metrics.job_parked(run.pipeline.name):
            while state.is_held:
                newer = await self._change_or_silence(state)
                if newer is None:
                    log.warning("taking over: the holder is silent", holder=state.run, attempt=state.attempt)
                    self._metrics.job_taken_over(run.pipeline.name)
                    break
                state = newer
        return state

    async def _change_or_silence(self, state: JobState) -> JobState | None:
        """The job's next state, or None once its holder has been silent for too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience:
                with self._holders.watch(state.job, state.run, lambda: patience.reschedule(loop.time())):
                    return await self._journal.view.change(state.job, state)
        except TimeoutError:
            return None

    async def _open(self, run: Run, state: JobState, alone: bool) -> JobState:
        """Makes `run` the job's current run, unless another is faster or the job has ended."""
        attempt, now = state.attempt + 1, self._engine.clock()
        run.write(
            RunStarted(
                ts=now, job=run.job.id, run=run.id, attempt=attempt, worker=self._worker, exclusive=alone
            )
        )
        await run.confirmed()
        while state.attempt < attempt and not state.ended:
            state = await self._journal.view.change(run.job.id, state)
        run.opened = state.run == run.id and not state.ended
        if run.opened and state.outputs:
            self._metrics.job_resumed(run.pipeline.name)
        run.retries, run.offset, run.started = state.retries, state.queued_at, bool(state.outputs)
        return state

    async def _stages(self, run: Run, state: JobState, alone: bool, downgrade: Callable[[], None]) -> Outcome:
        failure: PermanentError | None = None
        try:
            progress = Progress(run.id, run.job, run.pipeline, state)
        except PermanentError as error:
            return self._failed(run, state, error)
        try:
            async with run.interrupt.scope(self._remaining(run, state)):
                await run.interrupt.may_begin()
                for stage in run.pipeline.stages:
                    if stage.name not in state.outputs:
                        await self._stage(run, stage, progress, state)
                        if alone:
                            await run.confirmed()  # or a crash right now would still be blamed on it
                            downgrade()
                    elif events := progress.repeated(stage, state, self._engine.clock()):
                        run.write(*events)
        except TimeoutError:
            failure = deadline_exceeded(run.job)
        except PermanentError as error:
            failure = error
        except _TryLater as later:
            return run.interrupt.outcome or later.outcome
        finally:
            run.interrupt.close()
        return run.interrupt.outcome or progress.build_result(failure)

    def _remaining(self, run: Run, state: JobState) -> float:
        """Seconds until the job's deadline. The order names it by its gateway's clock, which may be wrong."""
        now = self._engine.clock()
        if self._journal.view.get(state.job) is not None:
            run.deadline = now + self._journal.view.remaining(state)
        return run.deadline - now

    def _failed(self, run: Run, state: JobState, error: PermanentError) -> Finished:
        return build_result(run.pipeline, run.job.id, None, error, dict(state.usage))

    async def _stage(self, run: Run, stage: Stage[BaseModel], progress: Progress, state: JobState) -> None:
        """Awaits one stage and writes its events. Raises `_TryLater`, or `PermanentError` if that is all."""
        clock = self._engine.clock
        began, status = clock(), "interrupted"
        writer = _StageWriter(run, stage, progress)
        context = StageContext(
            self._engine,
            run,
            stage.name,
            progress.input,
            progress.outputs,
            state.recorded,
            lambda: writer.started(clock()),
        )
        try:
            with self._classified(run, stage.name):
                output = await stage.run(context)
                writer.completed(clock(), output, context.usage)
            status, run.retries, run.started = "completed", 0, True
        except PermanentError as error:
            if run.interrupt.outcome is None:  # else it is the interrupt that the stage failed of
                status = "failed"
                log.warning("a stage failed", stage=stage.name, code=error.code, error=str(error))
                writer.failed(clock(), error, context.usage)
            raise
        except _TryLater:
            status = "put off"
            raise
        finally:
            self._metrics.stage_ended(run.pipeline.name, stage.name, status, clock() - began)

    @contextmanager
    def _classified(self, run: Run, stage: str) -> Iterator[None]:
        """Whatever goes wrong in a stage is one of two things: `_TryLater`, or a `PermanentError`.

        A bug ends its job, never the worker.
        """
        try:
            yield
        except PermanentError:
            raise
        except RetryableError as error:
            asked = error.retry_after if isinstance(error, ProviderError) else None
            delay = next_delay(DELAYS, run.retries, asked, self._engine.clock(), run.deadline)
            if delay is None:
                raise PermanentFailure(str(error), "UNAVAILABLE", error.for_clients) from error
            raise _TryLater(Retry(str(error), delay)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled the run: the stage awaited something of its own that was cancelled.
            raise bug(f"a bug in stage {stage}: a stray cancellation", error) from error
        except Exception as error:
            log.exception("a stage failed by a bug", stage=stage)
            raise bug(f"a bug in stage {stage}", error) from error


class _TryLater(Exception):
    """A stage failed in a way that may pass, and there is time for another try."""

    def __init__(self, outcome: Retry) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


async def _guarded(work: Awaitable[Outcome]) -> Outcome:
    """The outcome of `work`, or the one that follows from what the journal could not tell."""
    try:
        return await work
    except JobForgotten as error:
        return DeadLettered(str(error))
    except RetryableError as error:
        return Retry(str(error), DELAYS[0])


def _hopeless(run: Run, state: JobState) -> PermanentError | None:
    """Why a job is not begun (again), or None."""
    if is_poison(state):
        return PermanentFailure(
            f"its worker crashed {state.crashes + 1} times, at last with this job alone; "
            "look for the cause in the logs of its workers",
            "POISON",
        )
    if run.delivery.delivery_count >= MAX_RETURNS:
        return PermanentFailure(
            f"given back {run.delivery.delivery_count} times without an end; see the logs", "POISON"
        )
    return None


def _too_early(state: JobState, now: float) -> int | None:
    """The delay that is left of a job's time to be tried again; None if it may go on."""
    return remaining_delay(DELAYS, state.retries, state.updated_at, now) if state.retry_pending else None


class _StageWriter:
    """Writes the events of one stage: `started` once, at its first call, or with its end if it makes none."""

    def __init__(self, run: Run, stage: Stage[BaseModel], progress: Progress) -> None:
        self._run = run
        self._stage = stage
        self._progress = progress
        self._shown = False

    def started(self, now: float) -> None:
        if not self._shown:
            self._write(now)

    def completed(self, now: float, output: BaseModel, usage: JSON | None) -> None:
        self._write(now, self._progress.completed(self._stage, now, output, usage))

    def failed(self, now: float, error: PermanentError, usage: JSON | None) -> None:
        self._write(now, self._progress.failed(self._stage.name, now, error, usage))

    def _write(self, now: float, *events: StageChanged) -> None:
        """What is too large for the journal is not written, and so has not been shown."""
        opening = () if self._shown else (self._progress.started(self._stage.name, now),)
        self._run.write(*opening, *events)
        self._shown = True
