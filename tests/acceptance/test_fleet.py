"""Two gateways and two workers on one RabbitMQ: any replica serves any client, and nothing grows."""

import asyncio
import base64
import io
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from eco2.client import Client, ClientEvent, ClientJob
from eco2.job import JSON
from tests.acceptance.programs import Program, eco2, provider

ALL = [0, 10, 11, 20, 21, 30, 31, 40, 41, 51]
JOBS = 200


def photo() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (40, 120, 200)).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Watcher:
    """One client of two gateways: reads a job's events in pieces and keeps all of them."""

    def __init__(self, gateways: tuple[Client, Client]) -> None:
        self._gateways = gateways
        self.durable: list[ClientEvent] = []

    async def read(self, job: ClientJob, gateway: int, pieces: int | None = None) -> None:
        """Reads on behind the last event, at one gateway, to the end or `pieces` durable events further."""
        last = self.durable[-1].id if self.durable else None
        until = None if pieces is None else len(self.durable) + pieces
        stream = self._gateways[gateway].events(job, last)
        async for event in stream:
            if event.seq is not None:
                self.durable.append(event)
                if len(self.durable) == until:
                    break
        await stream.aclose()


async def watch(job: ClientJob, number: int, watcher: Watcher) -> None:
    """By number: all at once · late, at the other gateway · dropped once · dropped twice."""
    match number % 4:
        case 0:
            await watcher.read(job, 0)
        case 1:
            await Watcher(watcher._gateways).read(job, 0)
            await watcher.read(job, 1)
        case 2:
            await watcher.read(job, 0, pieces=1 + number % 5)
            await watcher.read(job, 1)
        case _:
            await watcher.read(job, 1, pieces=2)
            await watcher.read(job, 0, pieces=3)
            await watcher.read(job, 1)


async def result_at(client: httpx.AsyncClient, program: Program, job: ClientJob) -> tuple[int, JSON]:
    response = await client.get(program.url + job.result_url)
    return response.status_code, response.json()


async def one_scan(
    number: int, programs: list[Program], clients: tuple[Client, Client], http: httpx.AsyncClient
) -> tuple[list[int | None], list[str | None]]:
    job = await clients[number % 2].submit("scan", {"image_url": photo()}, key=f"job-{number}")
    watcher = Watcher(clients if number % 8 < 4 else (clients[1], clients[0]))
    await watch(job, number, watcher)
    expected = (200, watcher.durable[-1].result)
    for program in programs:  # the result is readable at `done`, on both
        assert await result_at(http, program, job) == expected
    return [event.seq for event in watcher.durable], [event.id for event in watcher.durable]


@pytest.mark.timeout(180)
async def test_every_client_sees_every_durable_event_once_on_whichever_gateway(
    amqp_url: str, prefix: str
) -> None:
    env = {"ECO2_AMQP_URL": amqp_url, "ECO2_PREFIX": prefix, "ECO2_PORT": "0", "ECO2_WORKER_PORT": "0"}
    async with AsyncExitStack() as stack:
        env |= await stack.enter_async_context(provider(scale=0.02))
        programs = [await stack.enter_async_context(eco2("gateway", env=env)) for _ in range(2)]
        for _ in range(2):
            await stack.enter_async_context(eco2("worker", env=env))
        first, second = [
            await stack.enter_async_context(Client(program.url, connections=JOBS)) for program in programs
        ]
        http = await stack.enter_async_context(httpx.AsyncClient())
        async with asyncio.TaskGroup() as group:
            scans = [
                group.create_task(one_scan(number, programs, (first, second), http)) for number in range(JOBS)
            ]
    seen = [scan.result() for scan in scans]
    assert [seqs for seqs, _ in seen] == [ALL] * JOBS
    assert len({event_id for _, ids in seen for event_id in ids}) == JOBS * len(ALL)


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_connections_to_the_broker_do_not_grow_with_clients_or_jobs(amqp_url: str, prefix: str) -> None:
    many = 1000
    env = {
        "ECO2_AMQP_URL": amqp_url,
        "ECO2_PREFIX": prefix,
        "ECO2_PORT": "0",
        "ECO2_WORKER_PORT": "0",
        "ECO2_PREFETCH": str(many),
        "ECO2_CONCURRENCY": str(many),
    }
    port = urlsplit(amqp_url).port or 5672
    async with AsyncExitStack() as stack:
        env |= await stack.enter_async_context(provider(scale=0.2))
        gateway = await stack.enter_async_context(eco2("gateway", env=env))
        worker = await stack.enter_async_context(eco2("worker", env=env))
        client = await stack.enter_async_context(Client(gateway.url, connections=2 * many))

        async def count(jobs: int) -> tuple[int, int]:
            """Connections of gateway and worker while `jobs` jobs are watched, all of them unfinished."""
            watched = [await client.submit("scan", {"image_url": photo()}) for _ in range(jobs)]
            barrier = asyncio.Barrier(jobs + 1)
            async with asyncio.TaskGroup() as group:
                for job in watched:
                    group.create_task(follow(client, job, barrier))
                await barrier.wait()
                return gateway.connections(port), worker.connections(port)

        at_one, at_many = await count(1), await count(many)
    assert at_one == at_many
    assert at_one[0] == 2
    assert at_one[1] <= 4


async def follow(client: Client, job: ClientJob, barrier: asyncio.Barrier) -> None:
    seen = []
    async for event in client.events(job):
        if event.name == "queued":
            await barrier.wait()
        seen.append(event.name)
    assert seen[-1] == "done"
