"""A pipeline of two calls for tests of the engine, its model, and processes whose clocks differ."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import BaseModel, model_validator

from eco2 import testing
from eco2.broker.embedded import CALM, Chaos
from eco2.call import Answer, Call
from eco2.consumers.sweep import Deadlines
from eco2.job import Job
from eco2.journal.journal import Journal
from eco2.journal.presence import Presence
from eco2.journal.view import View
from eco2.pacer import Limits
from eco2.pipeline import JSON, Context, Outputs, Pipeline, Stage
from eco2.service import Component, run
from eco2.testing.clock import VirtualClock
from eco2.testing.model import Answered
from eco2.testing.world import (
    KEEP,
    LIFE,
    SILENCE,
    Process,
    Remote,
    monotonic,
    persistently,
    shares,
    until,
    worker,
)

__all__ = [
    "KEEP",
    "LIFE",
    "PIPELINE",
    "SILENCE",
    "Draft",
    "Final",
    "Process",
    "Question",
    "Remote",
    "ScriptedModel",
    "World",
    "draft",
    "final",
    "monotonic",
    "order",
    "persistently",
    "result",
    "running",
    "shares",
    "skewed",
    "until",
    "worker",
]


class Question(BaseModel):
    """Validates from a text, too: `process.submit("why")`."""

    text: str = "q"

    @model_validator(mode="before")
    @classmethod
    def of_text(cls, given: object) -> object:
        return {"text": given} if isinstance(given, str) else given


class Draft(BaseModel):
    text: str


class Final(BaseModel):
    text: str


async def draft(context: Context[Question]) -> Draft:
    reply = await context.call(Call("draft", "system", context.input.text, str, 100))
    return Draft(text=reply.value)


async def final(context: Context[Question]) -> Final:
    text = context.outputs.get(Draft).text
    reply = await context.call(Call("final", "system", text, str, 100, stream=True))
    return Final(text=reply.value)


def result(outputs: Outputs | None) -> JSON:
    return {"answer": outputs.get(Final).text if outputs else None}


PIPELINE = Pipeline("ask", Question, (Stage("draft", draft, Draft), Stage("final", final, Final)), result)


@dataclass
class ScriptedModel(testing.ScriptedModel):
    """Answers every call with `<kind>(<text>)`; a script may do something else first."""

    script: Callable[[str, str], None] = lambda kind, job: None

    async def answer(self, call: Call[Answer], job_id: str, on_text: Callable[[str], None]) -> Answered:
        for piece in ("fin", "al") if call.stream else ():
            on_text(piece)
        self.script(call.kind, job_id)
        return f"{call.kind}({call.text})"


class World(testing.World):
    """A world of the pipeline `ask`."""

    def __init__(
        self,
        chaos: Chaos = CALM,
        spending: bool = False,
        snapshots: bool = False,
        budgets: Mapping[str, Limits] | None = None,
    ) -> None:
        super().__init__(PIPELINE, chaos, spending, snapshots, budgets)


def order(
    job_id: str,
    text: str,
    now: float,
    life: float = LIFE,
    key: str | None = None,
    model: str | None = None,
    timeout: float | None = None,
    max_usd: float | None = None,
) -> Job:
    """The job that a gateway makes of a request. `life`: its `max_wait`, and its time-out unless given."""
    return Job(
        id=job_id,
        pipeline="ask",
        input={"text": text},
        accepted=now,
        max_wait=life,
        timeout=life if timeout is None else timeout,
        max_usd=max_usd,
        digest=text,
        key=key,
        model=model,
    )


def skewed(
    world: World, ahead: float, name: str, model: ScriptedModel | None = None
) -> tuple[Process, list[Component]]:
    """A process that shows its presence, as all do outside of tests; its wall clock is `ahead` by so many
    seconds. A worker if it has a model, else a gateway that ends jobs as a last resort."""
    broker = world.connection()
    role: Literal["gateway", "worker"] = "worker" if model else "gateway"
    served = (PIPELINE.name,) if model else ()
    wall = lambda: VirtualClock.now() + ahead  # noqa: E731
    presence = Presence(broker, name, role, served, clock=wall, monotonic=monotonic)
    journal = Journal(
        broker, View(KEEP, presence.now, earliest=presence.earliest, monotonic=monotonic), presence
    )
    process = Process(broker, journal, asyncio.Event(), PIPELINE, clock=presence.now)
    components = [
        Component("broker", broker.run),
        Component("presence", presence.run),
        Component("journal", journal.run),
    ]
    if model is None:
        deadlines = Deadlines(journal, process.metrics, presence.now)
        return process, [
            *components,
            Component("deadlines", partial(deadlines.run_at_gateway, presence)),
        ]
    components += shares(process, [Remote("scripted", model)])
    return process, [*components, *worker(process, 10)]


@asynccontextmanager
async def running(*started: tuple[Process, list[Component]]) -> AsyncIterator[list[Process]]:
    """Those processes, running and with filled views; on leaving they stop in order."""
    async with asyncio.TaskGroup() as group:
        for process, components in started:
            group.create_task(run(components, process.stop))
        for process, _ in started:
            await process.journal.filled.wait()
        try:
            yield [process for process, _ in started]
        finally:
            for process, _ in started:
                process.stop.set()
