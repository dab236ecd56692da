"""How far one run has come: its outputs, and the events and the result that follow from them."""

from typing import Literal

import msgspec
from pydantic import BaseModel, ValidationError

from eco2.consumers.cause import bug
from eco2.consumers.outcome import Finished
from eco2.errors import PermanentError, PermanentFailure, TooLarge
from eco2.event import Done, StageChanged, Status, sound
from eco2.job import JSON, Job
from eco2.journal.outbox import MOST_BYTES
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline, Outputs, Stage

MAX_RESULT_BYTES = MOST_BYTES - 1_000_000
"""Bytes; the rest of the last event has room beside it."""
MAX_MESSAGE = 10_000
"""Characters of an error that are kept."""

log = get_logger(__name__)


class Progress:
    """Starts from what earlier runs completed (`state`). Raises `PermanentError` if it does not fit."""

    def __init__(self, run_id: str, job: Job, pipeline: AnyPipeline, state: JobState) -> None:
        self._run_id = run_id
        self._job = job
        self._pipeline = pipeline
        self._places = {stage.name: place for place, stage in enumerate(pipeline.stages, start=1)}
        self.usage: dict[str, JSON] = dict(state.usage)
        try:
            self.input: BaseModel = pipeline.input.model_validate(job.input)
            self.outputs = Outputs(
                tuple(
                    stage.output.model_validate(state.outputs[stage.name])
                    for stage in pipeline.stages
                    if stage.name in state.outputs
                )
            )
        except Exception as error:  # a model's own validator may raise anything
            raise PermanentError(
                f"the order or a checkpoint does not fit: {_misfit(error)}",
                "INVALID_INPUT",
                "the request does not fit what this pipeline takes at present: send it again",
            ) from error

    def started(self, stage: str, now: float) -> StageChanged:
        return self._event(stage, now, "started", seq=10 * self._places[stage], finished=-1)

    def completed(
        self, stage: Stage[BaseModel], now: float, output: BaseModel, usage: JSON | None
    ) -> StageChanged:
        """Also records the output for the stages to come, and the usage for the result."""
        if not isinstance(output, stage.output):
            raise TypeError(f"stage {stage.name} must return {stage.output.__name__}")
        dumped = output.model_dump(mode="json")
        self.outputs.add(output)
        self._used(stage.name, usage)
        seq = 10 * self._places[stage.name] + 1
        return self._event(stage.name, now, "completed", seq, 0, output=dumped, usage=usage)

    def repeated(self, stage: Stage[BaseModel], state: JobState, now: float) -> tuple[StageChanged, ...]:
        """The events of a stage whose output came with a job that resumes another; none if they are there."""
        seq = 10 * self._places[stage.name]
        if any(shown.seq > seq for shown in state.visible_events):
            return ()
        output = state.outputs[stage.name]
        completed = self._event(stage.name, now, "completed", seq + 1, 0, output=output)
        return (self.started(stage.name, now), completed)

    def failed(self, stage: str, now: float, error: PermanentError, usage: JSON | None) -> StageChanged:
        self._used(stage, usage)
        seq = 10 * self._places[stage] + 1
        return self._event(stage, now, "failed", seq, -1, error=_error(error), usage=usage)

    def build_result(self, error: PermanentError | None) -> Finished:
        """The outcome: what the pipeline makes of all outputs, or the reason why there is none."""
        return build_result(self._pipeline, self._job.id, None if error else self.outputs, error, self.usage)

    def _used(self, stage: str, usage: JSON | None) -> None:
        if usage:
            self.usage[stage] = usage

    def _event(
        self,
        stage: str,
        now: float,
        status: Status,
        seq: int,
        finished: int,
        output: JSON | None = None,
        error: JSON | None = None,
        usage: JSON | None = None,
    ) -> StageChanged:
        return StageChanged(
            ts=now,
            job=self._job.id,
            run=self._run_id,
            stage=stage,
            status=status,
            seq=seq,
            progress=100 * (self._places[stage] + finished) // len(self._places),
            output=output,
            error=error,
            usage=usage,
        )


def build_result(
    pipeline: AnyPipeline,
    job_id: str,
    outputs: Outputs | None,
    error: PermanentError | None,
    usage: dict[str, JSON],
) -> Finished:
    """The end of a job as clients read it; `outputs` of a job that completed, `error` of one that did not."""
    body, error = _body(pipeline, outputs, error)
    status: Literal["completed", "failed"] = "failed" if error else "completed"
    message = for_clients(error) if error else f"{pipeline.name} completed"
    head = {"task_id": job_id, "status": status, "message": message}
    result = {**head, **body, "error": _error(error) if error else None, "usage": usage}
    cause = truncated(str(error)) if error else ""
    return Finished(
        status,
        result,
        isinstance(error, PermanentFailure),
        error.code if error else None,
        "" if cause == message else cause,
    )


def _body(
    pipeline: AnyPipeline, outputs: Outputs | None, error: PermanentError | None
) -> tuple[JSON, PermanentError | None]:
    """The pipeline's part of the result, and the error if there is one at last."""
    try:
        body = pipeline.result(outputs)
        size = len(msgspec.json.encode(body))
    except Exception as raised:
        log.exception("a pipeline's result failed by a bug", pipeline=pipeline.name)
        error = error or bug(f"a bug in the result of {pipeline.name}", raised)
        return _body(pipeline, None, error) if outputs else ({}, error)
    if size <= MAX_RESULT_BYTES:
        return body, error
    large = TooLarge(
        f"the result takes {size:,} bytes, and {MAX_RESULT_BYTES:,} fit into the journal: keep what is large "
        "in a store of its own, and let the result say where it is"
    )
    return _body(pipeline, None, error or large) if outputs else ({}, error or large)


def done_event(pipeline: AnyPipeline, job_id: str, run: str | None, outcome: Finished, now: float) -> Done:
    """The terminal event; its `seq` lies behind those of all stages."""
    seq = 10 * (len(pipeline.stages) + 1) + 1
    return Done(
        ts=now,
        job=job_id,
        run=run,
        status=outcome.status,
        seq=seq,
        result=outcome.result,
        dead=outcome.dead,
        cause=outcome.cause,
    )


def expired(pipeline: AnyPipeline | None, state: JobState, now: float) -> Done:
    """The terminal event of a job that no run ended in time.

    `pipeline`: None where its code is not installed; its members of the result are then left to the gateways,
    which show them as null.
    """
    error, usage = deadline_exceeded(state), dict(state.usage)
    if pipeline is not None:
        return done_event(
            pipeline, state.job, None, build_result(pipeline, state.job, None, error, usage), now
        )
    head = {"task_id": state.job, "status": "failed", "message": truncated(str(error))}
    seq = 10 * (state.visible_events[-1].seq // 10 + 1) + 1
    result: JSON = {**head, "error": _error(error), "usage": usage}
    return Done(ts=now, job=state.job, run=None, status="failed", seq=seq, result=result)


def _misfit(error: Exception) -> str:
    """The fields that do not fit and why; never their values, which may be pictures and questions."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details)


def deadline_exceeded(job: Job | JobState) -> PermanentError:
    """Why a job ends that did not make it in time."""
    seconds = job.deadline - job.accepted
    return PermanentError(f"not done within {seconds:g} s of its acceptance; send it again", "DEADLINE")


def _error(error: PermanentError) -> JSON:
    return {"code": error.code, "message": for_clients(error)}


def for_clients(error: PermanentError) -> str:
    """What the end client of a job reads: never the words of a provider."""
    return truncated(error.for_clients or str(error))


def truncated(text: str) -> str:
    """What somebody says went wrong, as the journal can hold it: not too long, no half characters."""
    return sound(text[:MAX_MESSAGE])
