"""Hostile connections: silent ones, slow heads, pipelines that are never read, too many of all."""

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from eco2.gateway.protocol import ConnectionLimits
from eco2.pipeline import Pipeline
from eco2.service import raise_open_files
from tests.acceptance.programs import Program, eco2
from tests.integration.test_gateway_stream import sockets, stream, submitted
from tests.support.gateways import CONFIG, ECHO, Cluster, cluster, eventually

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def memory(program: Program, name: str) -> float:
    """MB of a process: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


@asynccontextmanager
async def gateway(**env: str) -> AsyncIterator[Program]:
    """A gateway in a process of its own, on the broker in memory, with a provider that is never called."""
    provider = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    async with eco2("serve", env={"ECO2_PORT": "0", **provider, **env}) as program:
        yield program


async def connect(url: str) -> Pair:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


@asynccontextmanager
async def connections(url: str, number: int) -> AsyncIterator[list[Pair]]:
    """So many of them, which are dropped at the end."""
    pairs: list[Pair] = []
    try:
        while len(pairs) < number:
            pairs += await asyncio.gather(*(connect(url) for _ in range(min(100, number - len(pairs)))))
        yield pairs
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def answer(pair: Pair) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response."""
    reader, _ = pair
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for line in head[1:] if line for name, _, value in [line.partition(": ")]}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body


def port_of(world: Cluster) -> str:
    return world.gateways[0].url


async def test_two_thousand_connections_that_say_nothing_or_little_keep_nobody_out_and_end() -> None:
    """A gateway raises its limit of open files itself: it starts with the common soft one, 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    async with AsyncExitStack() as stack:
        try:
            program = await stack.enter_async_context(gateway())
        finally:
            raise_open_files()
        pairs = await stack.enter_async_context(connections(program.url, 2000))
        for _, writer in pairs[::2]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        async with httpx.AsyncClient(base_url=program.url, timeout=20) as http:
            assert (await http.get("/healthz")).status_code == 200
        async with asyncio.timeout(40):
            await asyncio.gather(*(ended(reader) for reader, _ in pairs))


async def test_pipelines_that_are_never_read_cost_little_and_delay_nobody() -> None:
    async with gateway() as program, connections(program.url, 300) as pairs:
        before = memory(program, "VmRSS")
        for _, writer in pairs:
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400)
        async with httpx.AsyncClient(base_url=program.url, timeout=20) as http:
            assert (await http.get("/healthz")).status_code == 200
        assert memory(program, "VmHWM") - before < 60


async def test_an_answer_that_is_never_read_ends_the_connection() -> None:
    large = Pipeline("large", ECHO.input, (), ECHO.result, routes={"words": lambda: {"a": "b" * 20_000_000}})
    async with cluster(pipelines=(large,), limits=ConnectionLimits(write=0.4)) as world:
        idle = sockets()
        async with connections(port_of(world), 1) as [pair]:
            pair[1].write(b"GET /large/words HTTP/1.1\r\nHost: x\r\n\r\n")
            await pair[0].readuntil(b"\r\n\r\n")
            await eventually(lambda: sockets() == idle + 1)  # the client's own


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /",
    ],
)
async def test_a_head_that_never_comes_ends_the_connection(sent: bytes) -> None:
    async with cluster(limits=ConnectionLimits(head=0.4)) as world, connections(port_of(world), 1) as [pair]:
        pair[1].write(sent)
        async with asyncio.timeout(10):
            await ended(pair[0])


async def test_line_breaks_do_not_keep_an_idle_connection_open() -> None:
    async with cluster(limits=ConnectionLimits(head=0.5)) as world, connections(port_of(world), 1) as [pair]:
        reader, writer = pair
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await answer(pair)
        async with asyncio.TaskGroup() as group:

            async def feed() -> None:
                while True:
                    writer.write(b"\r\n")
                    await asyncio.sleep(0.05)

            feeding = group.create_task(feed())
            async with asyncio.timeout(10):
                await ended(reader)
            feeding.cancel()


async def test_a_head_in_small_pieces_and_an_idle_connection_are_served() -> None:
    async with cluster(limits=ConnectionLimits(head=5)) as world, connections(port_of(world), 1) as [pair]:
        for _ in range(2):
            for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
                pair[1].write(bytes([byte]))
                await pair[1].drain()
            assert (await answer(pair))[0] == 200


async def test_an_open_stream_outlives_the_time_of_a_head() -> None:
    async with cluster(limits=ConnectionLimits(head=0.3), config=replace(CONFIG, sse_comment=1)) as world:
        job_id, _ = await submitted(world)
        async with connections(port_of(world), 1) as [pair]:
            pair[1].write(f"GET /echo/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n\r\n".encode())
            async with asyncio.timeout(10):
                await pair[0].readuntil(b": eco2")
                await pair[0].readuntil(b"\n:\n")  # a comment, a second later


async def test_the_rest_of_a_body_that_was_refused_must_come_soon() -> None:
    async with cluster(limits=ConnectionLimits(rest=0.4)) as world, connections(port_of(world), 1) as [pair]:
        pair[1].write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert (await answer(pair))[0] == 413
        async with asyncio.timeout(10):
            await ended(pair[0])


async def test_more_than_eight_waiting_requests_are_not_taken() -> None:
    async with cluster() as world, connections(port_of(world), 1) as [pair]:
        pair[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := await pair[0].read(65_536):
                received += piece
        assert 8 <= received.count(b"HTTP/1.1 200 ") <= 10
        assert received.count(b"connection: close") == 1


async def test_eight_waiting_requests_are_all_answered_in_order() -> None:
    async with cluster() as world, connections(port_of(world), 1) as [pair]:
        paths = ["/healthz", "/nothing"] * 4
        pair[1].write(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        assert [(await answer(pair))[0] for _ in paths] == [200, 404] * 4


async def test_too_many_connections_are_told_so_and_those_before_are_served() -> None:
    limits = ConnectionLimits(connections=5)
    async with cluster(limits=limits) as world, connections(port_of(world), 5) as served:
        async with connections(port_of(world), 1) as [pair]:
            pair[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            status, headers, body = await answer(pair)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "2", "close")
            assert json.loads(body)["code"] == "TOO_MANY_CONNECTIONS"
            assert headers["x-content-type-options"] == "nosniff"
        served[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(served[0]))[0] == 200
        async with connections(port_of(world), 30) as more:
            async with asyncio.timeout(10):
                await asyncio.gather(*(ended(reader) for reader, _ in more[10:]))
    async with cluster(limits=limits) as world, httpx.AsyncClient(base_url=port_of(world)) as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_streams_of_one_job_and_of_one_owner_are_limited() -> None:
    config = replace(CONFIG, auth="header", streams_per_job=2, streams_per_owner=3)
    async with cluster(config=config) as world:
        url = port_of(world)
        ann, bob = {"X-User-ID": "ann"}, {"X-User-ID": "bob"}
        async with httpx.AsyncClient(base_url=url) as http, AsyncExitStack() as stack:

            async def submit(owner: dict[str, str]) -> str:
                accepted = await http.post("/echo", json={"text": "a"}, headers=owner)
                return str(accepted.json()["stream_url"])

            async def follow(path: str, owner: dict[str, str]) -> httpx.Response:
                return await stack.enter_async_context(http.stream("GET", path, headers=owner))

            first, second, third = [await submit(ann) for _ in range(3)]
            opened = [await follow(path, ann) for path in (first, first, first, second, third)]
            assert [response.status_code for response in opened] == [200, 200, 429, 200, 429]
            refused = json.loads(await opened[2].aread())
            assert refused["code"] == "TOO_MANY_STREAMS"
            assert opened[2].headers["retry-after"]
            assert (await follow(await submit(bob), bob)).status_code == 200
        feeds_empty = b'eco2_sse_connections{pipeline="echo"} 0.0'
        await eventually(lambda: feeds_empty in world.gateways[0].metrics.render())
        async with httpx.AsyncClient(base_url=url) as http, http.stream("GET", first, headers=ann) as again:
            assert again.status_code == 200  # what has ended is counted no more


async def test_without_owners_only_the_streams_of_one_job_are_limited() -> None:
    config = replace(CONFIG, streams_per_job=1, streams_per_owner=1)
    async with cluster(config=config) as world:
        (_, one), (_, other) = await submitted(world), await submitted(world)
        async with stream(one) as first, stream(other) as second, stream(one) as third:
            statuses = [received.response.status_code for received in (first, second, third)]
        assert statuses == [200, 200, 429]
