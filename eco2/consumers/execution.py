"""One run from its opening to its outcome: find the job, open the run, await the stages, build the result.

What it guarantees: a stage runs only while the run is the job's current one; a completed stage is not run
again; whatever goes wrong in a stage, the job has an outcome.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ValidationError

from eco2.consumers.context import Engine, StageContext
from eco2.consumers.outcome import Dead, Finished, Outcome, Released, Void
from eco2.consumers.run import Run
from eco2.errors import PermanentError, RetryableError
from eco2.event import RunStarted, StageChanged
from eco2.job import JSON
from eco2.journal.history import Gone
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline, Outputs, Stage

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    code: str
    message: str


class Executor:
    """`worker`: this process's name in the journal."""

    def __init__(self, journal: Journal, engine: Engine, metrics: Metrics, worker: str) -> None:
        self._journal = journal
        self._engine = engine
        self._metrics = metrics
        self._worker = worker

    async def execute(self, run: Run) -> Outcome:
        """Runs the job as far as it goes. Never raises but for cancellation."""
        try:
            state = await self._journal.find(run.job.id)
        except Gone as error:
            return Dead(str(error))
        except RetryableError as error:
            return Released(str(error))
        if state is None:
            return Dead("the journal knows no such job: its order was not published by a gateway")
        if state.ended:
            return Void("the job has ended")
        if self._engine.clock() >= run.job.deadline:
            return _finished(run.pipeline, run.job.id, dict(state.usage), None, _late(run))
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
        usage = dict(state.usage)
        outputs = Outputs()
        failure: _Failure | None = None
        try:
            async with run.scope(run.job.deadline - self._engine.clock()):
                input_ = run.pipeline.input.model_validate(run.job.input)
                for index, stage in enumerate(run.pipeline.stages):
                    if stage.name in state.outputs:
                        outputs.add(stage.output.model_validate(state.outputs[stage.name]))
                    else:
                        failure = await self._stage(run, index, stage, input_, outputs, state, usage)
                    if failure:
                        break
        except TimeoutError:
            if run.interrupted == "drain":
                return Released("drain")
            if run.interrupted:
                return Void(run.interrupted)
            failure = _late(run)
        except ValidationError as error:
            failure = _Failure(
                "INVALID_INPUT", f"the order does not fit the pipeline: {error}"
            )
        finally:
            run.close()
        return _finished(run.pipeline, run.job.id, usage, None if failure else outputs, failure)

    async def _stage(
        self,
        run: Run,
        index: int,
        stage: Stage[BaseModel],
        input_: BaseModel,
        outputs: Outputs,
        state: JobState,
        usage: dict[str, JSON],
    ) -> _Failure | None:
        context = StageContext(self._engine, run, stage.name, input_, outputs, dict(state.saved))
        events = _StageEvents(run, stage.name, index, len(run.pipeline.stages))
        began = self._engine.clock()
        run.write(events.started(began))
        output, failure = await _guarded(stage, context)
        now = self._engine.clock()
        if context.usage:
            usage[stage.name] = context.usage
        if output is None:
            failure = failure or _Failure("INTERNAL", "the stage returned nothing")
            run.write(events.failed(now, failure, context.usage))
        else:
            outputs.add(output)
            run.write(events.completed(now, output.model_dump(mode="json"), context.usage))
        self._metrics.stage_ended(
            run.pipeline.name, stage.name, "failed" if failure else "completed", now - began
        )
        return failure


async def _guarded(
    stage: Stage[BaseModel], context: StageContext[BaseModel]
) -> tuple[BaseModel | None, _Failure | None]:
    """The stage's output or why it failed. A bug in a stage ends its job, never the worker."""
    try:
        return await stage.run(context), None
    except PermanentError as error:
        return None, _Failure(error.code, str(error))
    except RetryableError as error:
        return None, _Failure("UNAVAILABLE", str(error))
    except Exception as error:
        log.exception("a stage failed unexpectedly", stage=stage.name)
        return None, _Failure(
            "INTERNAL", f"{type(error).__name__} in {stage.name}; see the worker's log"
        )


@dataclass(frozen=True, slots=True)
class _StageEvents:
    """The events of one stage: their `seq` and `progress` follow from its place among `count` stages."""

    run: Run
    stage: str
    index: int
    count: int

    def started(self, now: float) -> StageChanged:
        return StageChanged(
            ts=now,
            job=self.run.job.id,
            run=self.run.id,
            stage=self.stage,
            status="started",
            seq=10 * (self.index + 1),
            progress=100 * self.index // self.count,
        )

    def completed(self, now: float, output: JSON, usage: JSON | None) -> StageChanged:
        return StageChanged(
            ts=now,
            job=self.run.job.id,
            run=self.run.id,
            stage=self.stage,
            status="completed",
            seq=10 * (self.index + 1) + 1,
            progress=100 * (self.index + 1) // self.count,
            output=output,
            usage=usage,
        )

    def failed(self, now: float, failure: _Failure, usage: JSON | None) -> StageChanged:
        return StageChanged(
            ts=now,
            job=self.run.job.id,
            run=self.run.id,
            stage=self.stage,
            status="failed",
            seq=10 * (self.index + 1) + 1,
            progress=100 * self.index // self.count,
            error={"code": failure.code, "message": failure.message},
            usage=usage,
        )


def _late(run: Run) -> _Failure:
    seconds = run.job.deadline - run.job.accepted
    return _Failure("DEADLINE", f"not done within {seconds:g} s of its acceptance; send it again")


def _finished(
    pipeline: AnyPipeline,
    job_id: str,
    usage: dict[str, JSON],
    outputs: Outputs | None,
    failure: _Failure | None,
) -> Finished:
    status: Literal["completed", "failed"] = "failed" if failure else "completed"
    return Finished(
        status,
        {
            "task_id": job_id,
            "status": status,
            "message": failure.message if failure else f"{pipeline.name} completed",
            **pipeline.result(outputs),
            "error": {"code": failure.code, "message": failure.message} if failure else None,
            "usage": usage,
        },
    )
