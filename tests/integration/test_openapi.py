"""The OpenAPI document: every route is in it, what is answered is as it says, and schemathesis agrees."""

import json
from dataclasses import replace
from typing import Any

import httpx
import jsonschema_rs
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from eco2.gateway.app import PREFIXES
from eco2.gateway.config import Auth
from eco2.job import new_id
from tests.fuzz import fuzz
from tests.support.gateways import CONFIG, SEQS, Cluster, cluster, life

FUZZ_SECONDS = 20
FUZZ_SEED = 1
"""Random seeds are for the long run: a finding there need not come from the change that is tested here."""


def client(world: Cluster) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=world.gateways[0].url)


def routes(world: Cluster) -> set[tuple[str, str]]:
    """Method and path of all routes, without prefix, HEAD, and what only says that it has no method."""
    app = world.gateways[0].app
    assert isinstance(app, CORSMiddleware)
    assert isinstance(app.app, Starlette)
    return {
        (method.lower(), route.path_format.removeprefix(PREFIXES[1]))
        for route in app.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }


async def test_every_route_is_described_and_no_other() -> None:
    async with cluster() as world, client(world) as http:
        document = (await http.get("/openapi.json")).json()
        described = {(method, path) for path, item in document["paths"].items() for method in item} - {
            (other, path) for path in document["paths"] for other in ("parameters", "servers")
        }
        assert described == routes(world)


async def test_it_is_openapi_3_1_and_its_schemas_are_schemas() -> None:
    async with cluster() as world, client(world) as http:
        document = (await http.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        for schema in document["components"]["schemas"].values():
            jsonschema_rs.meta.validate(schema)
        assert "echo.request" in document["components"]["schemas"]


async def test_the_prefix_that_was_asked_is_the_first_server() -> None:
    async with cluster() as world, client(world) as http:
        for prefix, servers in (("", ["/", "/api/v1"]), ("/api/v1", ["/api/v1", "/"])):
            document = (await http.get(f"{prefix}/openapi.json")).json()
            assert [server["url"] for server in document["servers"]] == servers


@pytest.mark.parametrize(("priced", "described"), [(("small",), True), ((), False)])
async def test_a_limit_of_cost_is_described_where_a_price_is_known(
    priced: tuple[str, ...], described: bool
) -> None:
    async with cluster(config=replace(CONFIG, priced=priced)) as world, client(world) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        for path in ("/echo", "/echo/batch"):
            headers = {each["name"] for each in paths[path]["post"]["parameters"]}
            assert "Job-Timeout" in headers
            assert ("Job-Max-USD" in headers) == described


@pytest.mark.parametrize("auth", ["none", "header"])
async def test_every_answer_is_as_described(auth: Auth) -> None:
    headers = {"X-User-ID": "ann"} if auth == "header" else {}
    async with cluster(config=replace(CONFIG, auth=auth)) as world, client(world) as http:
        document = (await http.get("/openapi.json")).json()
        for path in ("/healthz", "/readyz", "/echo/words", "/openapi.json"):
            check(document, path, await http.get(path))
        new = await http.post("/echo", json={"text": "a"}, headers=headers | {"Idempotency-Key": "k"})
        again = await http.post("/echo", json={"text": "a"}, headers=headers | {"Idempotency-Key": "k"})
        for answer in (new, again, await http.post("/echo", json={}, headers=headers)):
            check(document, "/echo", answer)
        batch = {"Content-Type": "application/x-ndjson"} | headers
        for body in (
            b'{"text": "b"}\n{"text": 1}\n{"text": "b", "idempotency_key": "k"}\n',
            b"",
            b"x" * 300_000,
        ):
            check(document, "/echo/batch", await http.post("/echo/batch", content=body, headers=batch))
        urls = new.json()["stream_url"], new.json()["result_url"]
        for wait in ("0.01", "x"):
            asked = await http.get(urls[1], params={"wait": wait}, headers=headers)
            check(document, "/echo/{job_id}/result", asked)
        check(document, "/echo/{job_id}/result", await http.get(urls[1], headers=headers))
        await world.worker.append(*life(new.json()["job_id"]))
        await world.everywhere(new.json()["job_id"], SEQS[-1])
        for what, url in zip(("events", "result"), urls, strict=True):
            check(document, f"/echo/{{job_id}}/{what}", await http.get(url, headers=headers))
            check(document, f"/echo/{{job_id}}/{what}", await http.get(f"/echo/x/{what}", headers=headers))
            check(document, f"/echo/{{job_id}}/{what}", await http.get(url, headers={"X-User-ID": ""}))
            check(
                document,
                "/echo/{job_id}",
                await http.delete(f"/echo/{new.json()['job_id']}", headers=headers),
            )
        other = (await http.post("/echo", json={"text": "b"}, headers=headers)).json()["job_id"]
        check(document, "/echo/{job_id}", await http.delete(f"/echo/{other}", headers=headers))
        check(document, "/echo/{job_id}", await http.delete(f"/echo/{new_id(1.0)}", headers=headers))
        world.server.block("alarm")
        check(document, "/echo", await http.post("/echo", json={"text": "a"}, headers=headers))


def check(document: dict[str, Any], path: str, answer: httpx.Response) -> None:
    """Status, headers, type and content of an answer are among those that the document names."""
    operation = document["paths"][path][answer.request.method.lower()]
    described = operation["responses"][str(answer.status_code)]
    for name, header in described.get("headers", {}).items():
        value = answer.headers[name]
        wanted = int(value) if header["schema"].get("type") == "integer" else value
        jsonschema_rs.validate(header["schema"], wanted)
    [(media_type, content)] = described.get("content", {"": {}}).items()
    assert answer.headers.get("content-type", "").partition(";")[0] == media_type
    if media_type in ("application/json", "application/x-ndjson"):
        schema = content["schema"] | {"components": document["components"]}
        for line in answer.content.splitlines():  # of JSON there is one
            jsonschema_rs.validate(schema, json.loads(line))


async def test_schemathesis_finds_nothing() -> None:
    """The short run; `python -m tests.fuzz --minutes 5` is the long one."""
    outcome = await fuzz(FUZZ_SECONDS, seed=FUZZ_SEED)
    assert outcome.code == 0, outcome.output
    assert outcome.jobs > 10
