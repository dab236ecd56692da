"""Gateways on real ports, over one broker in memory, and a stand-in for the workers behind them.

Each gateway is what a process would be: its own broker connection, journal, application and server. The
stand-in writes what workers write, when the test says so.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from pydantic import BaseModel
from starlette.types import ASGIApp

from eco2.assembly import metrics_of
from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.delta import DELTA_TOPIC, Delta, encode_deltas
from eco2.event import Done, Event, JobEvent, RunStarted, StageChanged
from eco2.gateway.app import build
from eco2.gateway.config import GatewayConfig
from eco2.gateway.protocol import ConnectionLimits
from eco2.gateway.server import serve
from eco2.job import JSON, PRIORITIES, Job, decode_order
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline, Form, InvalidInput, Outputs, Pipeline
from eco2.ports import Broker, Clock, Delivery, jobs_queue

PATIENCE = 60.0
"""Seconds after which a condition that did not come is a failure."""

STREAM = Topology().stream
CONFIG = GatewayConfig(
    models=("small", "large"), priced=("small",), cors_origins=("https://app.example",), max_upload=200_000
)

LIMITS = ConnectionLimits()


class EchoInput(BaseModel):
    text: str


class PhotoInput(BaseModel):
    size: int
    question: str | None = None


async def _photo(form: Form) -> PhotoInput:
    image = form.files.get("image")
    if image is None:
        raise InvalidInput("send a picture as `image`", "IMAGE_URL_REQUIRED", 400)
    return PhotoInput.model_validate({"size": len(image.data), **form.fields})


def _result(outputs: Outputs | None) -> JSON:
    return {"echo": None if outputs is None else "done"}


ECHO = Pipeline("echo", EchoInput, (), _result, routes={"words": lambda: {"words": ["hello"]}})
PHOTO = Pipeline(
    "photo",
    PhotoInput,
    (),
    _result,
    parse=_photo,
    uploads={"image": "size"},
    codes={400: "IMAGE_URL_REQUIRED", 413: "IMAGE_TOO_LARGE"},
)


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as `condition()` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


@dataclass
class Process:
    """One gateway: its parts, and where it listens."""

    broker: Broker
    journal: Journal
    app: ASGIApp
    metrics: Metrics
    stop: asyncio.Event
    url: str = ""


@dataclass
class Worker:
    """Writes to the journal what workers write. `orders`: what came through the queue, acknowledged.

    `at_once`: each order is finished when it comes, by the events of `life`.
    """

    broker: Broker
    journal: Journal
    orders: list[Job] = field(default_factory=list)
    at_once: bool = False
    life: Callable[[str], list[JobEvent]] = lambda job_id: life(job_id)
    _acks: set[asyncio.Task[None]] = field(default_factory=set)

    def take(self, delivery: Delivery) -> None:
        job = decode_order(delivery.body)
        self.orders.append(job)
        if self.at_once:
            self.journal.put(*self.life(job.id))
        task = asyncio.ensure_future(delivery.ack())
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def append(self, *events: Event) -> None:
        """Returns when the journal has confirmed the events, as one message."""
        await self.journal.put(*events)

    def text(self, job_id: str, text: str, pos: int = 0, run: str = "r1", stage: str = "answer") -> None:
        """Casts a piece of live text."""
        self.broker.broadcast(DELTA_TOPIC, encode_deltas([Delta(job_id, run, stage, pos, text)]))


RESULT: JSON = {"status": "completed", "message": "", "error": None, "usage": {}}
"""How a job of `life` ends, but for its id."""


def life(job_id: str) -> list[JobEvent]:
    """A whole run of a job with two stages, from its start to `done`; six events that clients see."""
    stage = partial(StageChanged, job=job_id, run="r1")
    return [
        RunStarted(ts=1.0, job=job_id, run="r1", attempt=1, worker="w"),
        stage(ts=2.0, stage="vision", status="started", seq=10, progress=0),
        stage(ts=3.0, stage="vision", status="completed", seq=11, progress=50, output={"seen": "can"}),
        stage(ts=4.0, stage="answer", status="started", seq=20, progress=50),
        stage(ts=5.0, stage="answer", status="completed", seq=21, progress=100, output={"said": "yes"}),
        Done(
            ts=6.0,
            job=job_id,
            run="r1",
            status="completed",
            seq=51,
            result=RESULT | {"task_id": job_id},
        ),
    ]


SEQS = [0, 10, 11, 20, 21, 51]
"""What a client sees of `life`, with `queued` before it."""


@dataclass
class Cluster:
    """Gateways and one stand-in worker on one broker."""

    server: Server
    gateways: list[Process]
    worker: Worker

    async def everywhere(self, job_id: str, seq: int) -> None:
        """Returns when every gateway's view shows the job's event `seq`."""

        def shown(gateway: Process) -> bool:
            state = gateway.journal.view.get(job_id)
            return state is not None and state.visible_events[-1].seq >= seq

        await eventually(lambda: all(shown(gateway) for gateway in self.gateways))

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """What is appended in the block is confirmed, and no tail hears of it before the next append."""
        log = self.server.logs[STREAM]
        watchers, log._watchers = log._watchers, {}
        yield
        log._watchers |= watchers


@asynccontextmanager
async def cluster(
    number: int = 1,
    config: GatewayConfig = CONFIG,
    chaos: Chaos = CALM,
    keep: float = 900.0,
    clock: Clock = time.time,
    pipelines: tuple[AnyPipeline, ...] = (ECHO, PHOTO),
    limits: ConnectionLimits = LIMITS,
) -> AsyncIterator[Cluster]:
    """`number` gateways, ready, and a worker's connection. `keep`: seconds in the views; `clock`: theirs."""
    async with AsyncExitStack() as stack:
        server = Server(chaos)
        topology = Topology("eco2", tuple(pipeline.name for pipeline in pipelines))
        worker = Worker(*await stack.enter_async_context(_engine(server, topology, keep, clock)))
        for pipeline in pipelines:
            for priority in PRIORITIES:
                worker.broker.consume(jobs_queue(pipeline.name, priority), 100, worker.take)
        gateways = [
            await stack.enter_async_context(
                _gateway(server, topology, config, keep, clock, pipelines, limits)
            )
            for _ in range(number)
        ]
        await eventually(lambda: all(gateway.broker.ready for gateway in gateways))
        yield Cluster(server, gateways, worker)


@asynccontextmanager
async def _engine(
    server: Server, topology: Topology, keep: float, clock: Clock
) -> AsyncIterator[tuple[Embedded, Journal]]:
    broker = Embedded(topology, server)
    journal = Journal(broker, View(keep, clock))
    stop_broker, stop_journal = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run(stop_broker))
        journaling = group.create_task(journal.run(stop_journal))
        await journal.filled.wait()
        try:
            yield broker, journal
        finally:
            stop_journal.set()
            await journaling
            stop_broker.set()


@asynccontextmanager
async def _gateway(
    server: Server,
    topology: Topology,
    config: GatewayConfig,
    keep: float,
    clock: Clock,
    pipelines: tuple[AnyPipeline, ...],
    limits: ConnectionLimits,
) -> AsyncIterator[Process]:
    async with (
        _engine(server, topology, keep, clock) as (broker, journal),
        asyncio.TaskGroup() as group,
    ):
        stop, metrics = asyncio.Event(), metrics_of("gateway", pipelines, broker, journal)
        app = build(
            pipelines=pipelines,
            broker=broker,
            journal=journal,
            metrics=metrics,
            config=config,
            stop=stop,
            clock=clock,
        )
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        group.create_task(serve(app, "127.0.0.1", 0, stop, port.set_result, limits=limits))
        process = Process(broker, journal, app, metrics, stop, f"http://127.0.0.1:{await port}")
        try:
            yield process
        finally:
            stop.set()
