"""Wires the parts of a worker: the engine, the providers that it calls, and its shares in their budgets.

`eco2/assembly.py` does so as the settings ask; tests do so with scripted parts around the same engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eco2.call import Price
from eco2.calls.provider import Budget, Provider
from eco2.calls.reservation import Fence
from eco2.calls.router import Router
from eco2.consumers.context import Engine
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.executor import Executor
from eco2.consumers.liveness import HolderMonitor
from eco2.consumers.run import ActiveJobs
from eco2.consumers.sweep import Sweep
from eco2.consumers.worker import Worker
from eco2.journal.journal import Journal
from eco2.journal.presence import Presence
from eco2.metrics import Metrics
from eco2.pacer import Limits
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker, Quota
from eco2.quota.member import Member
from eco2.service import Component
from eco2.tokens.estimate import Counting, Estimator

MARGIN = 10.0
"""Seconds beyond the drain grace in which a stopping worker must have written its last events."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of a process that all others are built on. `presence` has its name and its clocks."""

    presence: Presence
    pipelines: tuple[AnyPipeline, ...]
    broker: Broker
    journal: Journal
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`prefetch`: jobs at once per pipeline and priority. `default_model`: of jobs that name none; None: that
    of the best provider.

    Seconds: `drain_grace`, which a drain waits for calls in flight; `call_timeout` of one call;
    `holder_timeout` of a silent holder; `window`, which views reach back.
    """

    prefetch: int
    drain_grace: float
    call_timeout: float
    holder_timeout: float
    window: float
    default_model: str | None = None


def join_budget(core: Core, name: str, limits: Limits, counting: Counting) -> Member:
    """Takes part in the budget `name`, a provider's or another API's, which all processes share."""
    journal, current = core.journal, core.journal.view.may_call
    clock, wall = core.presence.steady, core.presence.now
    member = Member(name, journal, core.broker, limits, current, counting, clock, wall)
    journal.view.join(member)
    core.metrics.show_budget(name, member.status)
    return member


def build_budget(
    model: str, quota: Quota, limits: Limits, counting: Counting, price: Price | None = None
) -> Budget:
    """Returns the budget for calls to a model, which take their part of the minute from `quota`."""
    return Budget(quota, Estimator(model, counting), counting, limits, price)


def worker_components(
    core: Core,
    providers: Sequence[Provider],
    options: WorkerOptions,
    resources: Mapping[str, object] | None = None,
    budgets: Mapping[str, Quota] | None = None,
) -> list[Component]:
    """Returns the components of a worker, in the order in which they start.

    `resources`: of each pipeline that has any, as `eco2.resources.open_resources` opens them. `budgets`: of
    other APIs, by the names that stages use.
    """
    broker, journal, metrics, presence = core.broker, core.journal, core.metrics, core.presence
    clock = presence.now
    live, jobs = DeltaSender(broker), ActiveJobs()
    holders = HolderMonitor(broker, jobs, options.holder_timeout)
    fence, timeout, model = Fence(journal, presence.steady), options.call_timeout, options.default_model
    router = Router(providers, fence, timeout, metrics, model)
    executor = Executor(
        Engine(router, live, journal, clock, resources or {}, budgets or {}),
        holders,
        metrics,
        presence.process,
    )
    prefetch, grace = options.prefetch, options.drain_grace
    worker = Worker(
        broker, journal, core.pipelines, executor, jobs, metrics, clock, prefetch=prefetch, grace=grace
    )
    sweep = Sweep(broker, journal, presence, holders, core.pipelines, metrics, options.window)
    return [
        Component("live text", live.run),
        Component("holders", holders.run),
        Component("worker", worker.run, grace=grace + MARGIN),
        Component("sweep", sweep.run),
    ]
