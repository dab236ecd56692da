"""`submit_many`: an answer per input, in order, whatever gets lost on the way; and the results of all."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from eco2 import client as module
from eco2.client import Client, ClientJob, Eco2Error, NotFinished, Refused, Unavailable
from tests.integration.test_gateway_client import Answer, dropped, reply
from tests.support.gateways import CONFIG, cluster, eventually, life

Answers = list[ClientJob | Eco2Error]


async def collect(answers: AsyncGenerator[ClientJob | Eco2Error, None]) -> Answers:
    return [answer async for answer in answers]


def texts(number: int) -> Iterator[dict[str, object]]:
    return ({"text": str(at)} for at in range(number))


def keys(number: int) -> Iterator[str]:
    return (f"key {at}" for at in range(number))


async def test_each_input_is_a_job_in_order_over_several_requests() -> None:
    number = 2 * module.BATCH_LINES + 100
    config = replace(CONFIG, max_upload=2_000_000)
    async with cluster(config=config) as world, Client(f"{world.gateways[0].url}/api/v1") as client:
        jobs = await collect(client.submit_many("echo", texts(number), keys(number)))
        await eventually(lambda: len(world.worker.orders) == number)
        orders = {job.id: job.input["text"] for job in world.worker.orders}
        assert [orders[job.id] for job in jobs if isinstance(job, ClientJob)] == [
            str(at) for at in range(number)
        ]
        assert jobs[0] == await client.submit("echo", {"text": "0"}, key="key 0")
        assert await collect(client.submit_many("echo", texts(number), keys(number))) == jobs


async def test_an_input_that_is_refused_has_its_error_in_its_place() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        inputs: list[dict[str, object]] = [{"text": "a"}, {}, {"text": "b", "model": "huge"}, {"text": "c"}]
        first, missing, huge, last = await collect(client.submit_many("echo", inputs))
        assert isinstance(first, ClientJob)
        assert isinstance(missing, Refused)
        assert (missing.status, missing.code, str(missing)) == (
            422,
            "INVALID_REQUEST",
            "text: Field required",
        )
        assert isinstance(huge, Refused)
        assert (huge.status, huge.code) == (400, "UNSUPPORTED_MODEL")
        assert isinstance(last, ClientJob)


async def test_without_keys_each_call_makes_new_jobs_and_each_input_needs_its_key() -> None:
    async with cluster() as world, Client(world.gateways[0].url) as client:
        one, two = [await collect(client.submit_many("echo", texts(2))) for _ in range(2)]
        assert len({job.id for job in (*one, *two) if isinstance(job, ClientJob)}) == 4
        with pytest.raises(ValueError, match="shorter"):
            await collect(client.submit_many("echo", texts(3), keys(2)))
        assert await collect(client.submit_many("echo", [])) == []


async def test_a_gateway_that_takes_less_at_once_gets_less_at_once() -> None:
    async with (
        cluster(config=replace(CONFIG, max_upload=300)) as world,
        Client(world.gateways[0].url) as client,
    ):
        inputs: list[dict[str, object]] = [*texts(20), {"text": "x" * 400}, *texts(3)]
        answers = await collect(client.submit_many("echo", inputs))
        [refused] = [answer for answer in answers if isinstance(answer, Refused)]
        assert (answers.index(refused), refused.code) == (20, "REQUEST_TOO_LARGE")
        assert sum(isinstance(answer, ClientJob) for answer in answers) == 23


def line(number: int) -> dict[str, object]:
    root = f"/echo/{number}"
    return {
        "http_status": 202,
        "job_id": str(number),
        "stream_url": f"{root}/events",
        "result_url": f"{root}/result",
    }


BUSY = {"http_status": 503, "retry_after": 0, "detail": "later", "code": "BROKER_UNAVAILABLE"}
WRONG = {"http_status": 422, "detail": "wrong", "code": "INVALID_REQUEST"}


def answered(*lines: dict[str, object], cut: bytes = b"") -> Answer:
    return reply(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines) + cut)


@asynccontextmanager
async def recorded(*answers: Answer) -> AsyncIterator[tuple[str, list[list[str]]]]:
    """A server with these answers, one per request; and the keys of each request's lines."""
    sent: list[list[str]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        sent.append([json.loads(one)["idempotency_key"] for one in body.splitlines()])
        await next(remaining)(head, writer)
        writer.close()

    remaining = iter(answers)
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent


async def test_lines_without_an_answer_are_sent_again_with_their_keys_and_no_others() -> None:
    answers = [
        dropped,
        reply(503, b"<html>"),
        answered(line(0), BUSY, WRONG, cut=b'{"http_status": 202, "job'),
        answered(BUSY, line(3)),
        answered(line(1)),
        answered(line(4)),
    ]
    async with recorded(*answers) as (url, sent), Client(url) as client:
        found = await collect(client.submit_many("echo", texts(5), "abcde"))
        assert [getattr(answer, "id", str(answer)) for answer in found] == ["0", "1", "wrong", "3", "4"]
    assert sent == [list("abcde")] * 3 + [list("bde")] + [list("be")] + [list("e")]


async def test_what_stays_without_an_answer_is_unavailable_after_ones_patience() -> None:
    full = answered(line(0), {**BUSY, "retry_after": 3600})
    async with recorded(full) as (url, sent), Client(url, patience=1.0) as client:
        first, second, third = await collect(client.submit_many("echo", texts(3)))
        assert isinstance(first, ClientJob)
        assert isinstance(second, Unavailable)
        assert (str(second), second.retry_after) == ("later", 3600)
        assert isinstance(third, Unavailable)
    assert len(sent) == 1


async def test_what_was_answered_counts_though_the_gateway_is_away_then() -> None:
    async with recorded(answered(line(0), BUSY)) as (url, sent), Client(url, patience=0.5) as client:
        first, second = await collect(client.submit_many("echo", texts(2), "ab"))
        assert isinstance(first, ClientJob)
        assert isinstance(second, Unavailable)
    assert sent[:2] == [["a", "b"], ["b"]]


async def test_a_gateway_that_is_away_or_none_raises() -> None:
    pages = [reply(200, b"<html>\n"), answered({**line(0), "stream_url": "https://evil.example/"})]
    async with recorded(*pages) as (url, _), Client(url) as client:
        for _ in pages:
            with pytest.raises(Refused, match="check the base URL"):
                await collect(client.submit_many("echo", texts(1)))
    async with Client("http://127.0.0.1:9", patience=0.1) as nobody:
        with pytest.raises(Unavailable):
            await collect(nobody.submit_many("echo", texts(1)))


async def test_the_results_of_many_jobs_come_in_order_without_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESULTS_AT_ONCE", 3)
    async with cluster() as world, Client(world.gateways[0].url) as client:
        jobs = [
            job for job in await collect(client.submit_many("echo", texts(7))) if isinstance(job, ClientJob)
        ]
        unknown = ClientJob.at("echo", "x")

        async def work() -> None:
            for job in reversed(jobs):
                await world.worker.append(*life(job.id))

        working = asyncio.create_task(work())
        results = [result async for result in client.results([*jobs, unknown], timeout=30)]
        await working
        assert [result["task_id"] for result in results if isinstance(result, dict)] == [
            job.id for job in jobs
        ]
        assert isinstance(results[-1], Refused)
        unfinished = await client.submit("echo", {"text": "b"})
        [late] = [result async for result in client.results([unfinished], timeout=0.1)]
        assert isinstance(late, NotFinished)
        metrics = world.gateways[0].metrics.render()
        assert b'eco2_sse_connections{pipeline="echo"} 0.0' in metrics
