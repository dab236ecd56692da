"""A pipeline of one stage that does the same as every other contender's handler."""

from pydantic import BaseModel

from bench.core.work import work_async
from eco2.pipeline import JSON, Context, Outputs, Pipeline, Stage


class Task(BaseModel):
    """The input."""

    seconds: float


class Nothing(BaseModel):
    """The output."""


async def run(context: Context[Task]) -> Nothing:
    await work_async(context.input.seconds)
    return Nothing()


def result(_: Outputs | None) -> JSON:
    return {}


core: Pipeline[Task] = Pipeline("core", Task, (Stage("work", run, Nothing),), result)
