"""What a replay of a dead job would do, and what it would cost: decided before anything is done, without I/O.

What it guarantees: a stage whose stored output still fits the pipeline is not run, and so not paid, again; a
job that somebody has replayed already is not replayed a second time, as long as the view tells of the first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from eco2.job import JSON, Job, new_id
from eco2.journal.state import JobState
from eco2.operator.cost import Cost, expected, paid, peers
from eco2.operator.dead import successor
from eco2.operator.letters import DeadJob
from eco2.pipeline import AnyPipeline


@dataclass(frozen=True, slots=True)
class Plan:
    """`job`: the new job. `outputs`: what it begins with; `runs`: the stages that it still has to run, each
    with its expected cost (None: not known). `paid`: by stage, what the old job has paid for.

    `announced`: the journal knows `job` already, since a replay before this one did not come to its end;
    `over`: that job has come to its own, so that only letters are left.
    """

    dead: DeadJob
    job: Job
    outputs: Mapping[str, JSON] = field(default_factory=dict)
    runs: Mapping[str, Cost | None] = field(default_factory=dict)
    paid: Mapping[str, Cost] = field(default_factory=dict)
    announced: bool = False
    over: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not replayed, and what to do instead."""

    job: str
    why: str


def plan(
    dead: DeadJob,
    state: JobState | None,
    pipelines: Mapping[str, AnyPipeline],
    view: Collection[JobState],
    now: float,
    life: float,
) -> Plan | Refusal:
    """`state`: the old job in the journal, None if it is not there (any more). `life`: seconds to the new
    job's deadline, from `now` (Unix seconds)."""
    if dead.order is None:
        return Refusal(
            dead.id,
            f"its order cannot be read ({dead.unreadable}): drop it, and let the client send it again",
        )
    pipeline = pipelines.get(dead.order.pipeline)
    if pipeline is None:
        return Refusal(
            dead.id, f"ECO2_PIPELINES here does not name {dead.order.pipeline}: set it as for workers"
        )
    if why := _ended_otherwise(state) or _misfit(pipeline, dead.order):
        return Refusal(dead.id, why)
    before = paid(state) if state else {}
    earlier = successor(dead.id, view)
    if earlier is not None and (not earlier.ended or earlier.dead or earlier.status == "completed"):
        return Plan(dead, _same(dead.order, earlier), paid=before, announced=True, over=earlier.ended)
    outputs = kept(pipeline, state.outputs if state else {})
    known = peers(view, pipeline.name, dead.order.model)
    left = [stage.name for stage in pipeline.stages if stage.name not in outputs]
    return Plan(
        dead,
        _anew(dead.order, now, life),
        outputs,
        {stage: expected(stage, known, before) for stage in left},
        before,
    )


def kept(pipeline: AnyPipeline, outputs: Mapping[str, JSON]) -> dict[str, JSON]:
    """The outputs up to the first stage that has none, or one that the pipeline as it is now cannot read:
    what that stage and those behind it did, they do again."""
    fit: dict[str, JSON] = {}
    for stage in pipeline.stages:
        output = outputs.get(stage.name)
        if output is None or not _reads(stage.output, output):
            break
        fit[stage.name] = output
    return fit


def _ended_otherwise(state: JobState | None) -> str:
    match state:
        case JobState(ended=False):
            return f"it has not ended: `eco2 jobs reissue {state.job}` orders it again"
        case JobState(status="completed" | "cancelled" | "superseded"):
            return f"it ended as {state.status}, so nothing is left to do: drop it"
    return ""


def _misfit(pipeline: AnyPipeline, order: Job) -> str:
    if _reads(pipeline.input, order.input):
        return ""
    return (
        f"its input does not fit the pipeline {pipeline.name} here: replay it with the code it was made for"
    )


def _reads(model: type[BaseModel], value: JSON) -> bool:
    try:
        model.model_validate(value)
    except Exception:  # noqa: BLE001  # a model's own validator may raise anything
        return False
    return True


def _anew(old: Job, now: float, life: float) -> Job:
    """The same work for the same owner, under an id, and with a time, of its own. The key stays with the old
    job, whose answer its client has."""
    return Job(
        id=new_id(now),
        pipeline=old.pipeline,
        input=old.input,
        accepted=now,
        deadline=now + life,
        digest=old.digest,
        owner=old.owner,
        model=old.model,
    )


def _same(old: Job, known: JobState) -> Job:
    """The job that an earlier replay has announced."""
    return Job(
        id=known.job,
        pipeline=known.pipeline,
        input=old.input,
        accepted=known.accepted,
        deadline=known.deadline,
        digest=known.digest,
        owner=known.owner,
        model=known.model,
    )


def sums(runs: Mapping[str, Cost | None]) -> tuple[Cost, Sequence[str]]:
    """What the stages with an expected cost make together, and the stages without one."""
    whole = sum((cost for cost in runs.values() if cost is not None), Cost())
    return whole, [stage for stage, cost in runs.items() if cost is None]
