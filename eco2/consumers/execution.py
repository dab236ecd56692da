"""One run from its opening to its outcome: find the job, open the run, await the stages, build the result.

What it guarantees: a stage runs only while the run is the job's current one; a completed stage is not run
again; whatever goes wrong in a stage, the job has an outcome.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from eco2.consumers.context import Engine, StageContext
from eco2.consumers.outcome import Dead, Ended, Outcome, Overtaken, Released
from eco2.consumers.progress import Progress, finished, late
from eco2.consumers.run import Run
from eco2.errors import Gone, PermanentError, RetryableError
from eco2.event import RunStarted
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import Stage

log = get_logger(__name__)


class Executor:
    """`worker`: this process's name in the journal."""

    def __init__(self, journal: Journal, engine: Engine, metrics: Metrics, worker: str) -> None:
        self._journal = journal
        self._engine = engine
        self._metrics = metrics
        self._worker = worker

    async def execute(self, run: Run) -> Outcome:
        """Runs the job as far as it goes. Raises nothing but cancellation."""
        outcome = await _guarded(self._begin(run))
        return await self.stand_by(run) if isinstance(outcome, Overtaken) else outcome

    async def stand_by(self, run: Run) -> Outcome:
        """Keeps the delivery while another run holds the job, and goes on where that run leaves off."""
        return await _guarded(self._stand_by(run))

    async def stands(self, run: Run) -> bool:
        """Once the end that the run wrote is confirmed: False if it was void, since the run was overtaken."""
        state = self._journal.view.get(run.job.id)
        try:
            while state is not None and not state.ended and (state.run == run.id or not run.opened):
                state = await self._journal.view.change(run.job.id, state)
        except Gone:
            return True
        return state is None or state.ended

    async def _stand_by(self, run: Run) -> Outcome:
        run.opened = False
        run.interrupt.reset()
        state = await self._journal.find(run.job.id)
        try:
            async with run.interrupt.scope(run.job.deadline - self._engine.clock()):
                await run.interrupt.may_begin()
                while state is not None and not (state.ended or state.released):
                    state = await self._journal.view.change(run.job.id, state)
        except TimeoutError:
            usage = dict(state.usage) if state else {}
            return run.interrupt.outcome or finished(run.pipeline, run.job.id, None, late(run.job), usage)
        finally:
            run.interrupt.close()
        return Released("its holder gave it back") if state and not state.ended else Ended()

    async def _begin(self, run: Run) -> Outcome:
        state = await self._journal.find(run.job.id)
        if state is None:
            return Dead("the journal knows no such job: its order was not published by a gateway")
        state = await self._open(run, state)
        if state.ended:
            return Ended()
        if not run.opened:
            return finished(run.pipeline, run.job.id, None, late(run.job), dict(state.usage))
        return await self._stages(run, state)

    async def _open(self, run: Run, state: JobState) -> JobState:
        """Makes `run` the job's current run; not if the job has ended or its deadline is over."""
        while not (run.opened or state.ended) and self._engine.clock() < run.job.deadline:
            attempt, now = state.attempt + 1, self._engine.clock()
            run.write(RunStarted(ts=now, job=run.job.id, run=run.id, attempt=attempt, worker=self._worker))
            await run.confirmed()
            while state.attempt < attempt and not state.ended:
                state = await self._journal.view.change(run.job.id, state)
            run.opened = state.run == run.id and not state.ended
        return state

    async def _stages(self, run: Run, state: JobState) -> Outcome:
        failure: PermanentError | None = None
        try:
            progress = Progress(run.id, run.job, run.pipeline, state)
        except PermanentError as error:
            return finished(run.pipeline, run.job.id, None, error, dict(state.usage))
        try:
            async with run.interrupt.scope(run.job.deadline - self._engine.clock()):
                for stage in run.pipeline.stages:
                    if stage.name not in state.outputs:
                        await self._stage(run, stage, progress)
        except TimeoutError:
            failure = late(run.job)
        except PermanentError as error:
            failure = error
        finally:
            run.interrupt.close()
        return run.interrupt.outcome or progress.finished(failure)

    async def _stage(self, run: Run, stage: Stage[BaseModel], progress: Progress) -> None:
        """Awaits one stage and writes its events. Raises `PermanentError` if it failed for good."""
        clock = self._engine.clock
        began, status = clock(), "interrupted"
        writer = _StageWriter(run, stage, progress)
        context = StageContext(
            self._engine,
            run,
            stage.name,
            progress.input,
            progress.outputs,
            progress.saved,
            lambda: writer.started(clock()),
        )
        try:
            with _permanent(stage.name):
                output = await stage.run(context)
                writer.completed(clock(), output, context.usage)
            status = "completed"
        except PermanentError as error:
            if run.interrupt.outcome is None:  # else it is the interrupt that the stage failed of
                status = "failed"
                writer.failed(clock(), error, context.usage)
            raise
        finally:
            self._metrics.stage_ended(run.pipeline.name, stage.name, status, clock() - began)


async def _guarded(work: Awaitable[Outcome]) -> Outcome:
    """The outcome of `work`, or the one that follows from what the journal could not tell."""
    try:
        return await work
    except Gone as error:
        return Dead(str(error))
    except RetryableError as error:
        return Released(str(error))


class _StageWriter:
    """Writes the events of one stage: `started` once, at its first call, or with its end if it makes none."""

    def __init__(self, run: Run, stage: Stage[BaseModel], progress: Progress) -> None:
        self._run = run
        self._stage = stage
        self._progress = progress
        self._shown = False

    def started(self, now: float) -> None:
        if not self._shown:
            self._shown = True
            self._run.write(self._progress.started(self._stage.name, now))

    def completed(self, now: float, output: BaseModel, usage: JSON | None) -> None:
        event = self._progress.completed(self._stage, now, output, usage)
        self.started(now)
        self._run.write(event)

    def failed(self, now: float, error: PermanentError, usage: JSON | None) -> None:
        self.started(now)
        self._run.write(self._progress.failed(self._stage.name, now, error, usage))


@contextmanager
def _permanent(stage: str) -> Iterator[None]:
    """Whatever goes wrong in a stage for good is a `PermanentError`: a bug ends its job, never the worker."""
    try:
        yield
    except PermanentError:
        raise
    except RetryableError as error:
        raise PermanentError(str(error), "UNAVAILABLE") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled the run: the stage awaited something of its own that was cancelled.
        raise PermanentError(f"a bug in stage {stage}: a stray cancellation", "INTERNAL") from error
    except Exception as error:
        log.exception("a stage failed by a bug", stage=stage)
        raise PermanentError(f"a bug in stage {stage}; see the worker's log", "INTERNAL") from error
