"""Assembles a process: the engine's parts, wired to the adapters that the settings ask for.

Order matters: components stop in reverse. A worker's probes outlive its drain, so that nothing kills it
meanwhile; the broker goes last, so that everything can still be said.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal

from eco2 import __version__
from eco2.brokers import batch_max_wait, longest_life, open_broker, topology
from eco2.errors import ConfigurationError
from eco2.journal.journal import Journal
from eco2.journal.presence import Presence
from eco2.journal.spending import day_of
from eco2.journal.view import MAX_REPLY_BYTES, MAX_RESULT_BYTES, View
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.models import LOCAL, Offer, model_names, offers, open_models
from eco2.pacer import Limits
from eco2.pipeline import AnyPipeline, load
from eco2.ports import Broker, Model
from eco2.remote import shown
from eco2.resources import open_resources
from eco2.service import Component
from eco2.settings import Settings, deprecations, warnings
from eco2.validation import problems
from eco2.watchdog import LoopWatch

if TYPE_CHECKING:
    from eco2.calls.provider import Provider
    from eco2.quota.member import Member
    from eco2.quota.named import Named
    from eco2.wiring import Core

log = get_logger(__name__)

Role = Literal["gateway", "worker", "serve"]

WORKER_RESULT_BYTES = 2_000_000
"""Bytes of ended jobs that a worker keeps: it shows them to no client, and its own have just ended."""


def _ignore(_: int) -> None:
    """Nobody wants to know the port."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Callbacks that get the port once the gateway, or the process's probes, accept connections."""

    gateway: Callable[[int], None] = _ignore
    probes: Callable[[int], None] = _ignore


def pipelines(settings: Settings) -> tuple[AnyPipeline, ...]:
    """The pipelines that `ECO2_PIPELINES` names, checked. Raises `ConfigurationError`."""
    loaded = tuple(load(reference) for reference in settings.pipeline_imports)
    if wrong := problems(loaded):
        raise ConfigurationError("\n".join(["Wrong pipelines:", *wrong]))
    for pipeline in loaded:
        times = pipeline.max_wait or settings.max_wait, pipeline.timeout or settings.timeout
        if sum(times) > settings.retention_hours * 3600 or times[1] <= settings.call_timeout:
            raise ConfigurationError(
                f"pipeline {pipeline.name}: its max_wait and timeout ({times[0]:g} + {times[1]:g} s) must "
                f"fit into ECO2_RETENTION_HOURS ({settings.retention_hours:g} h), and timeout be longer "
                f"than ECO2_CALL_TIMEOUT ({settings.call_timeout:g} s): correct them, or the setting"
            )
        if pipeline.check is not None:
            pipeline.check()
    return loaded


def in_force(settings: Settings, role: Role, loaded: Sequence[AnyPipeline]) -> dict[str, object]:
    """Returns what a process of this role works with, for the log's first line; no secret among it."""
    probes = f"{settings.worker_host}:{settings.worker_port}"
    return {
        "role": role,
        "version": __version__,
        "pipelines": [pipeline.name for pipeline in loaded],
        "providers": {
            offer.name: f"{offer.model} at {shown(remote.base_url or 'OpenAI')}: {remote.rpm} requests/min, "
            f"{remote.tpm} tokens/min, {remote.concurrency} calls"
            if (remote := offer.remote)
            else offer.model
            for offer in offers(settings)
        },
        "budgets": {
            name: f"{budget.rpm} requests/min" + (f", {budget.tpm} tokens/min" if budget.tpm else "")
            for name, budget in settings.budgets.items()
        },
        "prefetch": settings.prefetch,
        "concurrency": settings.concurrency,
        "prefix": settings.prefix,
        "broker": shown(settings.amqp_url) if settings.amqp_url else "in memory",
        "listen": probes if role == "worker" else f"{settings.host}:{settings.port}",
    }


def metrics_of(role: Role, loaded: Sequence[AnyPipeline], broker: Broker, journal: Journal) -> Metrics:
    """Returns the metrics that every process has, whatever else it counts."""
    metrics = Metrics()
    metrics.process(role)
    metrics.show_journal((pipeline.name for pipeline in loaded), journal.status)
    metrics.show_broker(lambda: broker.links, lambda: broker.blocked is not None)
    if journal.presence is not None:
        metrics.show_presence(journal.presence)
    journal.observe_barriers(metrics.barrier_passed)
    return metrics


@asynccontextmanager
async def process(
    settings: Settings, role: Role, stop: asyncio.Event, listening: Listening | None = None
) -> AsyncIterator[list[Component]]:
    """The components of a process of this role, for `service.run`. `stop` is the process's own event.

    Raises `ConfigurationError` where something that the role needs is missing.
    """
    listening = listening or Listening()
    loaded = pipelines(settings)
    log.info("starting", **in_force(settings, role, loaded))
    budgets = () if role == "gateway" else (*settings.remotes, *settings.budgets)
    broker = open_broker(settings, topology(settings, loaded, budgets), role, alone=role == "serve")
    presence = _presence(settings, role, loaded, broker)
    window = settings.view_minutes * 60
    view = View(
        window,
        presence.now,
        life=longest_life(settings, loaded),
        daily=settings.daily_usd is not None,
        results=MAX_RESULT_BYTES if role != "worker" else WORKER_RESULT_BYTES,
        replies=0 if role == "gateway" else MAX_REPLY_BYTES,
        earliest=presence.earliest,
    )
    snapshots = broker if settings.amqp_url is not None else None  # the broker in memory ends with us
    journal = Journal(broker, view, presence, snapshots)
    metrics = metrics_of(role, loaded, broker, journal)
    parts = _Parts(settings, loaded, broker, journal, presence, metrics)
    core = [
        Component("loop watch", LoopWatch(parts.metrics).run),
        Component("broker", broker.run),
        Component("presence", presence.run),
        Component("journal", journal.run),
        Component("snapshots", partial(journal.write_snapshots, broker)),
    ]
    if settings.daily_usd is not None:
        parts.show_spending(settings.daily_usd)
    if role == "gateway":
        for warning in deprecations(settings):
            log.warning("the settings work, but", advice=warning)
        probes = parts.probes(stop, listening, own=False)
        yield [*core, probes, parts.gateway_deadlines(), parts.gateway(listening)]
        return
    shares = parts.budgets()
    async with open_models(settings, shares.update_limits) as models, open_resources(loaded) as resources:
        worker = [*shares.components, *parts.worker(models, shares, resources)]
        if role == "worker":
            yield [*core, parts.probes(stop, listening, own=True), *worker]
        else:
            yield [*core, parts.probes(stop, listening, own=False), *worker, parts.gateway(listening)]


def _presence(settings: Settings, role: Role, loaded: Sequence[AnyPipeline], broker: Broker) -> Presence:
    """Returns what the process shows of itself to the others."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    limits = {}
    if role != "gateway":
        limits = {name: Limits(remote.rpm, remote.tpm) for name, remote in settings.remotes.items()}
        limits |= {name: Limits(budget.rpm, budget.tpm) for name, budget in settings.budgets.items()}
    pipelines = tuple(pipeline.name for pipeline in loaded)
    return Presence(broker, name, role, pipelines, limits, alone=settings.amqp_url is None)


@dataclass(frozen=True, slots=True)
class _Budgets:
    """The shares of a worker in the budgets of all providers, and of `other` APIs, by name."""

    members: "Mapping[str, Member]"
    other: "Mapping[str, Member]"
    named: "dict[tuple[str, str], Named]" = field(default_factory=dict)

    @property
    def components(self) -> list[Component]:
        all_members = {**self.members, **self.other}
        return [Component(f"budget of {name}", member.run) for name, member in all_members.items()]

    def update_limits(self, provider: str, requests: float | None, tokens: float | None) -> None:
        """Takes over the limits that an answer of the provider names."""
        believed = (self._named(provider, "requests", requests), self._named(provider, "tokens", tokens))
        self.members[provider].update_limits(Limits(*believed))

    def _named(self, provider: str, what: str, limit: float | None) -> float | None:
        from eco2.quota.named import Named

        now = time.monotonic()
        named = self.named[provider, what] = self.named.get((provider, what), Named()).add(now, limit)
        return named.at(now)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts that gateway and worker of one process share."""

    settings: Settings
    pipelines: tuple[AnyPipeline, ...]
    broker: Broker
    journal: Journal
    presence: Presence
    metrics: Metrics

    def show_spending(self, limit: Decimal) -> None:
        spending = self.journal.view.spending
        self.metrics.show_spending(float(limit), lambda: float(spending.total(day_of(self.presence.now()))))

    @property
    def core(self) -> "Core":
        """The parts that `eco2.wiring` builds a worker on. A gateway does without its imports."""
        from eco2.wiring import Core

        return Core(self.presence, self.pipelines, self.broker, self.journal, self.metrics)

    def budgets(self) -> "_Budgets":
        from eco2.wiring import join_budget

        core, members = self.core, {}
        for offer in offers(self.settings):
            if (remote := offer.remote) is not None:
                limits = Limits(remote.rpm, remote.tpm)
                members[offer.name] = join_budget(core, offer.name, limits, remote.counting)
        other = {
            name: join_budget(core, name, Limits(budget.rpm, budget.tpm), "request")
            for name, budget in self.settings.budgets.items()
        }
        return _Budgets(members, other)

    def worker(
        self,
        models: Sequence[tuple[Offer, Model]],
        budgets: "_Budgets",
        resources: Mapping[str, object],
    ) -> list[Component]:
        from eco2.wiring import WorkerOptions, worker_components

        settings = self.settings
        for warning in warnings(settings):
            log.warning("the settings work, but", advice=warning)
        providers = [self.provider(offer, model, budgets) for offer, model in models]
        options = WorkerOptions(
            prefetch=settings.prefetch,
            drain_grace=settings.drain_grace,
            call_timeout=settings.call_timeout,
            holder_timeout=settings.holder_timeout,
            window=settings.view_minutes * 60,
            default_model=settings.default_model,
        )
        return worker_components(self.core, providers, options, resources, budgets.other)

    def provider(self, offer: Offer, model: Model, budgets: "_Budgets") -> "Provider":
        from eco2.calls.provider import Provider
        from eco2.wiring import build_budget

        name, budget, concurrency = offer.name, None, self.settings.concurrency
        if (remote := offer.remote) is not None:
            concurrency, limits = remote.concurrency, Limits(remote.rpm, remote.tpm)
            budget = build_budget(offer.model, budgets.members[name], limits, remote.counting, offer.price)
        return Provider(name, offer.model, model, concurrency, self.metrics, budget, offer.embeds)

    def gateway_deadlines(self) -> Component:
        from eco2.consumers.sweep import Deadlines

        deadlines = Deadlines(self.journal, self.metrics, self.presence.now)
        return Component("deadlines", partial(deadlines.run_at_gateway, self.presence))

    def gateway(self, listening: Listening) -> Component:
        from eco2.gateway.app import build
        from eco2.gateway.auth import hosts_of
        from eco2.gateway.config import GatewayConfig
        from eco2.gateway.protocol import ConnectionLimits
        from eco2.gateway.server import serve

        settings = self.settings
        config = GatewayConfig(
            models=(models := model_names(settings)),
            priced=tuple(each.model for each in offers(settings) if each.price and not each.embeds),
            default_model=settings.default_model,
            local_model=LOCAL if LOCAL in models else None,
            auth=settings.auth,
            image_urls=settings.takes_image_urls,
            cors_origins=settings.allowed_origins,
            hosts=hosts_of(settings.host, settings.allowed_hosts),
            max_upload=int(settings.max_upload_mb * 2**20),
            upload_room=int(settings.upload_room_mb * 2**20),
            streams_per_job=settings.streams_per_job,
            streams_per_owner=settings.streams_per_owner,
            max_wait=settings.max_wait,
            batch_max_wait=batch_max_wait(settings, self.pipelines),
            timeout=settings.timeout,
            publish_timeout=settings.publish_timeout,
            sse_comment=settings.sse_comment,
            sse_retry=settings.sse_retry,
            sse_done_message=settings.sse_done_message,
            daily_usd=settings.daily_usd,
            compat=settings.compat,
        )

        async def run(stop: asyncio.Event) -> None:
            app = build(
                pipelines=self.pipelines,
                broker=self.broker,
                journal=self.journal,
                metrics=self.metrics,
                config=config,
                stop=stop,
                clock=self.presence.now,
            )
            advice = (
                "set ECO2_PORT or --port to a free one (0 takes any), or ECO2_HOST to an address of this host"
            )
            limits = ConnectionLimits(connections=settings.max_connections)
            await serve(app, settings.host, settings.port, stop, listening.gateway, advice, limits)

        return Component("gateway", run, grace=20.0)

    def probes(self, draining: asyncio.Event, listening: Listening, *, own: bool) -> Component:
        """Health and metrics on a port of their own: the worker's, or that of a process with a gateway."""
        from eco2.gateway.app import build_probes
        from eco2.gateway.auth import hosts_of
        from eco2.gateway.server import serve

        settings = self.settings
        host = settings.worker_host if own else settings.probes_host
        port = settings.worker_port if own else settings.metrics_port
        advice = (
            "two workers on one host need two ports: set ECO2_WORKER_PORT or --port to a free one "
            "(0 takes any), or ECO2_WORKER_HOST to an address of this host"
            if own
            else "set ECO2_PROBES_PORT to a free one (0 takes any), or ECO2_PROBES_HOST to an address here"
        )

        async def run(stop: asyncio.Event) -> None:
            app = build_probes(
                broker=self.broker,
                journal=self.journal,
                metrics=self.metrics,
                stop=draining,
                hosts=hosts_of(host, ()),
            )
            await serve(app, host, port, stop, listening.probes, advice)

        return Component("probes", run)
