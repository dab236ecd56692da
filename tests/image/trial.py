"""The image at work: gateway and worker in containers, a real RabbitMQ, a provider that takes its time."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from eco2.client import Client
from eco2.job import JSON
from eco2.stages import DEMO_PHOTO
from tests.clients.provider import NO_LIMITS, Sighting
from tests.image.container import CommandFailed, Container, Engine
from tests.support.fake_provider import Fake, running
from tests.support.rabbitmq import Node, free_ports

READY = 60.0
GRACE, MARGIN = 70, 20
"""The default of ECO2_DRAIN_GRACE, and what the chart adds to it."""
CALL_SECONDS = 4.0
MEMORY = {"gateway": "256m", "worker": "272m"}
"""The limits of the chart."""
PORTS = {"gateway": "ECO2_PORT", "worker": "ECO2_WORKER_PORT"}


@dataclass(frozen=True)
class Fact:
    """One thing that was seen; `holds`: it is as promised."""

    what: str
    seen: str
    holds: bool


@dataclass(frozen=True)
class Process:
    """A gateway or a worker in its container."""

    role: str
    url: str
    container: Container


class Installation:
    """Starts processes of one image against one broker and provider, and removes all of them."""

    def __init__(self, engine: Engine, image: str, node: Node, provider: Fake) -> None:
        self._engine, self._image, self._node, self._provider = engine, image, node, provider
        self._names: list[str] = []

    async def start(self, role: str) -> Process:
        """Returns when it is ready."""
        port, probes = free_ports(2)
        name = f"eco2-image-{os.getpid()}-{len(self._names)}"
        self._names.append(name)
        env = {
            "ECO2_AMQP_URL": self._node.url,
            "OPENAI_API_KEY": "test",
            "OPENAI_BASE_URL": f"{self._provider.url}/v1",
            "ECO2_IMAGE_URLS": "on",
            PORTS[role]: str(port),
            **({"ECO2_PROBES_PORT": str(probes)} if role == "gateway" else {}),
            **NO_LIMITS,
        }
        container = await self._engine.start(name, self._image, role, memory=MEMORY[role], env=env)
        process = Process(role, f"http://127.0.0.1:{port}", container)
        await _ready(process)
        return process

    async def remove(self) -> None:
        for name in self._names:
            await self._engine.remove(name)


async def _ready(process: Process) -> None:
    async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
        deadline = asyncio.get_running_loop().time() + READY
        while True:
            try:
                if (await http.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if asyncio.get_running_loop().time() > deadline:
                raise CommandFailed(f"{process.role} is not ready:\n{await process.container.log()}")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def installation(engine: Engine, image: str) -> AsyncIterator[tuple[Installation, Fake]]:
    """A broker, a provider, and what is started on them, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="eco2-image-") as folder:
        node = Node(Path(folder))
        await asyncio.to_thread(node.start)
        try:
            async with running(Sighting(seconds=CALL_SECONDS).config()) as provider:
                installed = Installation(engine, image, node, provider)
                try:
                    yield installed, provider
                finally:
                    await installed.remove()
        finally:
            await asyncio.to_thread(node.stop)


async def scan(url: str) -> JSON:
    """One scan as a client makes it: the upload, its events to the end, its result."""
    async with Client(url) as client:
        job = await client.submit("scan", {}, files={"image": DEMO_PHOTO})
        async for _ in client.events(job):
            pass
        return await client.result(job)


async def work(engine: Engine, image: str, at_once: int) -> AsyncIterator[Fact]:
    """Everything that is seen of gateway and worker, in the order of a day."""
    async with installation(engine, image) as (installed, provider):
        gateway, worker = await installed.start("gateway"), await installed.start("worker")
        for process in (gateway, worker):
            async for fact in _locked(engine, image, process):
                yield fact
        asked = (f"{gateway.url}/readyz", f"{gateway.url}/openapi.json", f"{worker.url}/readyz")
        health = await _probed(gateway, *asked)
        yield Fact("what `helm test` asks", health, health == "healthy")
        one = await scan(gateway.url)
        yield Fact("a scan by gateway and worker", str(one["status"]), one["status"] == "completed")
        listed = await worker.container.execute("eco2", "jobs", "list")
        yield Fact("eco2 jobs list, inside the worker", listed.splitlines()[-1], "completed" in listed)
        idle = gateway.container.pss(), worker.container.pss()
        yield Fact("memory after it, PSS", f"gateway {idle[0]:.0f} MB, worker {idle[1]:.0f} MB", True)
        results, most = await _watched(
            asyncio.gather(*(scan(gateway.url) for _ in range(at_once))), gateway, worker
        )
        done = sum(result["status"] == "completed" for result in results)
        yield Fact(f"{at_once} scans at once", f"{done} completed", done == at_once)
        yield Fact("memory meanwhile, PSS", f"gateway {most[0]:.0f} MB, worker {most[1]:.0f} MB", True)
        async for fact in _drained(installed, provider, gateway, worker):
            yield fact


async def _locked(engine: Engine, image: str, process: Process) -> AsyncIterator[Fact]:
    """What the kernel allows it, and that its own health check agrees."""
    status = process.container.status()
    uid, capabilities = status["Uid"].split()[0], int(status["CapEff"], 16)
    rights = f"uid {uid}, CapEff {capabilities}, NoNewPrivs {status['NoNewPrivs']}"
    wanted = "uid 65532, CapEff 0, NoNewPrivs 1"
    yield Fact(f"{process.role}: rights", rights, rights == wanted)
    try:
        await process.container.execute("touch", "/pipelines/x", "/tmp/x", "/opt/eco2/x")
        written = "something could be written"
    except CommandFailed as refused:
        written = "read-only" if str(refused).count("Read-only file system") == 3 else str(refused)
    yield Fact(f"{process.role}: file system", written, written == "read-only")
    health = await _probed(process)
    yield Fact(f"{process.role}: HEALTHCHECK's command", health, health == "healthy")


async def _probed(process: Process, *urls: str) -> str:
    """What the image's `probe` says: `healthy`, or its complaint."""
    try:
        await process.container.execute("probe", *urls)
    except CommandFailed as error:
        return str(error)
    return "healthy"


async def _watched(
    scans: Awaitable[list[JSON]], gateway: Process, worker: Process
) -> tuple[list[JSON], tuple[float, float]]:
    """What `scans` gave, and the most memory (MB) of both meanwhile."""
    most, task = (0.0, 0.0), asyncio.ensure_future(scans)
    while not task.done():
        most = max(most[0], gateway.container.pss()), max(most[1], worker.container.pss())
        await asyncio.wait({task}, timeout=0.25)
    return task.result(), most


async def _drained(
    installed: Installation, provider: Fake, gateway: Process, worker: Process
) -> AsyncIterator[Fact]:
    """SIGTERM while a call is in flight: it finishes, the job goes on elsewhere, nothing is paid twice."""
    before = len(await provider.calls())
    async with asyncio.TaskGroup() as group:
        cut = group.create_task(scan(gateway.url))
        await provider.until(lambda calls: len(calls) > before)
        code, seconds = await worker.container.stop(GRACE + MARGIN)
        kept = f"exit {code} after {seconds:.1f} s, with a call of {CALL_SECONDS:g} s in flight"
        yield Fact("worker: SIGTERM", kept, code == 0 and seconds < GRACE)
        other = await installed.start("worker")
    calls = await provider.calls()
    told = f"{cut.result()['status']} by another worker, {len(calls) - before} calls paid"
    yield Fact("the scan that it had", told, told == "completed by another worker, 2 calls paid")
    for process in (gateway, other):
        code, seconds = await process.container.stop(GRACE + MARGIN)
        yield Fact(f"{process.role}: SIGTERM when idle", f"exit {code} after {seconds:.1f} s", code == 0)


async def shape(engine: Engine, image: str, variables: Mapping[str, str]) -> AsyncIterator[Fact]:
    """What the image is, before it runs. `variables`: of the container's configuration, as they should be."""
    size = int(await engine.run("inspect", "--type=image", "--format={{.Size}}", image)) / 1e6
    yield Fact(f"{image}: size", f"{size:.0f} MB", True)
    for name, wanted in variables.items():
        seen = await engine.run("inspect", "--type=image", f"--format={{{{{name}}}}}", image)
        yield Fact(f"{image}: {name}", seen, seen == wanted)
