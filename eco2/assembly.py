"""What a process consists of: the one place that turns settings into adapters and wires them to the engine.

Order matters: components stop in reverse. A worker's probes outlive its drain, so that nothing kills it
meanwhile; the broker goes last, so that everything can still be said.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Literal

from eco2.broker.topology import Topology
from eco2.errors import StartError
from eco2.journal.journal import Journal
from eco2.llm.router import Router
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline, load
from eco2.ports import Broker, Model
from eco2.service import Component
from eco2.settings import Settings

Role = Literal["gateway", "worker", "serve"]
LOCAL = "local"
"""The name of the model that needs no key."""
SERVICES: tuple[str, ...] = ()
"""Request/reply services of the topology; none yet."""
MARGIN = 10.0
"""Seconds beyond the drain grace in which a stopping worker must have written its last events."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What to call with the port once the gateway, or the worker's probes, accept connections."""

    gateway: Callable[[int], None] | None = None
    probes: Callable[[int], None] | None = None


def topology(settings: Settings, pipelines: tuple[AnyPipeline, ...]) -> Topology:
    """The queues and exchanges that these settings need. Raises `StartError` for a name that cannot be."""
    names = tuple(pipeline.name for pipeline in pipelines)
    try:
        return Topology(settings.prefix, names, SERVICES, ceil(settings.retention_hours))
    except ValueError as error:
        raise StartError(str(error)) from error


def pipelines(settings: Settings) -> tuple[AnyPipeline, ...]:
    """The pipelines that `ECO2_PIPELINES` names, checked. Raises `StartError`."""
    loaded = tuple(load(reference) for reference in settings.pipeline_imports)
    for pipeline in loaded:
        if pipeline.check is not None:
            pipeline.check()
    return loaded


def model_names(settings: Settings) -> tuple[str, ...]:
    """The models that clients may pin. Raises `StartError` if the default is none of them."""
    remote = (settings.openai_model,) if settings.openai_api_key is not None else ()
    local = (LOCAL,) if not remote or settings.model == LOCAL else ()
    names = remote + local
    if settings.model not in names:
        raise StartError(
            f"ECO2_DEFAULT_MODEL={settings.model} is not among {', '.join(names)}: set OPENAI_API_KEY and "
            "ECO2_OPENAI_MODEL for a provider's model, or unset it"
        )
    return names


@asynccontextmanager
async def process(
    settings: Settings, role: Role, stop: asyncio.Event, listening: Listening | None = None
) -> AsyncIterator[list[Component]]:
    """The components of a process of this role, for `service.run`. `stop` is the process's own event.

    Raises `StartError` where something that the role needs is missing.
    """
    listening = listening or Listening()
    loaded = pipelines(settings)
    broker = open_broker(settings, topology(settings, loaded), role)
    journal = Journal(broker, settings.view_minutes * 60, time.time)
    metrics = Metrics()
    components = [Component("broker", broker.run), Component("journal", journal.run)]
    async with open_models(settings, role) as models:
        if role == "worker":
            components.append(_probes(settings, broker, journal, metrics, stop, listening))
        if models is not None:
            components += _worker(settings, loaded, broker, journal, metrics, models)
        if role != "worker":
            components.append(_gateway(settings, loaded, broker, journal, metrics, listening))
        yield components


def open_broker(settings: Settings, needed: Topology, role: Role) -> Broker:
    """RabbitMQ where a URL is set, else the embedded broker. Nothing is connected yet."""
    if settings.amqp_url is None:
        if role != "serve":
            raise StartError(
                f"`eco2 {role}` needs a broker: set ECO2_AMQP_URL, or use `eco2 serve` for all in one process"
            )
        from eco2.broker.embedded import Embedded

        return Embedded(needed)
    from eco2.broker.rabbitmq import RabbitMQ

    return RabbitMQ(settings.amqp_url, needed, f"eco2 {role}", settings.heartbeat, settings.publish_timeout)


async def check_topology(settings: Settings) -> list[str]:
    """How the broker differs from what is needed, a sentence each. Raises `BrokerUnavailable`."""
    from eco2.broker.rabbitmq import check

    return await check(_url(settings), topology(settings, pipelines(settings)))


async def apply_topology(settings: Settings) -> None:
    """Makes at the broker what is missing. Raises `StartError` for differences, `BrokerUnavailable`."""
    from eco2.broker.rabbitmq import apply

    await apply(_url(settings), topology(settings, pipelines(settings)))


def _url(settings: Settings) -> str:
    if settings.amqp_url is None:
        raise StartError("set ECO2_AMQP_URL: the broker in memory makes what it needs by itself")
    return settings.amqp_url


@asynccontextmanager
async def open_models(settings: Settings, role: Role) -> AsyncIterator[Router | None]:
    """The models that this process calls; None for a gateway, which calls none."""
    if role == "gateway":
        yield None
        return
    models: dict[str, Model] = {}
    async with AsyncExitStack() as stack:
        for name in model_names(settings):
            models[name] = await _open_model(settings, name, stack)
        yield Router(models, settings.model)


async def _open_model(settings: Settings, name: str, stack: AsyncExitStack) -> Model:
    if name == LOCAL or settings.openai_api_key is None:
        from eco2.llm.local import open_local

        return await open_local()
    from eco2.llm.openai import OpenAIModel

    key = settings.openai_api_key.get_secret_value()
    provider = OpenAIModel(key, settings.openai_base_url, name, settings.call_timeout)
    stack.push_async_callback(provider.aclose)
    return provider


def _worker(
    settings: Settings,
    loaded: tuple[AnyPipeline, ...],
    broker: Broker,
    journal: Journal,
    metrics: Metrics,
    models: Router,
) -> list[Component]:
    from eco2.consumers.calls import Calls
    from eco2.consumers.context import Engine
    from eco2.consumers.deltas import DeltaSender
    from eco2.consumers.execution import Executor
    from eco2.consumers.worker import Worker

    live = DeltaSender(broker)
    calls = Calls(models, settings.concurrency, settings.call_timeout, metrics)
    executor = Executor(
        journal, Engine(calls, live, time.time), metrics, f"{socket.gethostname()}-{os.getpid()}"
    )
    worker = Worker(
        broker,
        journal,
        loaded,
        executor,
        metrics,
        time.time,
        prefetch=settings.prefetch,
        grace=settings.drain_grace,
    )
    return [
        Component("live text", live.run),
        Component("worker", worker.run, grace=settings.drain_grace + MARGIN),
    ]


def _gateway(
    settings: Settings,
    loaded: tuple[AnyPipeline, ...],
    broker: Broker,
    journal: Journal,
    metrics: Metrics,
    listening: Listening,
) -> Component:
    from eco2.gateway.app import build
    from eco2.gateway.config import GatewayConfig
    from eco2.gateway.server import serve

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
            pipelines=loaded,
            broker=broker,
            journal=journal,
            metrics=metrics,
            config=config,
            stop=stop,
            clock=time.time,
        )
        await serve(app, settings.host, settings.port, stop, listening.gateway or _ignore)

    return Component("gateway", run, grace=20.0)


def _probes(
    settings: Settings,
    broker: Broker,
    journal: Journal,
    metrics: Metrics,
    draining: asyncio.Event,
    listening: Listening,
) -> Component:
    from eco2.gateway.app import build_probes
    from eco2.gateway.server import serve

    async def run(stop: asyncio.Event) -> None:
        app = build_probes(broker=broker, journal=journal, metrics=metrics, stop=draining)
        await serve(app, settings.worker_host, settings.worker_port, stop, listening.probes or _ignore)

    return Component("probes", run)


def _ignore(_: int) -> None:
    """Nobody wants to know the port."""
