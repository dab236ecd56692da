"""Runs jobs of a pipeline in process, in virtual time, and shows what became of each."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from eco2.broker.embedded import CALM, Chaos
from eco2.call import Call
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.pacer import Limits
from eco2.pipeline import AnyPipeline
from eco2.testing.clock import run_virtual
from eco2.testing.model import Fault, Script, ScriptedModel
from eco2.testing.world import Process, Remote, World
from eco2.validation import problems


@dataclass(frozen=True)
class Ran:
    """A job that has ended.

    `result`: all that its client reads. `code`, `cause`: why it failed, for clients and for operators.
    `outputs`: of each completed stage. `events`: (stage, status) of each event that clients saw, in order.
    `calls`: those that were sent to the model, in order, also those that failed. `cost`: USD; None if it is
    not known. `seconds`: from its acceptance to its end.
    """

    id: str
    status: str
    result: JSON = field(repr=False)
    code: str | None
    cause: str
    outputs: Mapping[str, JSON]
    events: list[tuple[str, str]]
    calls: list[Call[Any]] = field(repr=False)
    cost: Decimal | None
    seconds: float


@dataclass(frozen=True)
class Installation:
    """A gateway without HTTP, and a worker that is replaced when it crashes."""

    gateway: Process
    model: ScriptedModel

    async def run(
        self,
        given: object = None,
        *,
        key: str | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> Ran:
        """Submits a job, as `Process.submit`, and returns it once it has ended.

        Raises `AssertionError` for a call that the script has no answer for.
        """
        state = await self.gateway.submit(given, key, max_wait, timeout=timeout)
        return self.ran(await self.gateway.ended(state.superseded_by or state.job))

    def ran(self, state: JobState) -> Ran:
        """Shows an ended job. Raises `AssertionError` for a call that the script has no answer for."""
        if self.model.problems:
            raise AssertionError("; ".join(self.model.problems))
        result = dict(state.result or {})
        match result.get("error"):
            case {"code": str(code)}:
                failed_as: str | None = code
            case _:
                failed_as = None
        sent = zip(self.model.calls, self.model.sent, strict=True)
        return Ran(
            id=state.job,
            status=state.status,
            result=result,
            code=failed_as,
            cause=state.cause,
            outputs=state.outputs,
            events=[(event.stage, event.status) for event in state.visible_events],
            calls=[call for (_, job), call in sent if job == state.job],
            cost=cost(result.get("usage")),
            seconds=state.visible_events[-1].ts - state.accepted,
        )


def cost(usage: object) -> Decimal | None:
    """Computes the USD of a result's `usage`; None if that of any call is not known."""
    stages: list[JSON] = list(usage.values()) if isinstance(usage, dict) else []
    costs = [stage["cost_usd"] for stage in stages]
    return None if None in costs else sum((Decimal(str(cost)) for cost in costs), Decimal(0))


@asynccontextmanager
async def installation(
    pipeline: AnyPipeline,
    model: ScriptedModel,
    *,
    models: Sequence[str] = ("scripted",),
    embeddings: Sequence[str] = (),
    limits: Limits | None = None,
    budgets: Mapping[str, Limits] | None = None,
    prefetch: int = 10,
    concurrency: int = 10,
    chaos: Chaos = CALM,
) -> AsyncIterator[Installation]:
    """Runs a gateway and a worker around an embedded broker for the length of the block, under `@virtual`.

    `models`: names that calls may ask for, one provider each; `embeddings`: those that embed texts. `model`
    answers for all. `limits`: calls and tokens per minute of each. `budgets`: of other APIs, for
    `context.reserve`. `prefetch`: jobs at once, `concurrency`: calls at once. `chaos`: how unkind the
    broker is. Raises `ValueError` for a pipeline that no process would start with.
    """
    if wrong := problems([pipeline]):
        raise ValueError("; ".join(wrong))
    world = World(pipeline, chaos, budgets=budgets)
    remotes = [
        Remote(name, model, limits, concurrency=concurrency, embeds=name in embeddings)
        for name in (*models, *embeddings)
    ]
    try:
        async with world.process() as gateway, asyncio.TaskGroup() as group:
            group.create_task(serve(world, gateway, remotes, model, prefetch))
            try:
                yield Installation(gateway, model)
            finally:
                model.faults.put_nowait(None)
    except BaseExceptionGroup as several:  # a failed assertion of the test is to be shown as itself
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def serve(
    world: World, gateway: Process, remotes: Sequence[Remote], model: ScriptedModel, prefetch: int
) -> None:
    """Runs a worker, and another one after each crash, until the model's `faults` end with None."""
    while True:
        async with world.process(remotes=remotes, prefetch=prefetch) as worker:
            while (fault := await model.faults.get()) and fault[0] is not Fault.CRASH:
                if fault[0] is Fault.DUPLICATE:
                    await gateway.order(gateway.jobs[fault[1]])
            if fault is None:
                return
            await worker.kill()


def run(
    pipeline: AnyPipeline,
    given: object,
    answers: Mapping[str, Script] | ScriptedModel,
    *,
    models: Sequence[str] = ("scripted",),
    embeddings: Sequence[str] = (),
    limits: Limits | None = None,
    chaos: Chaos = CALM,
) -> Ran:
    """Runs one job to its end in virtual time; needs no event loop.

    `given`: an instance of the pipeline's input, or what it is validated from. `answers`: the script, by the
    kinds of the calls. The others: as for `installation`. A stage that never returns ends as `TIMEOUT`, in
    no real time. Raises `AssertionError` for a call without an answer, `ValueError` for a pipeline that
    no process would start with.
    """
    model = answers if isinstance(answers, ScriptedModel) else ScriptedModel(answers)

    async def one() -> Ran:
        kit = installation(pipeline, model, models=models, embeddings=embeddings, limits=limits, chaos=chaos)
        async with kit as running:
            return await running.run(given)

    return run_virtual(one())
