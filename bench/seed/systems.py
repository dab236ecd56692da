"""The installation of a scenario: a separate broker, the provider, and Celery or eco2."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import programs
from bench.programs import CELERY, Program, ProgramFailed
from bench.seed.scenario import CALL_TIMEOUT, CASE, RPM, SEED, TPM, Scenario
from tests.support.rabbitmq import Node

Call = dict[str, Any]
"""A line of the provider's log: `eco2.fake.calls.Call`."""


@dataclass
class Installation:
    """A running installation. `front`: the HTTP server; `workers`: all worker processes, each with its
    children."""

    node: Node
    provider: Program
    front: Program
    worker: Program
    http: httpx.AsyncClient

    @property
    def roles(self) -> Mapping[str, int]:
        """Returns the process of each role, to find its children."""
        return {
            "front": self.front.pid,
            "worker": self.worker.pid,
            "broker": self.node.pid,
            "provider": self.provider.pid,
        }

    async def calls(self) -> list[Call]:
        """Returns the provider's log, by arrival."""
        url = f"{self.provider.url.removesuffix('/v1')}/_fake/calls"
        reply = (await self.http.get(url, timeout=60.0)).json()
        if reply["dropped"]:
            raise ProgramFailed(f"the provider has dropped {reply['dropped']} calls of its log")
        calls: list[Call] = reply["calls"]
        return calls


@asynccontextmanager
async def installation(scenario: Scenario, scale: float, folder: Path) -> AsyncIterator[Installation]:
    """Starts the installation and removes it afterwards. Everything is ready inside the block. `scale`: of
    the provider's latencies; its limits grow as they shrink."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
    node = Node(folder / "rabbitmq")
    async with AsyncExitStack() as stack:
        stack.callback(node.remove_data)
        stack.callback(node.stop)
        await asyncio.to_thread(node.start)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10.0))
        provider = await programs.start("provider", _provider(scale), folder, {})
        stack.push_async_callback(provider.kill)
        await provider.listening()
        start = _eco2 if scenario.system == "eco2" else _celery
        front, worker = await start(scenario, scale, node.url, provider.url, folder, stack)
        yield Installation(node, provider, front, worker, http)


def _provider(scale: float) -> list[str]:
    options = {
        "--port": 0,
        "--rpm": round(RPM / scale),
        "--tpm": round(TPM / scale),
        "--scale": scale,
        "--seed": SEED,
        "--job-pattern": CASE,
    }
    return ["eco2", "fake-openai", *(str(word) for option in options.items() for word in option)]


async def _eco2(
    _: Scenario, scale: float, amqp_url: str, provider: str, folder: Path, stack: AsyncExitStack
) -> tuple[Program, Program]:
    env = {
        "ECO2_AMQP_URL": amqp_url,
        "ECO2_RPM": str(round(RPM / scale)),
        "ECO2_TPM": str(round(TPM / scale)),
        "ECO2_CALL_TIMEOUT": str(CALL_TIMEOUT),
        "ECO2_DRAIN_GRACE": str(CALL_TIMEOUT + 10),
        "ECO2_PORT": "0",
        "ECO2_WORKER_PORT": "0",
        "OPENAI_API_KEY": "bench",
        "OPENAI_BASE_URL": provider,
        "ECO2_IMAGE_URLS": "on",
    }
    if scale != 1:  # what is in flight is the same, and so are the slots
        env |= {"ECO2_CONCURRENCY": "140", "ECO2_PREFETCH": "146"}
    async with httpx.AsyncClient() as http:
        started = []
        for role in ("gateway", "worker"):
            program = await programs.start(role, ["eco2", role], folder, env)
            stack.push_async_callback(program.kill)
            await program.listening()
            await program.ready(http)
            started.append(program)
    return started[0], started[1]


async def _celery(
    scenario: Scenario, _: float, amqp_url: str, provider: str, folder: Path, stack: AsyncExitStack
) -> tuple[Program, Program]:
    env = {
        "BENCH_AMQP_URL": amqp_url,
        "BENCH_PREFIX": f"bench-{uuid.uuid4().hex[:8]}",
        "BENCH_CALL_TIMEOUT": str(CALL_TIMEOUT),
        "BENCH_LIVE": "1" if scenario.live else "0",
        "OPENAI_API_KEY": "bench",
        "OPENAI_BASE_URL": provider,
    }
    queues = ",".join(f"{env['BENCH_PREFIX']}.{stage}" for stage in ("vision", "rule", "answer", "reward"))
    options = f"--pool {scenario.system} -c {scenario.slots} -Q {queues} -l warning"
    lean = "--without-gossip --without-mingle --without-heartbeat"
    command = f"celery -A bench.seed.baseline.app worker {options} {lean}".split()
    worker = await programs.start("worker", command, folder, env, CELERY)
    stack.push_async_callback(worker.kill)
    front = await programs.start("front", ["bench.seed.baseline.sse"], folder, env, CELERY)
    stack.push_async_callback(front.kill)
    await front.listening()
    async with httpx.AsyncClient() as http:
        await front.ready(http)
    return front, worker
