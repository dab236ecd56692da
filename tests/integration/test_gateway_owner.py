"""Whose job it is: with ECO2_AUTH=header that of the user whom the proxy names, else nobody's."""

import asyncio
import time
from dataclasses import replace

import httpx
import pytest

from eco2.job import new_id
from tests.support.gateways import CONFIG, SEQS, Cluster, cluster, eventually, life
from tests.support.metric_value import metric_value

AUTH = replace(CONFIG, auth="header")
ANN, BOB = {"X-User-ID": "ann"}, {"X-User-ID": "bob"}
NOBODY = [
    {},
    {"X-User-ID": ""},
    {"X-User-ID": "a b"},
    {"X-User-ID": "u" * 256},
    [("X-User-ID", "bob"), ("X-User-ID", "ann")],
    {"Authorization": "Bearer ann"},
]


def client(world: Cluster) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=world.gateways[0].url)


async def of_ann(world: Cluster, http: httpx.AsyncClient) -> tuple[str, str]:
    """The URLs of the stream and the result of a finished job of Ann's."""
    answer = (await http.post("/echo", json={"text": "a"}, headers=ANN)).json()
    await world.worker.append(*life(answer["job_id"]))
    await world.everywhere(answer["job_id"], SEQS[-1])
    return answer["stream_url"], answer["result_url"]


async def test_only_the_owner_may_read_and_stream() -> None:
    async with cluster(config=AUTH) as world, client(world) as http:
        for url in await of_ann(world, http):
            assert (await http.get(url, headers=ANN)).status_code == 200
            denied = await http.get(url, headers=BOB)
            unknown = await http.get(url.replace(url.split("/")[2], new_id(time.time())), headers=BOB)
            assert denied.status_code == 404
            assert denied.content == unknown.content  # so that nobody learns which ids exist
        assert world.worker.orders[0].owner == "ann"


@pytest.mark.parametrize("headers", NOBODY, ids=str)
async def test_a_request_that_is_nobodys_is_401(headers: httpx._types.HeaderTypes) -> None:
    async with cluster(config=AUTH) as world, client(world) as http:
        urls = await of_ann(world, http)
        answers = [await http.get(url, headers=headers) for url in urls]
        answers.append(await http.post("/echo", json={"text": "a"}, headers=headers))
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
            assert answer.headers["WWW-Authenticate"]
        assert len(world.gateways[0].journal.view.recent()) == 1


async def test_a_key_is_its_owners() -> None:
    async with cluster(2, config=AUTH) as world, client(world) as http:
        key = {"Idempotency-Key": "k"}
        ann = await http.post("/echo", json={"text": "a"}, headers=ANN | key)
        bob = await http.post("/echo", json={"text": "b"}, headers=BOB | key)
        again = await http.post("/echo", json={"text": "a"}, headers=ANN | key)
        assert [answer.status_code for answer in (ann, bob, again)] == [202, 202, 200]
        assert ann.json()["job_id"] == again.json()["job_id"] != bob.json()["job_id"]


async def test_without_auth_the_header_counts_for_nothing() -> None:
    async with cluster() as world, client(world) as http:
        key = {"Idempotency-Key": "k"}
        ann = await http.post("/echo", json={"text": "a"}, headers=ANN | key)
        bob = await http.post("/echo", json={"text": "a"}, headers=BOB | key)
        assert bob.json()["job_id"] == ann.json()["job_id"]
        assert (await http.get(ann.json()["result_url"], headers=BOB)).status_code == 202
        await eventually(lambda: bool(world.worker.orders))
        assert world.worker.orders[0].owner == ""


async def test_what_belongs_to_no_job_needs_no_owner() -> None:
    async with cluster(config=AUTH) as world, client(world) as http:
        for path in ("/openapi.json", "/echo/words", "/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 200


async def test_a_job_is_cancelled_for_its_owner_alone_and_again_with_the_same_answer() -> None:
    async with cluster(2, config=AUTH) as world, client(world) as http:
        answer = (await http.post("/echo", json={"text": "a"}, headers=ANN)).json()
        url = answer["result_url"].removesuffix("/result")
        assert (await http.delete(url, headers=BOB)).status_code == 404
        page = {"Origin": "https://evil.example", **ANN}
        assert (await http.delete(url, headers=page)).json()["code"] == "CROSS_SITE"
        assert (await http.get(answer["result_url"], headers=ANN)).status_code == 202
        first = await http.delete(url, headers=ANN)
        assert (first.status_code, first.json()["status"]) == (200, "cancelled")
        assert first.json()["error"] == {"code": "CANCELLED", "message": "cancelled on request"}
        assert first.json() == (await http.delete(url, headers=ANN)).json()
        async with httpx.AsyncClient(base_url=world.gateways[1].url, headers=ANN) as other:
            assert (await other.get(answer["result_url"])).json() == first.json()
            assert (await other.delete(url)).json() == first.json()
            shown = (await other.get(answer["stream_url"])).text
        assert '"stage":"done","status":"cancelled"' in shown


async def test_a_job_that_two_gateways_cancel_at_once_counts_once() -> None:
    async with cluster(2) as world:
        clients = [httpx.AsyncClient(base_url=gateway.url) for gateway in world.gateways]
        for number in range(5):
            job = (await clients[0].post("/echo", json={"text": f"{number}"})).json()["job_id"]
            ends = await asyncio.gather(*(http.delete(f"/echo/{job}") for http in clients))
            assert [end.json()["status"] for end in ends] == ["cancelled"] * 2
        for http in clients:
            await http.aclose()
        series = 'eco2_jobs_ended_total{code="CANCELLED",pipeline="echo",status="cancelled"}'
        assert sum(metric_value(gateway.metrics, series) or 0 for gateway in world.gateways) == 5


async def test_a_job_that_has_ended_cannot_be_cancelled() -> None:
    async with cluster(config=AUTH) as world, client(world) as http:
        _, result_url = await of_ann(world, http)
        refused = await http.delete(result_url.removesuffix("/result"), headers=ANN)
        assert (refused.status_code, refused.json()["code"]) == (409, "ENDED")
        assert (await http.get(result_url, headers=ANN)).json()["status"] == "completed"
        for job in (new_id(time.time()), "x"):
            assert (await http.delete(f"/echo/{job}", headers=ANN)).json()["code"] == "NOT_FOUND"
