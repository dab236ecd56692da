"""The client against real gateways, and against servers that drop, stall and refuse."""

import asyncio
import io
import itertools
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eco2.client import Client, ClientEvent, ClientJob, File, NotFinished, Refused, Unavailable, submit
from eco2.job import new_id
from eco2.pipeline import Upload
from tests.support.gateways import CONFIG, PATIENCE, SEQS, Cluster, cluster, eventually, life

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

ACCEPTED = b'{"job_id": "j", "stream_url": "/echo/j/events", "result_url": "/echo/j/result"}'
DONE = b'id: 9\nevent: done\ndata: {"seq": 51, "status": "completed"}\n\n'


async def collect(events: AsyncGenerator[ClientEvent, None]) -> list[ClientEvent]:
    async with aclosing(events):
        return [event async for event in events]


def seqs(events: list[ClientEvent]) -> list[int]:
    return [event.seq for event in events if event.seq is not None]


async def test_submit_follow_and_fetch() -> None:
    async with cluster() as world, Client(f"{world.gateways[0].url}/api/v1/") as client:
        job = await client.submit("echo", {"text": "a"})
        assert job == ClientJob.at("echo", job.id, "/api/v1")
        following = asyncio.create_task(collect(client.events(job)))
        for event in life(job.id):
            await world.worker.append(event)
        events = await following
        assert seqs(events) == SEQS
        assert events[-1].result == await client.result(job)
        assert (events[2].name, events[2].status, events[2].progress, events[2].result) == (
            "vision",
            "completed",
            50,
            {"seen": "can"},
        )
        assert await collect(client.events(job, events[-1].id)) == []


async def test_a_job_is_given_less_time() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        await client.submit("echo", {"text": "a"}, max_wait=2, timeout=0.5, max_usd=0.25)
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        assert (job.max_wait, job.timeout, job.max_usd) == (2.0, 0.5, 0.25)
        with pytest.raises(Refused, match="Job-Timeout must be a number of seconds"):
            await client.submit("echo", {"text": "a"}, timeout=1000)


async def test_a_job_and_many_are_given_a_priority() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        await client.submit("echo", {"text": "a"}, priority="batch")
        for priority in (None, "interactive"):
            async for _ in client.submit_many("echo", [{"text": "b"}], priority=priority):
                pass
        await eventually(lambda: len(world.worker.orders) == 3)
        assert sorted(job.priority for job in world.worker.orders) == ["batch", "batch", "interactive"]


async def test_a_file_is_uploaded_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 70)
    async with cluster() as world, Client(world.gateways[0].url) as client:
        await client.submit("photo", {"question": "?"}, files={"image": tmp_path / "a.jpg"})
        await eventually(lambda: len(world.worker.orders) == 1)
        assert world.worker.orders[0].input == {"size": 70, "question": "?"}
        with pytest.raises(FileNotFoundError):
            await client.submit("photo", {}, files={"image": tmp_path / "b.jpg"})


async def test_a_file_is_whatever_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 70)
    async with cluster() as world, Client(world.gateways[0].url) as client:
        with (
            path.open("rb") as opened,
            path.open("rb") as raw,
            os.fdopen(os.dup(raw.fileno()), "rb") as unnamed,
        ):
            files: list[File] = [str(path), path, b"x" * 70, bytearray(b"x" * 70), opened, unnamed]
            files += [io.BytesIO(b"x" * 70), Upload("a.jpg", "image/jpeg", b"x" * 70)]
            for file in files:
                await client.submit("photo", {}, files={"image": file})
        await eventually(lambda: len(world.worker.orders) == len(files))
        assert {job.input["size"] for job in world.worker.orders} == {70}
        for wrong in (7, None, ["a.jpg"], io.StringIO("text")):
            with pytest.raises(
                TypeError, match="give a path, bytes, a file opened with mode 'rb', or an Upload"
            ):
                await client.submit("photo", {}, files={"image": wrong})  # type: ignore[dict-item]


async def test_a_wrong_name_of_a_pipeline_is_told_with_the_right_ones() -> None:
    async with cluster() as world:
        for base in ("", "/api/v1"):
            async with Client(world.gateways[0].url + base) as client:
                with pytest.raises(
                    Refused, match="serves no pipeline ehco; it serves echo, photo"
                ) as refused:
                    await client.submit("ehco", {"text": "a"})
                assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")


async def test_a_result_comes_with_the_end_of_its_job_not_with_the_next_look() -> None:
    """The pause that the gateway asks for would be longer than the test may take."""
    config = replace(CONFIG, retry_after=600)
    async with cluster(config=config) as world, Client(world.gateways[0].url) as client:
        job = await client.submit("echo", {"text": "a"})
        waiting = asyncio.create_task(client.result(job))
        for _ in range(3):  # when these are answered, the gateway has the request that waits
            with pytest.raises(NotFinished):
                await client.result(job, timeout=0.1)
        assert not waiting.done()
        await world.worker.append(*life(job.id))
        assert (await asyncio.wait_for(waiting, PATIENCE))["task_id"] == job.id
        assert (await client.result(job))["task_id"] == job.id


async def test_a_result_is_asked_for_again_whatever_comes_in_between() -> None:
    waiting = reply(202, b"{}", b"Retry-After: 0")
    heads: list[bytes] = []
    answers = [waiting, reply(503, b"<html>"), waiting, dropped, reply(200, b'{"a": 1}')]
    async with scripted(iter(answers), heads) as url, Client(url) as client:
        assert await client.result(ClientJob.at("echo", "j")) == {"a": 1}
    assert {head.partition(b" HTTP")[0] for head in heads} == {b"GET /echo/j/result?wait=20"}


def metrics(world: Cluster) -> bytes:
    return world.gateways[0].metrics.render()


async def test_headers_go_with_every_request_and_a_client_can_be_closed() -> None:
    heads: list[bytes] = []
    answers = [reply(202, ACCEPTED), events(DONE, clean=True), reply(200, b"{}")]
    async with scripted(iter(answers), heads) as url:
        client = Client(url, headers={"X-User-ID": "user-17"})
        job = await client.submit("echo", {})
        assert seqs(await collect(client.events(job))) == [51]
        assert await client.result(job) == {}
        await client.aclose()
    assert [b"X-User-ID: user-17" in head for head in heads] == [True] * 3


async def test_what_is_no_gateway_is_not_taken_for_one() -> None:
    page = reply(200, b"<html>Welcome to the hotel's network</html>")
    moved = reply(308, b"", b"Location: https://new.example/")
    job = ClientJob.at("echo", "j")
    async with scripted(itertools.cycle([page, page, page, moved])) as url, Client(url) as client:
        for attempt in (client.submit("echo", {}), collect(client.events(job)), client.result(job)):
            with pytest.raises(Refused, match="check the base URL"):
                await attempt
        with pytest.raises(Refused, match=r"https://new\.example/"):
            await client.submit("echo", {})


async def test_nobody_waits_longer_than_their_patience() -> None:
    busy = reply(429, b'{"detail": "full", "code": "OVER_CAPACITY"}', b"Retry-After: 3600")
    async with scripted(itertools.repeat(busy)) as url, Client(url, patience=5.0) as client:
        with pytest.raises(Unavailable, match="full") as given_up:
            await client.submit("echo", {})
    assert given_up.value.retry_after == 3600


async def test_live_text_goes_on_where_it_was_after_a_lost_connection() -> None:
    def live(text: str) -> bytes:
        return b'event: answer.delta\ndata: {"text": "%s"}\n\n' % text.encode()

    answers = [
        events(live("Rinse") + live(" it"), clean=False),
        events(live("Rinse it") + live(" well."), clean=False),
        events(live("Squash it."), clean=False),
        events(DONE, clean=True),
    ]
    async with scripted(iter(answers)) as url, Client(url) as client:
        seen = await collect(client.events(ClientJob.at("echo", "j")))
    assert [(event.text, event.again) for event in seen[:-1]] == [
        ("Rinse", False),
        (" it", False),
        (" well.", False),
        ("Squash it.", True),
    ]


async def test_an_upload_and_the_one_job_convenience() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        photo = Upload("a.jpg", "image/jpeg", b"x" * 100)
        await client.submit("photo", {"question": "?"}, files={"image": photo})
        job = await submit("echo", {"text": "a"}, base_url=world.gateways[0].url, key="k")
        assert await client.submit("echo", {"text": "a"}, key="k") == job
        await eventually(lambda: len(world.worker.orders) == 2)
        assert world.worker.orders[0].input == {"size": 100, "question": "?"}


async def test_another_client_goes_on_at_another_gateway() -> None:
    async with (
        cluster(2) as world,
        Client(world.gateways[0].url) as one,
        Client(world.gateways[1].url) as two,
    ):
        job = await one.submit("echo", {"text": "a"})
        await world.worker.append(*life(job.id)[:4])
        first: list[ClientEvent] = []
        async with aclosing(one.events(job)) as events:
            async for event in events:
                first.append(event)
                if event.seq == 20:
                    break
        await world.worker.append(*life(job.id)[4:])
        rest = await collect(two.events(job, first[-1].id))
        assert seqs(first) + seqs(rest) == SEQS
        assert await one.result(job) == await two.result(job) == rest[-1].result


async def test_live_text_has_no_number() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        job = await client.submit("echo", {"text": "a"})
        await world.worker.append(*life(job.id)[:4])
        await world.everywhere(job.id, 20)
        names = []
        async with aclosing(client.events(job)) as events:
            async for event in events:
                names.append(event.name)
                if event.seq == 20:
                    world.worker.text(job.id, "물")
                if event.name == "answer.delta":
                    assert (event.seq, event.id, event.text) == (None, None, "물")
                    await world.worker.append(*life(job.id)[4:])
        assert names.count("answer.delta") == 1
        assert names[-1] == "done"


async def test_refusals_are_typed() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        with pytest.raises(Refused, match="text: Field required") as refused:
            await client.submit("echo", {})
        assert (refused.value.status, refused.value.code) == (422, "INVALID_REQUEST")
        unknown = ClientJob.at("echo", new_id(world.worker.journal.view.offset))
        with pytest.raises(Refused) as missing:
            await collect(client.events(unknown))
        assert missing.value.status in (404, 410)
        with pytest.raises(Refused):
            await client.result(unknown)
        job = await client.submit("echo", {"text": "a"})
        with pytest.raises(NotFinished, match=job.id):
            await client.result(job, timeout=0.05)


async def test_a_gateway_that_is_away_is_waited_for_and_then_given_up() -> None:
    async with scripted(itertools.repeat(dropped)) as url, Client(url, patience=0.3) as client:
        with pytest.raises(Unavailable):
            await client.submit("echo", {})
        with pytest.raises(Unavailable):
            await collect(client.events(ClientJob.at("echo", "x")))


async def test_a_submission_that_got_no_answer_is_sent_again_under_its_key() -> None:
    heads: list[bytes] = []
    busy = reply(503, b'{"detail": "later", "code": "BROKER_UNAVAILABLE"}')
    async with scripted(iter([dropped, busy, reply(202, ACCEPTED)]), heads) as url, Client(url) as client:
        assert await client.submit("echo", {"text": "a"}) == ClientJob.at("echo", "j")
    keys = {line for head in heads for line in head.split(b"\r\n") if line.startswith(b"Idempotency-Key")}
    assert (len(heads), len(keys)) == (3, 1)


async def test_events_go_on_over_connections_that_break_in_every_way() -> None:
    frames = [
        b'id: %d\nevent: %s\ndata: {"job_id": "j", "stage": "s", "status": "started", "seq": %d}\n\n' % item
        for item in [(5, b"queued", 0), (7, b"vision", 10), (9, b"vision", 11), (12, b"done", 51)]
    ]
    heads: list[bytes] = []
    answers = [
        dropped,
        events(frames[0], clean=False),
        reply(503, b"<html>a proxy's page</html>"),
        events(frames[0] + frames[1][:20], clean=False),  # a full replay that breaks inside of a frame
        events(b": nothing new\n\n", clean=True),
        events(frames[1], clean=True),
        events(frames[2] + frames[3], clean=True),
    ]
    async with scripted(iter(answers), heads) as url, Client(url) as client:
        assert seqs(await collect(client.events(ClientJob.at("echo", "j")))) == [0, 10, 11, 51]
    resumed = [head.partition(b"Last-Event-ID: ")[2][:1] for head in heads]
    assert resumed == [b"", b"", b"5", b"5", b"5", b"5", b"7"]


async def test_a_stream_that_was_idle_for_longer_than_ones_patience_is_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = asyncio.Event()
    now = [0.0]
    monkeypatch.setattr("eco2.client.time", SimpleNamespace(time=time.time, monotonic=lambda: now[0]))

    async def idle_then_cut(head: bytes, writer: asyncio.StreamWriter) -> None:
        await events(b'event: answer.delta\ndata: {"text": "a"}\n\n', clean=False)(head, writer)
        await read.wait()
        now[0] += 120.0  # longer than the patience; nothing else lets the client's time pass
        writer.transport.abort()

    answers = [idle_then_cut, dropped, events(DONE, clean=True)]
    async with scripted(iter(answers)) as url, Client(url) as client:
        seen = []
        async for event in client.events(ClientJob.at("echo", "j")):
            seen.append(event.seq)
            read.set()
    assert seen == [None, 51]


async def test_a_hundred_clients_that_are_cut_again_and_again_see_every_event_once() -> None:
    async with cluster(2) as world, Client(world.gateways[0].url, connections=300) as client:
        jobs = [await client.submit("echo", {"text": str(number)}) for number in range(20)]
        async with cutting_proxy(world) as (url, connections), Client(url, connections=300) as cut:
            following = [asyncio.create_task(collect(cut.events(job))) for job in jobs for _ in range(5)]
            for events_at_once in zip(*(life(job.id) for job in jobs), strict=True):
                await world.worker.append(*events_at_once)
            seen = await asyncio.gather(*following)
            assert connections[0] > 2 * len(following)
        assert all(seqs(events) == SEQS for events in seen)


async def dropped(_head: bytes, writer: asyncio.StreamWriter) -> None:
    """The connection goes before there is an answer."""
    writer.transport.abort()


def reply(status: int, body: bytes, header: bytes = b"X-Nothing: 1") -> Answer:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\n%s\r\nConnection: close\r\n" % (status, header))
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
        writer.write(body)

    return answer


def events(body: bytes, clean: bool) -> Answer:
    """An event stream that ends properly, or in the middle of its chunked body."""

    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%s\r\n" % (len(body), body))
        if clean:
            writer.write(b"0\r\n\r\n")

    return answer


@asynccontextmanager
async def scripted(answers: Iterator[Answer], heads: list[bytes] | None = None) -> AsyncIterator[str]:
    """A server that gives each connection the next of `answers`; `heads` gets what was asked."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        await next(answers)(head, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def cutting_proxy(world: Cluster) -> AsyncIterator[tuple[str, list[int]]]:
    """Passes connections on to the gateways in turn, and cuts each of them after some bytes of the answer.

    Gives its URL, and how many connections there were as the one item of a list.
    """
    connections = [0]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = connections[0] = connections[0] + 1
        port = int(world.gateways[turn % 2].url.rpartition(":")[2])
        upstream, back = await asyncio.open_connection("127.0.0.1", port)
        head = await reader.readuntil(b"\r\n\r\n")
        back.write(head.replace(b"Connection: keep-alive", b"Connection: close"))
        left = 400 + turn * 37 % 900
        while left > 0 and (piece := await upstream.read(left)):
            writer.write(piece)
            left -= len(piece)
        back.close()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


async def test_a_job_is_cancelled_once_and_for_all_who_ask() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        job = await client.submit("echo", {"text": "a"})
        cancelled = await client.cancel(job)
        assert cancelled["status"] == "cancelled"
        assert cancelled == await client.cancel(job) == await client.result(job)
        assert (await collect(client.events(job)))[-1].status == "cancelled"
        other = await client.submit("echo", {"text": "b"})
        await world.worker.append(*life(other.id))
        await world.everywhere(other.id, SEQS[-1])
        with pytest.raises(Refused) as refused:
            await client.cancel(other)
        assert (refused.value.code, refused.value.status) == ("ENDED", 409)
