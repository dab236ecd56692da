"""An installation for one case: the provider, a gateway, and workers that join and leave."""

import os
import re
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import httpx

from bench import programs
from bench.budget.case import Case, PipelineName
from bench.programs import Program
from eco2.broker.topology import Exchange, Topology

SCALE = 0.25
"""Of the latencies of the Celery baseline (12 and 14 s a call): all in flight then fits two cores. Limits and
clocks are not scaled."""
SEED = 20261126
DEADLINE = 900
"""Seconds: more is offered than is done, and nothing is to be refused or to be given up for that."""
DRAIN = 80.0
"""Seconds for a worker to leave."""
CASE = r"\(case (\d+)\)"
"""How a job's text names it: two runs then have the same jobs, whatever ids they got."""
IMPORTS = {
    "scan": "eco2.stages:scan",
    "mixed": "bench.budget.pipelines:mixed",
    "note": "bench.budget.pipelines:note",
}
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)

Call = dict[str, Any]
"""A line of the provider's log: `eco2.fake.calls.Call`."""


@dataclass
class Fleet:
    """The installation. `workers`: the running ones, oldest first; `killed`: the pids of killed ones.
    `comings`: all workers that were started."""

    prefix: str
    case: Case
    folder: Path
    http: httpx.AsyncClient
    provider: Program
    gateway: Program
    env: dict[str, str]
    workers: list[Program] = field(default_factory=list)
    comings: int = 0
    killed: set[int] = field(default_factory=set)

    async def join(self) -> Program:
        """Starts one more worker and waits until it is ready."""
        self.comings += 1
        module = "bench.budget.fifo" if self.case.rank == "first asked first" else "eco2"
        worker = await programs.start(f"worker-{self.comings}", [module, "worker"], self.folder, self.env)
        self.workers.append(worker)
        await worker.listening()
        await worker.ready(self.http)
        return worker

    async def leave(self, worker: Program) -> None:
        """Asks the worker to stop, as an orchestrator does, and waits until it has ended."""
        self.workers.remove(worker)
        worker.send(signal.SIGTERM)
        await worker.ended(DRAIN)

    async def kill(self, worker: Program) -> None:
        self.workers.remove(worker)
        self.killed.add(worker.pid)
        await worker.kill()

    async def end(self) -> None:
        """Ends all processes without a drain, since unfinished jobs no longer matter."""
        for worker in [*self.workers]:
            await self.kill(worker)

    async def leader(self) -> Program | None:
        """Returns the worker that reports to be the leader; frozen workers are asked only briefly."""
        for worker in self.workers:
            try:
                if (await self.metrics(worker)).get('eco2_quota_leader{provider="openai"}') == 1.0:
                    return worker
            except httpx.HTTPError:
                continue
        return None

    async def metrics(self, worker: Program) -> dict[str, float]:
        """Returns the worker's series, by name and labels as written."""
        text = (await self.http.get(f"{worker.url}/metrics", timeout=2.0)).text
        return {
            f"{name}{{{labels}}}" if labels else name: float(value)
            for name, labels, value in _SAMPLE.findall(text)
        }

    async def calls(self, after: int = 0) -> list[Call]:
        """Returns the provider's log, by arrival."""
        reply = (await self.http.get(f"{_root(self.provider)}/_fake/calls", params={"after": after})).json()
        if reply["dropped"]:
            raise programs.ProgramFailed(f"the provider has dropped {reply['dropped']} calls of its log")
        calls: list[Call] = reply["calls"]
        return calls

    async def windows(self) -> dict[str, dict[str, float]]:
        """Returns the present content of the provider's windows, by `requests` and `tokens`."""
        windows: dict[str, dict[str, float]] = (
            await self.http.get(f"{_root(self.provider)}/_fake/windows")
        ).json()
        return windows


def _pipelines(case: Case) -> tuple[PipelineName, ...]:
    """The pipelines of the installation: the same with a batch and without."""
    return (*case.pipelines, "note")


def _root(provider: Program) -> str:
    return provider.url.removesuffix("/v1")


@asynccontextmanager
async def fleet(case: Case, amqp_url: str, folder: Path) -> AsyncIterator[Fleet]:
    """Starts the installation and removes it afterwards, also at the broker. Everything is ready inside
    the block."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    topology = Topology(prefix, _pipelines(case))
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10.0))
        stack.push_async_callback(_forget, amqp_url, topology)
        provider = await programs.start("provider", _provider_arguments(case), folder, {})
        stack.push_async_callback(provider.kill)
        await provider.listening()
        env = _environment(case, amqp_url, prefix, provider.url)
        gateway = await programs.start("gateway", ["eco2", "gateway"], folder, env)
        stack.push_async_callback(gateway.kill)
        await gateway.listening()
        await gateway.ready(http)
        here = Fleet(prefix, case, folder, http, provider, gateway, env)
        stack.push_async_callback(here.end)
        for _ in range(case.workers):
            await here.join()
        yield here


@asynccontextmanager
async def neighbours(case: Case, folder: Path) -> AsyncIterator[None]:
    """Keeps all cores busy half of the time during the block, in a busy case."""
    async with AsyncExitStack() as stack:
        for core in range((os.cpu_count() or 1) if case.busy else 0):
            burner = await programs.start(f"burner-{core}", ["bench.budget.burner", str(core)], folder, {})
            stack.push_async_callback(burner.kill)
        yield


def _provider_arguments(case: Case) -> list[str]:
    options = {
        "--port": 0,
        "--rpm": case.rpm,
        "--tpm": case.tpm,
        "--charge": case.counting,
        "--scale": SCALE,
        "--seed": SEED,
        "--job-pattern": CASE,
    }
    return ["eco2", "fake-openai", *(str(word) for option in options.items() for word in option)]


def _environment(case: Case, amqp_url: str, prefix: str, provider: str) -> dict[str, str]:
    return {
        "ECO2_AMQP_URL": amqp_url,
        "ECO2_PREFIX": prefix,
        "ECO2_PIPELINES": ",".join(IMPORTS[name] for name in _pipelines(case)),
        "ECO2_RPM": str(case.rpm),
        "ECO2_TPM": str(case.tpm),
        "ECO2_COUNTING": case.counting,
        "ECO2_MAX_WAIT": str(DEADLINE),
        "ECO2_TIMEOUT": str(DEADLINE),
        "ECO2_PORT": "0",
        "ECO2_WORKER_PORT": "0",
        "OPENAI_API_KEY": "bench",
        "OPENAI_BASE_URL": provider,
        "ECO2_IMAGE_URLS": "on",
    }


async def _forget(amqp_url: str, topology: Topology) -> None:
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        for entity in topology.entities:
            if isinstance(entity, Exchange):
                await channel.exchange_delete(entity.name)
            else:
                await channel.queue_delete(entity.name)
