"""One run from its opening to its outcome: find the job, open the run, await the stages, build the result.

What it guarantees: a stage runs only while the run is the job's current one; a completed stage is not run
again; whatever goes wrong in a stage, the job has an outcome.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from eco2.consumers.context import Engine, StageContext
from eco2.consumers.outcome import Dead, Outcome, Released, Void
from eco2.consumers.progress import Progress, finished, late
from eco2.consumers.run import Run
from eco2.errors import Gone, PermanentError, RetryableError
from eco2.event import RunStarted
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
        try:
            return await self._begin(run)
        except Gone as error:
            return Dead(str(error))
        except RetryableError as error:
            return Released(str(error))

    async def _begin(self, run: Run) -> Outcome:
        state = await self._journal.find(run.job.id)
        if state is None:
            return Dead("the journal knows no such job: its order was not published by a gateway")
        if state.ended:
            return Void("the job has ended")
        if self._engine.clock() >= run.job.deadline:
            return finished(run.pipeline, run.job.id, None, late(run.job), dict(state.usage))
        opened = await self._open(run, state)
        if opened is None:
            return Void("another run holds the job")
        return await self._stages(run, opened)

    async def _open(self, run: Run, state: JobState) -> JobState | None:
        """The state in which `run` is the job's current run; None if it never becomes that."""
        attempt = state.attempt + 1
        now = self._engine.clock()
        run.write(RunStarted(ts=now, job=run.job.id, run=run.id, attempt=attempt, worker=self._worker))
        await run.confirmed()
        while state.attempt < attempt and not state.ended:
            state = await self._journal.view.change(run.job.id, state)
        run.opened = state.run == run.id and not state.ended
        return state if run.opened else None

    async def _stages(self, run: Run, state: JobState) -> Outcome:
        failure: PermanentError | None = None
        try:
            progress = Progress(run.id, run.job, run.pipeline, state)
        except PermanentError as error:
            return finished(run.pipeline, run.job.id, None, error, dict(state.usage))
        try:
            async with run.scope(run.job.deadline - self._engine.clock()):
                for stage in run.pipeline.stages:
                    if stage.name not in state.outputs:
                        await self._stage(run, stage, progress)
        except TimeoutError:
            if run.interrupted:
                return Released("drain") if run.interrupted == "drain" else Void(run.interrupted)
            failure = late(run.job)
        except PermanentError as error:
            failure = error
        finally:
            run.close()
        return progress.finished(failure)

    async def _stage(self, run: Run, stage: Stage[BaseModel], progress: Progress) -> None:
        """Awaits one stage and writes its events. Raises `PermanentError` if it failed for good."""
        context = StageContext(
            self._engine, run, stage.name, progress.input, progress.outputs, progress.saved
        )
        began, status = self._engine.clock(), "interrupted"
        run.write(progress.started(stage.name, began))
        try:
            with _permanent(stage.name):
                output = await stage.run(context)
                run.write(progress.completed(stage, self._engine.clock(), output, context.usage))
            status = "completed"
        except PermanentError as error:
            status = "failed"
            run.write(progress.failed(stage.name, self._engine.clock(), error, context.usage))
            raise
        finally:
            self._metrics.stage_ended(run.pipeline.name, stage.name, status, self._engine.clock() - began)


@contextmanager
def _permanent(stage: str) -> Iterator[None]:
    """Whatever goes wrong in a stage for good is a `PermanentError`: a bug ends its job, never the worker."""
    try:
        yield
    except PermanentError:
        raise
    except RetryableError as error:
        raise PermanentError(str(error), "UNAVAILABLE") from error
    except Exception as error:
        log.exception("a stage failed by a bug", stage=stage)
        raise PermanentError(f"a bug in stage {stage}; see the worker's log", "INTERNAL") from error
