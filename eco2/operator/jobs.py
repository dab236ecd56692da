"""Lists the recent jobs as rows, and shows one job in detail. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import asdict

from eco2.errors import PermanentError
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.operator.cost import Cost, document, paid, total
from eco2.operator.dead_jobs import end_error, last_stage
from eco2.operator.job_history import JobRun, StageTime

MAX_SHOWN = 120
"""Characters of a text that are shown; a picture in an input has many more."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One recent job. Times are Unix seconds. `put_off_until`: the time of its retry, if it waits for one."""

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
    put_off_until: float | None = None


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job in detail. `holder`: who has it now. `replayed`: the job that replays it, if in the view."""

    state: JobState
    runs: Sequence[JobRun]
    stages: Sequence[StageTime]
    holder: str
    replayed: str | None = None

    def document(self) -> JSON:
        """Returns everything as JSON, with long texts shortened."""
        state = self.state
        return {
            **document(job_row(state)),
            "priority": state.priority,
            "max_wait": state.max_wait,
            "timeout": state.timeout,
            "max_usd": state.max_usd,
            "started": state.started_at,
            "deadline": state.deadline,
            "owner": state.owner,
            "model": state.model,
            "resumes": state.resumes,
            "replayed": self.replayed,
            "superseded_by": state.superseded_by,
            "dead": state.dead,
            "cause": state.cause,
            "retries": state.retries,
            "crashes": state.crashes,
            "holder": self.holder,
            "runs": [document(run) for run in self.runs],
            "stages": [document(stage) for stage in self.stages],
            "shown": [
                {**asdict(shown), "id": str(shown.id), "result": shortened(shown.result)}
                for shown in state.visible_events
            ],
        }


def job_row(state: JobState) -> JobRow:
    """Returns the row of one job."""
    error = end_error(state)
    return JobRow(
        job=state.job,
        pipeline=state.pipeline,
        status=state.status,
        stage=last_stage(state),
        progress=state.progress,
        attempt=state.attempt,
        accepted=state.accepted,
        ended=state.updated_at if state.ended else None,
        cost=total(paid(state).values()),
        code=error[0] if error else "",
        put_off_until=state.retrying.until if state.retrying else None,
    )


def check_pipeline(pipeline: str | None, configured: Iterable[str], view: Iterable[JobState]) -> None:
    """Raises `PermanentError` for a name that is neither `configured` here nor of a recent job."""
    names = sorted({*configured, *(state.pipeline for state in view)} - {""})
    if pipeline is not None and pipeline not in names:
        raise PermanentError(
            f"there is no pipeline {pipeline}: ECO2_PIPELINES and the recent jobs have {', '.join(names)}",
            "UNKNOWN",
        )


def job_rows(view: Iterable[JobState], status: str | None, pipeline: str | None) -> list[JobRow]:
    """Returns the jobs of this status and pipeline (None: any), oldest first."""
    return [
        job_row(state)
        for state in view
        if status in (None, state.status) and pipeline in (None, state.pipeline)
    ]


def count_jobs(view: Iterable[JobState]) -> tuple[int, int]:
    """Returns the numbers of running and of queued jobs."""
    statuses = [state.status for state in view]
    return statuses.count("running"), statuses.count("queued")


def shortened(value: object) -> object:
    """Returns the JSON value with long texts cut, mainly pictures; each names its full length."""
    match value:
        case str() if len(value) > MAX_SHOWN:
            return f"{value[: MAX_SHOWN // 2]}… ({len(value):,} characters)"
        case dict():
            return {name: shortened(inner) for name, inner in value.items()}
        case list():
            return [shortened(inner) for inner in value]
    return value
