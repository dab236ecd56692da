"""The recent jobs as rows of a list, and one job with all that is known of it: pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eco2.errors import PermanentError
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.operator.cost import Cost, paid, total
from eco2.operator.dead import error, reached
from eco2.operator.trace import Run, StageTime, retry_at

LONGEST = 120
"""Characters of a text that are shown; a picture in an input has many more."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One recent job. Times are Unix seconds. `put_off`: when it is tried again, if it waits for that."""

    job: str
    pipeline: str
    status: str
    stage: str
    progress: int
    attempt: int
    accepted: float
    ended: float | None
    cost: Cost
    code: str
    put_off: float | None = None

    def document(self) -> JSON:
        return {
            "job": self.job,
            "pipeline": self.pipeline,
            "status": self.status,
            "stage": self.stage,
            "progress": self.progress,
            "attempt": self.attempt,
            "accepted": self.accepted,
            "ended": self.ended,
            "cost": self.cost.document(),
            "code": self.code,
            "put_off_until": self.put_off,
        }


@dataclass(frozen=True, slots=True)
class Sheet:
    """One job, all of it. `holder`: who has it now. `replayed`: the job that goes on with it, as far as the
    view reaches back."""

    state: JobState
    runs: Sequence[Run]
    stages: Sequence[StageTime]
    holder: str
    replayed: str | None = None

    def document(self) -> JSON:
        state = self.state
        return {
            **job_row(state).document(),
            "deadline": state.deadline,
            "owner": state.owner,
            "model": state.model,
            "resumes": state.resumes,
            "replayed": self.replayed,
            "superseded_by": state.by,
            "dead": state.dead,
            "cause": state.cause,
            "retries": state.retries,
            "crashes": state.crashes,
            "holder": self.holder,
            "runs": [run.document() for run in self.runs],
            "stages": [stage.document() for stage in self.stages],
            "shown": [
                {
                    "id": str(shown.id),
                    "stage": shown.stage,
                    "status": shown.status,
                    "seq": shown.seq,
                    "ts": shown.ts,
                    "progress": shown.progress,
                    "result": shortened(shown.result),
                }
                for shown in state.shown
            ],
        }


def job_row(state: JobState) -> JobRow:
    told = error(state)
    return JobRow(
        job=state.job,
        pipeline=state.pipeline,
        status=state.status,
        stage=reached(state),
        progress=state.progress,
        attempt=state.attempt,
        accepted=state.accepted,
        ended=state.touched if state.ended else None,
        cost=total(paid(state).values()),
        code=told[0] if told else "",
        put_off=retry_at(state),
    )


def check_pipeline(pipeline: str | None, known: Iterable[str], view: Iterable[JobState]) -> None:
    """Raises `PermanentError` for a name that no pipeline here has (`known`), and no recent job."""
    names = sorted({*known, *(state.pipeline for state in view)} - {""})
    if pipeline is not None and pipeline not in names:
        raise PermanentError(
            f"there is no pipeline {pipeline}: ECO2_PIPELINES and the recent jobs have {', '.join(names)}",
            "UNKNOWN",
        )


def rows(view: Iterable[JobState], status: str | None, pipeline: str | None) -> list[JobRow]:
    """Those of this status and pipeline (None: any), oldest first."""
    return [
        job_row(state)
        for state in view
        if status in (None, state.status) and pipeline in (None, state.pipeline)
    ]


def shortened(value: object) -> object:
    """A JSON value with long texts cut, above all pictures, and what was cut said."""
    match value:
        case str() if len(value) > LONGEST:
            return f"{value[: LONGEST // 2]}… ({len(value):,} characters)"
        case dict():
            return {name: shortened(inner) for name, inner in value.items()}
        case list():
            return [shortened(inner) for inner in value]
    return value
