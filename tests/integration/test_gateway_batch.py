"""Batches: one job per line, answered in order, as each would have been alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from eco2.gateway.batch import MAX_LINES
from tests.support.gateways import CONFIG, Cluster, cluster, eventually

NDJSON = {"Content-Type": "application/x-ndjson"}


@asynccontextmanager
async def one() -> AsyncIterator[tuple[Cluster, httpx.AsyncClient]]:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        yield world, http


def lines(*items: object) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def texts(number: int) -> bytes:
    return lines(*({"text": f"{at}", "idempotency_key": f"key {at}"} for at in range(number)))


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert (response.status_code, response.headers["Content-Type"]) == (200, NDJSON["Content-Type"])
    return [json.loads(line) for line in response.content.splitlines()]


async def post(
    http: httpx.AsyncClient,
    content: bytes | AsyncIterator[bytes],
    path: str = "/echo/batch",
    **headers: str,
) -> httpx.Response:
    return await http.post(path, content=content, headers=NDJSON | headers, timeout=60)


async def test_each_line_is_a_job_and_answered_in_order() -> None:
    async with one() as (world, http):
        found = answers(await post(http, texts(500), "/api/v1/echo/batch"))
        assert {answer["http_status"] for answer in found} == {202}
        await eventually(lambda: len(world.worker.orders) == 500)
        texts_by_id = {job.id: job.input["text"] for job in world.worker.orders}
        assert [texts_by_id[answer["job_id"]] for answer in found] == [str(at) for at in range(500)]
        job_id = found[7]["job_id"]
        assert found[7] == {
            "http_status": 202,
            "job_id": job_id,
            "status": "queued",
            "stream_url": f"/api/v1/echo/{job_id}/events",
            "result_url": f"/api/v1/echo/{job_id}/result",
        }
        assert (await http.get(found[7]["result_url"])).status_code == 202


async def test_a_batch_that_is_sent_again_is_the_same_jobs() -> None:
    async with one() as (world, http):
        first = answers(await post(http, texts(50)))
        again = answers(await post(http, texts(60)))
        assert [answer["http_status"] for answer in again] == [200] * 50 + [202] * 10
        assert ids(again)[:50] == ids(first)
        alone = await http.post("/echo", json={"text": "7"}, headers={"Idempotency-Key": "key 7"})
        assert (alone.status_code, alone.json()["job_id"]) == (200, first[7]["job_id"])
        await eventually(lambda: len(world.worker.orders) == 60)


async def test_the_bounds_of_a_batch_are_those_of_its_jobs() -> None:
    async with one() as (world, http):
        answers(
            await post(http, texts(2), **{"Job-Max-Wait": "2.5", "Job-Timeout": "10", "Job-Max-USD": "0.5"})
        )
        await eventually(lambda: len(world.worker.orders) == 2)
        assert [(job.max_wait, job.timeout) for job in world.worker.orders] == [(2.5, 10.0)] * 2
        assert [job.max_usd for job in world.worker.orders] == [0.5] * 2
        refused = await post(http, texts(2), **{"Job-Timeout": "181"})
        assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("headers", "priority", "max_wait"),
    [({}, "batch", 3265.0), ({"Job-Priority": "interactive"}, "interactive", 180.0)],
)
async def test_jobs_of_a_batch_wait_for_all_others_unless_it_says_otherwise(
    headers: Mapping[str, str], priority: str, max_wait: float
) -> None:
    async with one() as (world, http):
        answers(await post(http, texts(2), **headers))
        await eventually(lambda: len(world.worker.orders) == 2)
        assert [(job.priority, job.max_wait) for job in world.worker.orders] == [(priority, max_wait)] * 2


async def test_the_key_of_a_batch_is_that_of_its_lines() -> None:
    async with one() as (_, http):
        body = lines({"text": "a"}, {"text": "b", "idempotency_key": "own"}, {"text": "c"})
        first = answers(await post(http, body, **{"Idempotency-Key": "night"}))
        again = answers(await post(http, b"\n" + body + b"\r\n\n", **{"Idempotency-Key": "night"}))
        assert ids(first) == ids(again)
        other = answers(await post(http, lines({"text": "x"}), **{"Idempotency-Key": "night"}))
        assert [(one["http_status"], one["code"]) for one in other] == [(422, "IDEMPOTENCY_MISMATCH")]
        for key, text in (("night/1", "a"), ("own", "b"), ("night/3", "c")):
            alone = await http.post("/echo", json={"text": text}, headers={"Idempotency-Key": key})
            assert alone.status_code == 200


async def test_a_key_that_is_no_text_is_refused_whatever_it_is() -> None:
    async with one() as (_, http):
        keys: list[object] = [0, 1, False, [], {}, None, ""]
        found = answers(await post(http, lines(*[{"text": "a", "idempotency_key": key} for key in keys])))
        assert [answer["http_status"] for answer in found] == [422] * 5 + [202] * 2


def ids(found: Iterable[dict[str, Any]]) -> list[str]:
    return [answer["job_id"] for answer in found]


async def test_one_key_in_two_lines_is_one_job() -> None:
    async with one() as (world, http):
        found = answers(await post(http, lines(*[{"text": "a", "idempotency_key": "k"}] * 40)))
        assert sorted(answer["http_status"] for answer in found) == [200] * 39 + [202]
        [job_id] = set(ids(found))
        await eventually(lambda: bool(world.worker.orders))
        assert {job.id for job in world.worker.orders} == {job_id}


async def test_a_wrong_line_is_refused_as_it_would_be_alone_and_the_others_are_taken() -> None:
    wrong = [
        b"{",
        b"[1]",
        b'"text"',
        b"[" * 60_000,
        b"\xff\xfe",
        b"{}",
        b'{"text": 1}',
        b'{"text": "a", "model": "huge"}',
        b'{"text": "a", "idempotency_key": 7}',
        b'{"text": "a", "idempotency_key": "%s"}' % (b"k" * 256),
        b'{"text": "a", "idempotency_key": "\\u00e9"}',
    ]
    good = b'{"text": "a"}'
    async with one() as (world, http):
        found = answers(await post(http, b"\n".join(line for one in wrong for line in (one, good))))
        assert [answer["http_status"] for answer in found[1::2]] == [202] * len(wrong)
        statuses = [400 if b"huge" in line else 422 for line in wrong]
        assert [answer["http_status"] for answer in found[::2]] == statuses
        for line, answer in zip(wrong[:8], found[::2], strict=False):
            alone = await http.post("/echo", content=line)
            assert {"http_status": alone.status_code, **alone.json()} == answer
        await eventually(lambda: len(world.worker.orders) == len(wrong))
        metrics = world.gateways[0].metrics.render()
    assert b'eco2_jobs_accepted_total{pipeline="echo"} %d.0' % len(wrong) in metrics


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 422),
        (b"\n \r\n", {}, 422),
        (texts(1), {"Content-Type": "text/plain"}, 422),
        (texts(1), {"Content-Type": "application/json"}, 422),
        (texts(1), {"Content-Encoding": "gzip"}, 422),
        (texts(1), {"Idempotency-Key": "k" * 256}, 422),
        (texts(1), {"Sec-Fetch-Site": "cross-site"}, 403),
        (b"x" * 300_000, {}, 413),
    ],
)
async def test_a_request_that_is_no_batch_is_refused_whole(
    content: bytes, headers: dict[str, str], status: int
) -> None:
    async with one() as (world, http):
        response = await post(http, content, **headers)
        assert response.status_code == status
        assert response.json()["code"]
        assert world.gateways[0].journal.view.recent() == []


async def test_a_batch_has_the_owner_of_its_request() -> None:
    async with (
        cluster(config=replace(CONFIG, auth="header")) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        refused = await post(http, texts(2))
        assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHORIZED")
        [mine] = answers(await post(http, texts(1), **{"X-User-ID": "ann"}))
        [theirs] = answers(await post(http, texts(1), **{"X-User-ID": "bob"}))
        assert mine["job_id"] != theirs["job_id"]
        assert (await http.get(mine["result_url"], headers={"X-User-ID": "bob"})).status_code == 404
        assert (await http.get(mine["result_url"], headers={"X-User-ID": "ann"})).status_code == 202


async def test_lines_that_the_broker_does_not_take_say_when_to_send_them_again() -> None:
    async with one() as (world, http):
        world.server.block("disk alarm")
        found = answers(await post(http, texts(20)))
        assert {(one["http_status"], one["code"], one["retry_after"]) for one in found} == {
            (503, "BROKER_UNAVAILABLE", CONFIG.retry_after)
        }
        world.server.unblock()
        assert {one["http_status"] for one in answers(await post(http, texts(20)))} == {202}
        await eventually(lambda: len(world.worker.orders) == 20)


async def test_answers_come_while_lines_are_still_sent() -> None:
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield texts(3)
        await asyncio.wait_for(answered.wait(), 30)
        yield b'{"text": "the last one"}'

    async with one() as (_, http):
        reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
        head = (
            b"POST /echo/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        writer.write(head)
        async for piece in body():
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not answered.is_set():
                await reader.readuntil(b"\r\n\r\n")
                seen = b""
                while seen.count(b"job_id") < 3:
                    seen += await reader.read(65_536)
                answered.set()
        writer.write(b"0\r\n\r\n")
        assert (await reader.read()).count(b"job_id") == 1
        writer.close()


async def test_more_lines_than_a_batch_may_have_are_told_so_and_not_taken() -> None:
    async with (
        cluster(config=replace(CONFIG, max_upload=2_000_000)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        found = answers(await post(http, b"{}\n" * (MAX_LINES + 5)))
        assert len(found) == MAX_LINES + 1
        assert (found[-1]["http_status"], found[-1]["code"]) == (413, "REQUEST_TOO_LARGE")
        assert found[-2]["http_status"] == 422


async def test_a_gateway_that_stops_ends_its_batches_between_two_lines() -> None:
    async with one() as (world, http):
        gateway = world.gateways[0]

        async def body() -> AsyncIterator[bytes]:
            yield lines({"text": "a"})
            await eventually(lambda: bool(gateway.journal.view.recent()))
            gateway.stop.set()
            yield texts(3)

        accepted, refused = answers(await post(http, body()))
        assert (accepted["http_status"], refused["http_status"]) == (202, 503)
        assert refused["code"] == "BROKER_UNAVAILABLE"
        assert [state.job for state in gateway.journal.view.recent()] == [accepted["job_id"]]


async def test_a_wrong_name_of_a_pipeline_is_told() -> None:
    async with one() as (_, http):
        response = await post(http, texts(1), "/ehco/batch")
        assert (response.status_code, "it serves echo, photo" in response.json()["detail"]) == (404, True)
