"""A job among the dead letters as a row of a list, as a pure function."""

from collections.abc import Iterable
from dataclasses import dataclass

from eco2.job import JSON
from eco2.journal.state import TRUNCATED, JobState
from eco2.operator.cost import Cost, paid, total
from eco2.operator.letters import DeadJob


@dataclass(frozen=True, slots=True)
class DeadRow:
    """`code` and `message`: why it failed. `when`: Unix seconds. `stage`: how far it got.

    `status`: what the journal says of the job, `unknown` if it says nothing (any more). `replayed`: the job
    that goes on with it, as far as the view reaches back.
    """

    job: str
    pipeline: str
    status: str
    code: str
    message: str
    when: float | None
    stage: str
    cost: Cost
    letters: int
    replayed: str | None

    def document(self) -> JSON:
        return {
            "job": self.job,
            "pipeline": self.pipeline,
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "when": self.when,
            "stage": self.stage,
            "cost": self.cost.document(),
            "letters": self.letters,
            "replayed": self.replayed,
        }


def row(dead: DeadJob, state: JobState | None, view: Iterable[JobState]) -> DeadRow:
    """`state`: the job in the journal, if it is there. `view`: the recent jobs."""
    code, message = _why(dead, state)
    replay = successor(dead.id, view)
    return DeadRow(
        job=dead.id,
        pipeline=dead.pipeline,
        status=state.status if state else "unknown",
        code=code,
        message=message,
        when=dead.when or (state.touched if state else None),
        stage=reached(state) if state else "",
        cost=total(paid(state).values()) if state else Cost(),
        letters=len(dead.letters),
        replayed=replay.job if replay else None,
    )


def successor(job: str, view: Iterable[JobState]) -> JobState | None:
    """The latest job that replays `job`."""
    return max((each for each in view if each.resumes == job), key=lambda each: each.queued_at, default=None)


def reached(state: JobState) -> str:
    """The last stage that showed itself, and how it ended."""
    stages = [shown for shown in state.shown if shown.stage not in ("done", TRUNCATED)]
    if not stages:
        return ""
    last = stages[-1]
    return last.stage if last.seq == 0 else f"{last.stage} {last.status}"


def error(state: JobState) -> tuple[str, str] | None:
    """Code and message of the error that the job ended with; the message as operators read it."""
    told = (state.result or {}).get("error")
    if not isinstance(told, dict):
        return None
    return str(told.get("code", "")), state.cause or str(told.get("message", ""))


def _why(dead: DeadJob, state: JobState | None) -> tuple[str, str]:
    told = error(state) if state else None
    if told is not None:
        return told
    return "", f"{dead.death}: {dead.unreadable}" if dead.unreadable else dead.death
