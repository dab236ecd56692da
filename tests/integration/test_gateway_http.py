"""Results, probes, CORS, error shapes, start and stop of the server."""

import asyncio
import signal
import socket
import time
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eco2.errors import ConfigurationError
from eco2.event import Queued
from eco2.gateway.app import build_probes
from eco2.gateway.problem import handlers
from eco2.gateway.server import serve
from eco2.job import JSON, new_id
from tests.support.gateways import CONFIG, ECHO, Cluster, Process, cluster, eventually, life

ORIGIN = {"Origin": "https://app.example"}


def client(world: Cluster, number: int = 0) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=world.gateways[number].url)


async def test_the_result_is_202_until_done_and_then_200_on_every_replica() -> None:
    async with cluster(2) as world, client(world) as http, client(world, 1) as other:
        answer = (await http.post("/api/v1/echo", json={"text": "a"})).json()
        url, events = answer["result_url"], life(answer["job_id"])
        waiting = await other.get(url)
        assert waiting.status_code == 202
        assert waiting.headers["Retry-After"] == "2"
        assert waiting.json() == {
            "status": "processing",
            "message": "waiting for a worker",
            "current_stage": "queued",
            "progress": 0,
        }
        await world.worker.append(*events[:3])
        running = (await other.get(url)).json()
        assert (running["current_stage"], running["progress"]) == ("vision", 50)
        await world.worker.append(*events[3:])
        for replica in (http, other):
            done = await replica.get(url)
            assert (done.status_code, done.json()["status"]) == (200, "completed")


async def test_a_lagging_replica_never_says_processing_for_what_another_has_shown() -> None:
    async with cluster(2) as world, client(world) as http:
        answer = (await http.post("/echo", json={"text": "a"})).json()
        await world.everywhere(answer["job_id"], 0)
        with world.lagging():
            await world.worker.append(*life(answer["job_id"]))
            state = world.gateways[0].journal.view.get(answer["job_id"])
            assert state is not None
            assert not state.ended
        assert (await http.get(answer["result_url"])).status_code == 200


async def test_a_result_that_cannot_be_known_now_is_503() -> None:
    async with cluster(config=replace(CONFIG, publish_timeout=0.05)) as world, client(world) as http:
        now = time.time()
        job_id = new_id(now)  # not by POST, which has no more time than the result
        await world.worker.append(Queued(ts=now, job=job_id, pipeline="echo", deadline=now + 99, digest=""))
        await world.everywhere(job_id, 0)
        world.server.block("alarm")
        response = await http.get(f"/echo/{job_id}/result")
        assert (response.status_code, response.json()["code"]) == (503, "BROKER_UNAVAILABLE")
        assert response.headers["Retry-After"] == "2"
        world.server.unblock()


async def test_probes_and_metrics() -> None:
    async with cluster() as world, client(world) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).status_code == 200
        await http.post("/echo", json={"text": "a"})
        assert (await http.get("/metrics")).status_code == 404
        async with probes(world.gateways[0]) as http:
            assert (await http.get("/readyz")).status_code == 200
            scraped = await http.get("/metrics")
            assert scraped.headers["content-type"].startswith("text/plain; version=")
            assert 'eco2_jobs_accepted_total{pipeline="echo"} 1.0' in scraped.text
            assert "eco2_journal_skipped_total 0.0" in scraped.text


def probes(gateway: Process, stop: asyncio.Event | None = None) -> httpx.AsyncClient:
    app = build_probes(
        broker=gateway.broker,
        journal=gateway.journal,
        metrics=gateway.metrics,
        stop=stop or gateway.stop,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://10.0.0.7")


async def test_a_stopping_process_is_alive_and_not_ready() -> None:
    async with cluster() as world:
        gateway, stop = world.gateways[0], asyncio.Event()
        async with probes(gateway, stop) as http:
            assert (await http.get("/readyz")).status_code == 200
            stop.set()
            ready = await http.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["reasons"] == ["the process is stopping"]
            assert (await http.get("/healthz")).status_code == 200
            assert "eco2_journal_skipped_total" in (await http.get("/metrics")).text
            assert (await http.post("/echo", json={})).status_code == 404


async def test_cors_echoes_an_exact_origin_with_credentials_and_no_other() -> None:
    async with cluster() as world, client(world) as http:
        preflight = await http.options(
            "/echo",
            headers=ORIGIN
            | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "Idempotency-Key, Content-Type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
        answer = (await http.post("/echo", json={"text": "a"}, headers=ORIGIN)).json()
        async with http.stream("GET", answer["stream_url"], headers=ORIGIN) as response:
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        refused = await http.get("/echo/x/result", headers=ORIGIN)
        assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        other = await http.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_a_pipelines_documents_are_served_under_both_prefixes() -> None:
    async with cluster() as world, client(world) as http:
        for prefix in ("", "/api/v1"):
            assert (await http.get(f"{prefix}/echo/words")).json() == {"words": ["hello"]}
        assert (await http.get("/photo/words")).status_code == 404


async def test_a_defect_is_a_500_in_the_same_shape_without_its_secrets() -> None:
    async def broken(_: Request) -> Response:
        raise KeyError("secret")

    app = Starlette(routes=[Route("/", broken)], exception_handlers=handlers(retry_after=1))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        response = await http.get("/")
    assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
    assert "secret" not in response.text


async def test_a_port_in_use_says_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="choose another"),
    ):
        await serve(Starlette(), "127.0.0.1", taken.getsockname()[1], asyncio.Event(), print)


async def test_an_application_that_does_not_start_is_a_start_error() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("no lifespan for you")

    with pytest.raises(ConfigurationError, match="did not start"):
        await serve(app, "127.0.0.1", 0, asyncio.Event(), print)


async def test_stopped_before_it_starts_it_still_ends() -> None:
    stop, ports = asyncio.Event(), list[int]()
    stop.set()
    await serve(Starlette(), "127.0.0.1", 0, stop, ports.append)
    [port] = ports
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_signals_are_left_alone() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop, ports = asyncio.Event(), list[int]()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(Starlette(), "127.0.0.1", 0, stop, ports.append))
        await eventually(lambda: bool(ports))
        during = {number: signal.getsignal(number) for number in before}
        stop.set()
    assert during == before


async def test_a_page_sees_even_a_defect() -> None:
    def broken() -> JSON:
        raise KeyError("secret")

    pipeline = replace(ECHO, routes={"broken": broken})
    async with cluster(pipelines=(pipeline,)) as world, client(world) as http:
        response = await http.get("/echo/broken", headers=ORIGIN)
        assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_job_itself_can_only_be_cancelled(method: str) -> None:
    async with cluster() as world, client(world) as http:
        answer = (await http.post("/echo", json={"text": "a"})).json()
        for prefix in ("", "/api/v1"):
            response = await http.request(method, f"{prefix}/echo/{answer['job_id']}")
            assert (response.status_code, response.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
            assert response.headers["Allow"] == "DELETE"


async def test_a_slash_too_many_is_not_found_and_leads_nowhere_else() -> None:
    async with cluster() as world, client(world) as http:
        for path in ("/echo/x/result/", "/healthz/"):
            response = await http.get(path)
            assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    async with cluster() as world, client(world) as http:
        for path, allowed in (
            ("/echo", {"POST"}),
            ("/echo/x/result", {"GET", "HEAD"}),
            ("/healthz", {"GET", "HEAD"}),
        ):
            response = await http.delete(path)
            assert response.status_code == 405
            assert set(response.headers["Allow"].split(", ")) == allowed
