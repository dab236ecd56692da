"""GET …/result?wait=: the answer comes with the end of the job, or after the time, and not before."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from eco2.gateway.config import GatewayConfig
from tests.support.gateways import CONFIG, PATIENCE, Cluster, cluster, life

MANY = {"wait": "30"}


@asynccontextmanager
async def submitted(
    number: int = 1, config: GatewayConfig = CONFIG
) -> AsyncIterator[tuple[Cluster, httpx.AsyncClient, str, str]]:
    """Gateways with a job: the second's client, the job's id, and the URL of its result."""
    async with (
        cluster(number, config) as world,
        httpx.AsyncClient(base_url=world.gateways[-1].url, timeout=60) as http,
    ):
        job = (await http.post("/echo", json={"text": "a"})).json()
        yield world, http, job["job_id"], job["result_url"]


async def asked(http: httpx.AsyncClient, url: str) -> "asyncio.Task[httpx.Response]":
    """A request that waits, and that the gateway has received: a later request was answered."""
    waiting = asyncio.create_task(http.get(url, params=MANY))
    for _ in range(3):
        assert (await http.get(url)).status_code == 202
    assert not waiting.done()
    return waiting


async def test_a_result_is_answered_when_its_job_ends_at_whichever_gateway() -> None:
    async with submitted(2) as (world, http, job_id, url):
        waiting = await asked(http, url)
        await world.worker.append(*life(job_id)[:-1])
        await world.everywhere(job_id, 21)
        assert not waiting.done()
        await world.worker.append(life(job_id)[-1])
        response = await waiting
        assert (response.status_code, response.json()["task_id"]) == (200, job_id)
        assert (await http.get(url, params=MANY)).status_code == 200


async def test_after_the_time_the_answer_says_how_far_the_job_is() -> None:
    async with submitted() as (world, http, job_id, url):
        await world.worker.append(*life(job_id)[:3])
        began = time.monotonic()
        response = await http.get(url, params={"wait": "0.2"})
        assert time.monotonic() - began >= 0.2
        assert (response.status_code, response.json()["current_stage"]) == (202, "vision")
        assert response.headers["Retry-After"] == str(CONFIG.retry_after)


async def test_a_wait_ends_when_the_gateway_stops() -> None:
    async with submitted() as (world, http, _, url):
        waiting = await asked(http, url)
        world.gateways[0].stop.set()
        assert (await waiting).status_code == 202


async def test_waits_are_counted_and_one_too_many_is_answered_at_once() -> None:
    async with submitted(config=replace(CONFIG, streams_per_job=1)) as (world, http, job_id, url):
        waiting = await asked(http, url)
        began = time.monotonic()
        assert (await http.get(url, params=MANY)).status_code == 202
        assert time.monotonic() - began < 20
        assert not waiting.done()
        await world.worker.append(*life(job_id))
        assert (await waiting).status_code == 200


async def test_a_client_that_goes_away_leaves_no_wait() -> None:
    async with submitted(config=replace(CONFIG, streams_per_job=1)) as (_, http, job_id, url):
        waiting = await asked(http, url)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        status = 429
        async with asyncio.timeout(PATIENCE):
            while status == 429:
                async with http.stream("GET", f"/echo/{job_id}/events") as response:
                    status = response.status_code
        assert status == 200


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "٣", "1,5", "1e400x"])
async def test_a_wait_that_is_no_number_is_refused(wait: str) -> None:
    async with submitted() as (_, http, _, url):
        response = await http.get(url, params={"wait": wait})
        assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST")


async def test_unknown_jobs_are_not_waited_for() -> None:
    async with submitted() as (_, http, _, _url):
        assert (await http.get("/echo/x/result", params=MANY)).status_code == 404
