"""What a process consists of: the engine's parts, wired to the adapters that the settings ask for.

Order matters: components stop in reverse. A worker's probes outlive its drain, so that nothing kills it
meanwhile; the broker goes last, so that everything can still be said.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from eco2.brokers import open_broker, topology
from eco2.journal.journal import Journal
from eco2.llm.router import Router
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.models import model_names, open_models
from eco2.pipeline import AnyPipeline, load
from eco2.ports import Broker
from eco2.service import Component
from eco2.settings import Settings, doubts

log = get_logger(__name__)

Role = Literal["gateway", "worker", "serve"]
MARGIN = 10.0
"""Seconds beyond the drain grace in which a stopping worker must have written its last events."""


def _ignore(_: int) -> None:
    """Nobody wants to know the port."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What to call with the port once the gateway, or the worker's probes, accept connections."""

    gateway: Callable[[int], None] = _ignore
    probes: Callable[[int], None] = _ignore


def pipelines(settings: Settings) -> tuple[AnyPipeline, ...]:
    """The pipelines that `ECO2_PIPELINES` names, checked. Raises `StartError`."""
    loaded = tuple(load(reference) for reference in settings.pipeline_imports)
    for pipeline in loaded:
        if pipeline.check is not None:
            pipeline.check()
    return loaded


@asynccontextmanager
async def process(
    settings: Settings, role: Role, stop: asyncio.Event, listening: Listening | None = None
) -> AsyncIterator[list[Component]]:
    """The components of a process of this role, for `service.run`. `stop` is the process's own event.

    Raises `StartError` where something that the role needs is missing.
    """
    listening = listening or Listening()
    loaded = pipelines(settings)
    broker = open_broker(settings, topology(settings, loaded), role, alone=role == "serve")
    parts = _Parts(
        settings, loaded, broker, Journal(broker, settings.view_minutes * 60, time.time), Metrics()
    )
    core = [Component("broker", broker.run), Component("journal", parts.journal.run)]
    if role == "gateway":
        yield [*core, parts.gateway(listening)]
        return
    async with open_models(settings) as models:
        if role == "worker":
            yield [*core, parts.probes(stop, listening), *parts.worker(models)]
        else:
            yield [*core, *parts.worker(models), parts.gateway(listening)]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What gateway and worker of one process share."""

    settings: Settings
    pipelines: tuple[AnyPipeline, ...]
    broker: Broker
    journal: Journal
    metrics: Metrics

    def worker(self, models: Router) -> list[Component]:
        from eco2.consumers.calls import Calls
        from eco2.consumers.context import Engine
        from eco2.consumers.deltas import DeltaSender
        from eco2.consumers.execution import Executor
        from eco2.consumers.fence import Fence
        from eco2.consumers.holders import Holders
        from eco2.consumers.running import Running
        from eco2.consumers.sweep import Sweep
        from eco2.consumers.worker import Worker
        from eco2.journal.orders import Orders

        settings, metrics = self.settings, self.metrics
        for doubt in doubts(settings):
            log.warning("the settings leave something unused", advice=doubt)
        live, running = DeltaSender(self.broker), Running()
        holders = Holders(self.broker, running, settings.holder_timeout)
        calls = Calls(models, Fence(self.journal), settings.concurrency, settings.call_timeout, metrics)
        name = f"{socket.gethostname()}-{os.getpid()}"
        worker = Worker(
            self.broker,
            self.journal,
            self.pipelines,
            Executor(self.journal, Engine(calls, live, time.time), holders, metrics, name),
            running,
            metrics,
            time.time,
            prefetch=settings.prefetch,
            grace=settings.drain_grace,
        )
        sweep = Sweep(
            self.broker,
            self.journal,
            Orders(self.broker),
            holders,
            self.pipelines,
            metrics,
            time.time,
            keep=settings.view_minutes * 60,
        )
        return [
            Component("live text", live.run),
            Component("holders", holders.run),
            Component("worker", worker.run, grace=settings.drain_grace + MARGIN),
            Component("sweep", sweep.run),
        ]

    def gateway(self, listening: Listening) -> Component:
        from eco2.gateway.app import build
        from eco2.gateway.config import GatewayConfig
        from eco2.gateway.server import serve

        settings = self.settings
        config = GatewayConfig(
            models=model_names(settings),
            auth=settings.auth,
            cors_origins=settings.allowed_origins,
            max_upload=int(settings.max_upload_mb * 2**20),
            job_deadline=settings.job_deadline,
            publish_timeout=settings.publish_timeout,
            sse_comment=settings.sse_comment,
            sse_retry=settings.sse_retry,
        )

        async def run(stop: asyncio.Event) -> None:
            app = build(
                pipelines=self.pipelines,
                broker=self.broker,
                journal=self.journal,
                metrics=self.metrics,
                config=config,
                stop=stop,
                clock=time.time,
            )
            await serve(app, settings.host, settings.port, stop, listening.gateway)

        return Component("gateway", run, grace=20.0)

    def probes(self, draining: asyncio.Event, listening: Listening) -> Component:
        from eco2.gateway.app import build_probes
        from eco2.gateway.server import serve

        async def run(stop: asyncio.Event) -> None:
            app = build_probes(broker=self.broker, journal=self.journal, metrics=self.metrics, stop=draining)
            host, port = self.settings.worker_host, self.settings.worker_port
            await serve(app, host, port, stop, listening.probes)

        return Component("probes", run)
