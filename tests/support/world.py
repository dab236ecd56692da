"""A world for tests of the engine: processes of ours around one embedded broker, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context as ContextVars
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, Literal

from pydantic import BaseModel
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.call import Answer, Call, Reply, Usage
from eco2.calls.provider import Provider
from eco2.consumers.sweep import Deadlines
from eco2.errors import RetryableError
from eco2.event import queued
from eco2.job import Job, Priority, encode_order, new_id
from eco2.journal.journal import Journal
from eco2.journal.presence import Presence
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.metrics import Metrics
from eco2.pacer import Limits
from eco2.pipeline import JSON, Context, Outputs, Pipeline, Stage
from eco2.ports import Broker, Model, Quota, jobs_queue, no_gate
from eco2.quota.member import Member
from eco2.service import Component, run
from eco2.tokens.estimate import Counting
from eco2.wiring import (
    Core,
    WorkerOptions,
    build_budget,
    join_budget,
    worker_components,
)
from tests.support.virtual_clock import VirtualClock

KEEP = 900.0
SILENCE = 15.0
LIFE = 180.0


class Question(BaseModel):
    text: str


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


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; in virtual time looking again costs nothing."""
    while not condition():  # noqa: ASYNC110  # what tests look at sets no event
        await asyncio.sleep(0.01)


@dataclass
class ScriptedModel:
    """Answers every call after `seconds` with `<kind>(<text>)`; a script may do something else first."""

    seconds: float = 1.0
    cost: Decimal | None = None
    script: Callable[[str, str], None] = lambda kind, job: None
    calls: list[tuple[str, str]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        before_send: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await before_send()
        self.calls.append((call.kind, job_id))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            for piece in ("fin", "al") if call.stream else ():
                on_text(piece)
            self.script(call.kind, job_id)
        finally:
            self.in_flight -= 1
        text = f"{call.kind}({call.text})"
        value = call.schema(text)  # type: ignore[call-arg]  # `schema` is str in these tests
        return Reply(value, "scripted", Usage(10, 0, 5, self.cost))


@dataclass(frozen=True)
class Remote:
    """A provider as a worker is set up for it; `model` is its name for clients, too. Without `limits` nothing
    bounds a minute; `quota`: in the place of the budget that all processes of the world share."""

    name: str
    adapter: Model
    limits: Limits | None = None
    counting: Counting = "request"
    concurrency: int = 10
    quota: Quota | None = None
    embeds: bool = False


async def persistently(send: Callable[[], Awaitable[None]]) -> None:
    """Sends as often as it takes."""
    async for attempt in AsyncRetrying(retry=retry_if_exception_type(RetryableError), wait=wait_fixed(0.1)):
        with attempt:
            await send()


def order(
    job_id: str,
    text: str,
    now: float,
    life: float = LIFE,
    key: str | None = None,
    model: str | None = None,
    timeout: float | None = None,
    priority: Priority = "interactive",
    owner: str = "",
) -> Job:
    """The job that a gateway makes of a request. `life`: its `max_wait`, and its time-out unless given."""
    return Job(
        id=job_id,
        pipeline="ask",
        input={"text": text},
        accepted=now,
        max_wait=life,
        timeout=life if timeout is None else timeout,
        digest=text,
        key=key,
        model=model,
        priority=priority,
        owner=owner,
    )


@dataclass
class Process:
    """One process of ours; `stop` ends it in order."""

    broker: Broker
    journal: Journal
    stop: asyncio.Event
    metrics: Metrics = field(default_factory=Metrics)
    providers: dict[str, Provider] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    clock: Callable[[], float] = VirtualClock.now
    pipeline: Pipeline[Any] = PIPELINE

    @property
    def core(self) -> Core:
        assert self.journal.presence is not None, "only a worker has one"
        return Core(self.journal.presence, (self.pipeline,), self.broker, self.journal, self.metrics)

    async def leave(self) -> None:
        """Stops in order what `World.start` started."""
        assert self.task is not None
        self.stop.set()
        await self.task

    async def kill(self) -> None:
        """As by kill -9, what `World.start` started: nothing is put in order."""
        assert self.task is not None
        self.broker.disrupt()  # type: ignore[attr-defined]
        self.task.cancel()
        await asyncio.wait({self.task})

    async def submit(
        self,
        text: str = "q",
        key: str | None = None,
        life: float = LIFE,
        model: str | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
        owner: str = "",
    ) -> JobState:
        """Accepts a job as a gateway does; the order goes out unless the job lost its key."""
        now = self.clock()
        job = order(new_id(now), text, now, life, key, model, timeout, priority, owner)
        await persistently(lambda: self.broker.append_order(encode_order(job), job.id))
        state = await self.journal.announce(queued(job))
        if not state.ended:
            await self.order(job)
        return state

    async def order(self, job: Job) -> None:
        """Publishes the work order, as often as it takes."""
        queue = jobs_queue("ask", job.priority)
        await persistently(lambda: self.broker.publish(queue, encode_order(job), job.id))

    async def ended(self, job_id: str) -> JobState:
        """The job's state once it has ended."""
        state = self.journal.view.get(job_id)
        while state is None or not state.ended:
            state = await self.journal.view.change(job_id, state)
        return state


class World:
    """`spending`: views know what was paid since midnight. `snapshots`: of views are written and read."""

    def __init__(self, chaos: Chaos = CALM, spending: bool = False, snapshots: bool = False) -> None:
        self.spending = spending
        self.topology = Topology(pipelines=("ask",))
        self.snapshots = snapshots
        self.server = Server(chaos, clock=VirtualClock.now)
        self._workers = count(1)

    def connection(self) -> Embedded:
        """A process's way to the broker."""
        return Embedded(self.topology, self.server)

    def context(self, _: Process) -> ContextVars | None:
        """What a process runs in; None for the one of its starter."""
        return None

    def components(
        self,
        model: ScriptedModel | None = None,
        pipeline: Pipeline[Any] = PIPELINE,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
    ) -> tuple[Process, list[Component]]:
        """A process and what it runs: a worker if it has a model or `remotes`, else only a journal, as in a
        gateway. Without a `name` the first worker that is made has the lowest."""
        broker, presence = self.connection(), None
        components = [Component("broker", broker.run)]
        if model is not None:
            remotes = [Remote("scripted", model, concurrency=concurrency)]
        if remotes:
            name = name or f"w{next(self._workers):04}"
            presence = Presence(
                broker, name, "worker", (pipeline.name,), clock=VirtualClock.now, monotonic=monotonic
            )
            components.append(Component("presence", presence.run))
        store = broker if self.snapshots else None
        clock, earliest = (presence.now, presence.earliest) if presence else (VirtualClock.now, None)
        view = View(KEEP, clock, daily=self.spending, earliest=earliest, monotonic=monotonic)
        journal = Journal(broker, view, presence, store)
        process = Process(broker, journal, asyncio.Event(), pipeline=pipeline)
        components.append(Component("journal", journal.run))
        components.append(Component("snapshots", partial(journal.write_snapshots, broker)))
        if remotes:
            components += shares(process, remotes)
            components += worker(process, prefetch)
        return process, components

    async def start(
        self,
        model: ScriptedModel | None = None,
        pipeline: Pipeline[Any] = PIPELINE,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
    ) -> Process:
        """A running process, once its view is filled; end it by `leave` or `kill`."""
        process, components = self.components(model, pipeline, prefetch, concurrency, name, remotes)
        process.task = asyncio.get_running_loop().create_task(
            run(components, process.stop), context=self.context(process)
        )
        await process.journal.filled.wait()
        return process

    @asynccontextmanager
    async def process(
        self,
        model: ScriptedModel | None = None,
        pipeline: Pipeline[Any] = PIPELINE,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
    ) -> AsyncIterator[Process]:
        """A running process, once its view is filled; on leaving it stops in order."""
        process, components = self.components(model, pipeline, prefetch, concurrency, name, remotes)
        async with asyncio.TaskGroup() as group:
            group.create_task(run(components, process.stop))
            await process.journal.filled.wait()
            try:
                yield process
            finally:
                process.stop.set()


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
    process = Process(broker, journal, asyncio.Event(), clock=presence.now)
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


def monotonic() -> float:
    """A process' own clock."""
    return asyncio.get_running_loop().time()


def shares(process: Process, remotes: Sequence[Remote]) -> Sequence[Component]:
    """The providers of a process, and its shares in their budgets."""
    components: list[Component] = []
    for remote in remotes:
        quota, limits = remote.quota, remote.limits
        if quota is None and limits is not None:
            quota = member = join_budget(process.core, remote.name, limits, remote.counting)
            process.members[remote.name] = member
            components.append(Component(f"budget of {remote.name}", member.run))
        budget = None
        if quota is not None:
            budget = build_budget(remote.name, quota, limits or Limits(), remote.counting)
        process.providers[remote.name] = Provider(
            remote.name,
            remote.name,
            remote.adapter,
            remote.concurrency,
            process.metrics,
            budget,
            remote.embeds,
        )
    return components


def worker(process: Process, prefetch: int) -> Sequence[Component]:
    options = WorkerOptions(
        prefetch=prefetch,
        drain_grace=70.0,
        call_timeout=60.0,
        holder_timeout=SILENCE,
        window=KEEP,
    )
    return worker_components(process.core, list(process.providers.values()), options)
