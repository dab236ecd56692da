"""Plans the replay of a failed job, with its cost, before anything is done. Pure.

Guarantees: a stage whose stored output still fits the pipeline does not run again, so it is not paid again;
a job that was replayed before is not replayed a second time, while the view still has the first replay. If
that one failed, too, it is the one to replay: it may have completed more stages.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace
from pydantic import BaseModel

from eco2.job import JSON, Job, new_id
from eco2.journal.state import JobState
from eco2.operator.cost import Cost, expected, paid, peers
from eco2.operator.dead_jobs import DeadJob, end_error, successor
from eco2.pipeline import AnyPipeline


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A replay to come. `job`: the new job. `outputs`: the stage outputs that it starts with.

    `runs`: the stages left to run, each with its expected cost (None: unknown). `paid`: by stage, the cost of
    the old job. `announced`: an unfinished replay has written `job` to the journal already; `ended`: that job
    has ended, so only letters are left to drop.
    """

    dead: DeadJob
    job: Job
    outputs: Mapping[str, JSON] = field(default_factory=dict)
    runs: Mapping[str, Cost | None] = field(default_factory=dict)
    paid: Mapping[str, Cost] = field(default_factory=dict)
    announced: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class NotReplayable:
    """A failed job that cannot be replayed. `reason`: why, and what to do instead."""

    job: str
    reason: str


def plan_replay(
    dead: DeadJob,
    state: JobState | None,
    pipelines: Mapping[str, AnyPipeline],
    view: Collection[JobState],
    now: float,
    max_wait: float,
    timeout: float,
) -> ReplayPlan | NotReplayable:
    """Plans a replay. `state`: the old job in the journal, if any. `now`: Unix seconds.

    The new job has all the time that its pipeline allows, also where a client had asked for less; `max_wait`,
    `timeout`: of pipelines without their own. A batch job has at least the `max_wait` that it had.
    """
    if (order := dead.order) is None:
        return NotReplayable(
            dead.id,
            f"its order cannot be read ({dead.unreadable}): drop it, and let the client send it again",
        )
    if (pipeline := pipelines.get(order.pipeline)) is None:
        return NotReplayable(
            dead.id, f"ECO2_PIPELINES here does not name {order.pipeline}: set it as for the workers"
        )
    if reason := why_not(state):
        return NotReplayable(dead.id, reason)
    if not _fits(pipeline.input, order.input):
        return NotReplayable(
            dead.id,
            f"its input does not fit the pipeline {pipeline.name} here: replay it with the code that it was "
            "made for",
        )
    paid_before = paid(state) if state else {}
    # The key stays with the old job, whose result its client has.
    earlier = successor(dead.id, view)
    if earlier is not None and earlier.status != "cancelled":
        if earlier.status == "failed" and not dead.letters:
            return NotReplayable(
                dead.id, f"it was replayed as {earlier.job}, which failed: `eco2 jobs replay {earlier.job}`"
            )
        job = earlier.as_job(order.input)
        return ReplayPlan(dead, job, paid=paid_before, announced=True, ended=earlier.ended)
    outputs = reusable_outputs(pipeline, state.outputs if state else {})
    others = peers(view, pipeline.name, order.model)
    left = [stage.name for stage in pipeline.stages if stage.name not in outputs]
    max_wait = pipeline.max_wait or max_wait
    if order.priority == "batch":
        max_wait = max(max_wait, order.max_wait)
    job = _new_job(order, now, max_wait, pipeline.timeout or timeout)
    runs = {stage: expected(stage, others, paid_before) for stage in left}
    return ReplayPlan(dead, job, outputs, runs, paid_before)


def _new_job(order: Job, now: float, max_wait: float, timeout: float) -> Job:
    return replace(
        order,
        id=new_id(now),
        accepted=now,
        deadline=0.0,
        max_wait=max_wait,
        timeout=timeout,
        key=None,
    )


def reusable_outputs(pipeline: AnyPipeline, outputs: Mapping[str, JSON]) -> dict[str, JSON]:
    """Returns the outputs before the first one that is missing or does not fit the present pipeline.

    That stage and all later ones run again.
    """
    reusable: dict[str, JSON] = {}
    for stage in pipeline.stages:
        output = outputs.get(stage.name)
        if output is None or not _fits(stage.output, output):
            break
        reusable[stage.name] = output
    return reusable


def why_not(state: JobState | None) -> str:
    """Returns why a job in this state is not replayed; "" if it may be."""
    match state:
        case JobState(ended=False):
            return f"it has not ended: `eco2 jobs reissue {state.job}` publishes its order again"
        case JobState(status="completed" | "cancelled" | "superseded"):
            return f"it ended as {state.status}, so nothing is left to do"
    return ""


def failed_jobs(
    view: Collection[JobState], since: float, pipeline: str | None, code: str | None
) -> tuple[list[JobState], int]:
    """Returns the jobs that failed since then (Unix seconds), and how many more were replayed before.

    `pipeline`, `code`: None for any. A replay that was cancelled does not count.
    """
    replayed = {each.resumes for each in view if each.status != "cancelled"}
    failed = [
        state
        for state in view
        if state.status == "failed"
        and state.updated_at >= since
        and pipeline in (None, state.pipeline)
        and code in (None, (end_error(state) or ("",))[0])
    ]
    fresh = [state for state in failed if state.job not in replayed]
    return fresh, len(failed) - len(fresh)


def _fits(model: type[BaseModel], value: JSON) -> bool:
    try:
        model.model_validate(value)
    except Exception:  # noqa: BLE001  # a model's own validator may raise anything
        return False
    return True


def sum_costs(runs: Mapping[str, Cost | None]) -> tuple[Cost, Sequence[str]]:
    """Returns the sum of the known costs, and the stages whose cost is unknown."""
    whole = sum((cost for cost in runs.values() if cost is not None), Cost())
    return whole, [stage for stage, cost in runs.items() if cost is None]
