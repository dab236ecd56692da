"""The processes of one test around one embedded broker, in virtual time.

Workers and the journal are the real ones; only the provider is scripted. `World` starts processes, `Process`
submits jobs, stops and kills. For a single job `eco2.testing.run` is shorter.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context as ContextVars
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.call import Price
from eco2.calls.provider import Provider
from eco2.errors import RetryableError
from eco2.event import queued
from eco2.job import JSON, Job, Priority, encode_order, new_id
from eco2.journal.journal import Journal
from eco2.journal.presence import Presence
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.metrics import Metrics
from eco2.operator import actions
from eco2.pacer import Limits
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker, Clock, Model, Quota, jobs_queue
from eco2.quota.member import Member
from eco2.resources import open_resources
from eco2.service import Component, run
from eco2.testing.clock import VirtualClock
from eco2.tokens.estimate import Counting
from eco2.wiring import (
    Core,
    WorkerOptions,
    build_budget,
    join_budget,
    worker_components,
)

KEEP = 900.0
"""Seconds that views reach back."""
SILENCE = 15.0
"""Seconds after which a silent holder is replaced."""
LIFE = 180.0
"""Seconds of a job's `max_wait` and `timeout`, unless its pipeline or the test says otherwise."""


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; in virtual time looking again costs nothing."""
    while not condition():  # noqa: ASYNC110  # what tests look at sets no event
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Remote:
    """A provider as a worker is set up for it; clients pin it by its `name`, too.

    Without `limits` nothing bounds a minute. `quota`: in the place of the budget that all processes of the
    world share.
    """

    name: str
    adapter: Model
    limits: Limits | None = None
    counting: Counting = "request"
    concurrency: int = 10
    quota: Quota | None = None
    embeds: bool = False
    price: Price | None = None


async def persistently(send: Callable[[], Awaitable[None]]) -> None:
    """Sends until it succeeds."""
    async for attempt in AsyncRetrying(retry=retry_if_exception_type(RetryableError), wait=wait_fixed(0.1)):
        with attempt:
            await send()


@dataclass
class Process:
    """One process, a worker or as a gateway without HTTP; `stop` ends it in order.

    `jobs`: those that it accepted, by id.
    """

    broker: Broker
    journal: Journal
    stop: asyncio.Event
    pipeline: AnyPipeline
    metrics: Metrics = field(default_factory=Metrics)
    providers: dict[str, Provider] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    clock: Clock = VirtualClock.now

    @property
    def core(self) -> Core:
        """Returns the parts of a worker that all its others are built on."""
        assert self.journal.presence is not None, "only a worker has one"
        return Core(self.journal.presence, (self.pipeline,), self.broker, self.journal, self.metrics)

    async def leave(self) -> None:
        """Stops the process in order: it drains."""
        assert self.task is not None
        self.stop.set()
        await self.task

    async def kill(self) -> None:
        """Ends the process as `kill -9` does: nothing is put in order."""
        assert self.task is not None
        self.broker.disrupt()  # type: ignore[attr-defined]  # the embedded one
        self.task.cancel()
        await asyncio.wait({self.task})

    async def submit(
        self,
        given: object = None,
        key: str | None = None,
        max_wait: float | None = None,
        model: str | None = None,
        timeout: float | None = None,
        max_usd: float | None = None,
        priority: Priority = "interactive",
        owner: str = "",
    ) -> JobState:
        """Accepts a job as a gateway does; the order goes out unless the job lost its key.

        `given`: an instance of the pipeline's input, or what it is validated from; None: all its defaults.
        `max_wait`: seconds, by default the pipeline's. `timeout`: by default as `max_wait`, if that is given.
        """
        now, kind = self.clock(), self.pipeline.input
        body: JSON = kind.model_validate({} if given is None else given).model_dump(mode="json")
        wait = max_wait or self.pipeline.max_wait or LIFE
        job = Job(
            id=new_id(now),
            pipeline=self.pipeline.name,
            input=body,
            accepted=now,
            max_wait=wait,
            timeout=timeout or max_wait or self.pipeline.timeout or LIFE,
            max_usd=max_usd,
            digest=hashlib.sha256(msgspec.json.encode(body)).hexdigest(),
            owner=owner,
            key=key,
            model=model,
            priority=priority,
        )
        self.jobs[job.id] = job
        await persistently(lambda: self.broker.append_order(encode_order(job), job.id))
        state = await self.journal.announce(queued(job))
        if not state.ended:
            await self.order(job)
        return state

    async def order(self, job: Job) -> None:
        """Publishes the work order, as often as it takes. Once more of the same job: a duplicate delivery."""
        queue = jobs_queue(job.pipeline, job.priority)
        await persistently(lambda: self.broker.publish(queue, encode_order(job), job.id))

    async def cancel(self, job_id: str) -> JobState:
        """Cancels a job, as `DELETE /<pipeline>/<id>` does; returns how it ended."""
        state = self.journal.view.get(job_id)
        assert state is not None, "this process does not know the job"
        return await actions.cancel(state, self.journal, self.clock())

    async def ended(self, job_id: str) -> JobState:
        """Returns the job's state once it has ended."""
        state = self.journal.view.get(job_id)
        while state is None or not state.ended:
            state = await self.journal.view.change(job_id, state)
        return state


class World:
    """The processes that share one embedded broker. Use it under `@virtual`.

    `chaos`: how unkind the broker is. `spending`: views know what was paid since midnight. `snapshots`: of
    views are written and read. `budgets`: of other APIs, which all workers share.
    """

    def __init__(
        self,
        pipeline: AnyPipeline,
        chaos: Chaos = CALM,
        spending: bool = False,
        snapshots: bool = False,
        budgets: Mapping[str, Limits] | None = None,
    ) -> None:
        self.budgets = budgets or {}
        self.pipeline = pipeline
        self.spending = spending
        self.topology = Topology(pipelines=(pipeline.name,))
        self.snapshots = snapshots
        self.server = Server(chaos, clock=VirtualClock.now)
        self._workers = count(1)

    def connection(self) -> Embedded:
        """Makes a process's connection to the broker."""
        return Embedded(self.topology, self.server)

    def context(self, _: Process) -> ContextVars | None:
        """Returns the context that a process runs in; None: that of its starter."""
        return None

    def components(
        self,
        model: Model | None = None,
        pipeline: AnyPipeline | None = None,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
        resources: Mapping[str, object] | None = None,
    ) -> tuple[Process, list[Component]]:
        """Makes a process and its components, not yet running.

        It is a worker if it has a model or `remotes`, else it has only a journal, as a gateway. `pipeline`:
        another version of the world's. Without a `name` the first worker that is made has the lowest.
        """
        pipeline = pipeline or self.pipeline
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
        process = Process(broker, journal, asyncio.Event(), pipeline)
        components.append(Component("journal", journal.run))
        components.append(Component("snapshots", partial(journal.write_snapshots, broker)))
        if remotes:
            components += shares(process, remotes)
            budgets = {
                budget: join_budget(process.core, budget, limits, "request")
                for budget, limits in self.budgets.items()
            }
            process.members |= budgets
            components += [Component(f"budget of {budget}", each.run) for budget, each in budgets.items()]
            components += worker(process, prefetch, budgets, resources)
        return process, components

    async def start(
        self,
        model: Model | None = None,
        pipeline: AnyPipeline | None = None,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
    ) -> Process:
        """Starts a process and waits until its view is filled; end it by `leave` or `kill`."""
        process, components = self.components(model, pipeline, prefetch, concurrency, name, remotes)
        process.task = asyncio.get_running_loop().create_task(
            run(components, process.stop), context=self.context(process)
        )
        await process.journal.filled.wait()
        return process

    @asynccontextmanager
    async def process(
        self,
        model: Model | None = None,
        pipeline: AnyPipeline | None = None,
        prefetch: int = 10,
        concurrency: int = 10,
        name: str = "",
        remotes: Sequence[Remote] = (),
    ) -> AsyncIterator[Process]:
        """Runs a process for the length of the block, from a filled view on; on leaving it stops in order.

        A worker opens the pipeline's resources first.
        """
        opened = (pipeline or self.pipeline,) if model is not None or remotes else ()
        async with open_resources(opened) as resources, asyncio.TaskGroup() as group:
            process, components = self.components(
                model, pipeline, prefetch, concurrency, name, remotes, resources
            )
            process.task = group.create_task(run(components, process.stop))
            await process.journal.filled.wait()
            try:
                yield process
            finally:
                process.stop.set()


def monotonic() -> float:
    """Returns the seconds of a process' own clock."""
    return asyncio.get_running_loop().time()


def shares(process: Process, remotes: Sequence[Remote]) -> Sequence[Component]:
    """Sets up the providers of a process; returns its shares in their budgets."""
    components: list[Component] = []
    for remote in remotes:
        quota, limits = remote.quota, remote.limits
        if quota is None and limits is not None:
            quota = member = join_budget(process.core, remote.name, limits, remote.counting)
            process.members[remote.name] = member
            components.append(Component(f"budget of {remote.name}", member.run))
        budget = None
        if quota is not None:
            budget = build_budget(remote.name, quota, limits or Limits(), remote.counting, remote.price)
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


def worker(
    process: Process,
    prefetch: int,
    budgets: Mapping[str, Quota] | None = None,
    resources: Mapping[str, object] | None = None,
) -> Sequence[Component]:
    """Returns the components of a worker."""
    options = WorkerOptions(
        prefetch=prefetch,
        drain_grace=70.0,
        call_timeout=60.0,
        holder_timeout=SILENCE,
        window=KEEP,
    )
    providers = list(process.providers.values())
    return worker_components(process.core, providers, options, resources, budgets=budgets)
