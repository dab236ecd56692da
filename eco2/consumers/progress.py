"""How far a job has come, and the result and the terminal event that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from pydantic import BaseModel, ValidationError

from eco2.consumers.cause import bug
from eco2.consumers.outcome import Finished
from eco2.consumers.scope import TimeCode
from eco2.errors import PermanentError, PermanentFailure, TooLarge
from eco2.event import Done, replace_surrogates
from eco2.job import JSON, Job
from eco2.journal.outbox import MAX_PUT_BYTES
from eco2.journal.state import JobState, end_without_run
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline, Outputs

MAX_RESULT_BYTES = MAX_PUT_BYTES - 1_000_000
"""Leaves room for the rest of the terminal event."""
MAX_MESSAGE = 10_000
"""Characters of an error that are kept."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """The input of a job, and the output and usage of each of its stages so far."""

    input: BaseModel
    outputs: Outputs
    usage: dict[str, JSON]

    @classmethod
    def restore(cls, pipeline: AnyPipeline, job: Job, state: JobState) -> "Progress":
        """Returns what earlier runs completed. Raises `PermanentError` if it does not fit the pipeline."""
        try:
            outputs = tuple(
                stage.output.model_validate(state.outputs[stage.name])
                for stage in pipeline.stages
                if stage.name in state.outputs
            )
            return cls(pipeline.input.model_validate(job.input), Outputs(outputs), dict(state.usage))
        except Exception as error:  # a model's own validator may raise anything
            raise PermanentError(
                f"the order or a checkpoint does not fit: {validation_problems(error)}",
                "INVALID_INPUT",
                "the request does not fit what this pipeline takes at present: send it again",
            ) from error


def build_result(
    pipeline: AnyPipeline, job_id: str, end: Outputs | PermanentError, usage: Mapping[str, JSON]
) -> Finished:
    """Returns the end of a job as clients read it. `end`: all outputs, or why there are not all."""
    body, error = _pipeline_result(pipeline, end)
    status: Literal["completed", "failed"] = "failed" if error else "completed"
    message = for_clients(error) if error else f"{pipeline.name} completed"
    head = {"task_id": job_id, "status": status, "message": message}
    result = {**head, **body, "error": error_json(error) if error else None, "usage": dict(usage)}
    cause, dead = truncated(str(error)) if error else "", isinstance(error, PermanentFailure)
    code = error.code if error else None
    return Finished(status, result, dead, code, "" if cause == message else cause)


def _pipeline_result(
    pipeline: AnyPipeline, end: Outputs | PermanentError
) -> tuple[JSON, PermanentError | None]:
    """Returns the pipeline's members of the result, and the error that the job has then."""
    error = end if isinstance(end, PermanentError) else None
    try:
        body = pipeline.result_json(end if isinstance(end, Outputs) else None)
        size = len(msgspec.json.encode(body))
    except Exception as raised:
        log.exception("a pipeline's result failed by a bug", pipeline=pipeline.name)
        error = error or bug(f"a bug in the result of {pipeline.name}", raised)
    else:
        if size <= MAX_RESULT_BYTES:
            return body, error
        error = error or TooLarge(
            f"the result takes {size:,} bytes, and {MAX_RESULT_BYTES:,} fit into the journal: keep what is "
            "large in a store of its own, and let the result say where it is"
        )
    return ({}, error) if end is error else _pipeline_result(pipeline, error)


def done_event(pipeline: AnyPipeline, job_id: str, run: str | None, outcome: Finished, now: float) -> Done:
    """Returns the terminal event; its `seq` is greater than those of all stages."""
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
        if_unstarted=run is None and outcome.code == "EXPIRED",
    )


def expired(state: JobState, now: float) -> Done:
    """Returns the terminal event of a job that no run ended in time."""
    error = deadline_exceeded(state, time_code(state))
    unstarted = error.code == "EXPIRED"
    return end_without_run(state, "failed", error.code, str(error), now, if_unstarted=unstarted)


def validation_problems(error: Exception) -> str:
    """Names the fields that do not fit and why; never their values, which may be pictures and questions."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details)


def time_code(state: JobState) -> TimeCode:
    """Returns which of its times is over for a job that is ended without a run of its own."""
    return "TIMEOUT" if state.has_started else "EXPIRED"


def deadline_exceeded(job: Job | JobState, code: TimeCode) -> PermanentError:
    """Returns the error of a job that was not begun, or not done, in time."""
    if code == "EXPIRED":
        message = (
            f"not begun within {job.max_wait:g} s of its acceptance: nothing was paid, send it again later"
        )
    else:
        message = f"not done within {job.timeout:g} s of its start: send it again, or ask for less at once"
    return PermanentError(message, code)


def error_json(error: PermanentError) -> JSON:
    """Returns the error as results and events show it."""
    return {"code": error.code, "message": for_clients(error)}


def for_clients(error: PermanentError) -> str:
    """Returns the text that the end client of a job reads: never a provider's own."""
    return truncated(error.for_clients or str(error))


def truncated(text: str) -> str:
    """Returns the text as the journal can hold it: not too long, no half characters."""
    return replace_surrogates(text[:MAX_MESSAGE])
