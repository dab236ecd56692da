"""Odd, foreign and oversized requests: offers of other protocols, hosts, pages of other sites, long heads."""

import asyncio
import json
import time
from dataclasses import replace

import httpx
import pytest

from eco2.gateway.auth import LOOPBACK, allowed_host, hosts_of
from tests.abuse.test_http_connections import Pair, answer, connections, ended
from tests.support.gateways import CONFIG, Cluster, cluster, life

BODY = b'{"text": "a"}'
FORM = b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\na\r\n--b--\r\n'


def url(world: Cluster) -> str:
    return world.gateways[0].url


def post(*headers: str, body: bytes = BODY, version: str = "1.1", kind: str = "application/json") -> bytes:
    lines = [f"POST /echo HTTP/{version}", "Host: x", f"Content-Type: {kind}", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
OFFERS: dict[str, bytes] = {
    "curl --http2": post(*H2C),
    "Java's client": post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA"),
    "a form": post(*H2C, body=FORM, kind="multipart/form-data; boundary=b"),
    "chunked": post(*H2C, "Transfer-Encoding: chunked", body=b"d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "websocket": post("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
    "websocket, upper case": post("connection: UPGRADE", "UPGRADE: WebSocket"),
    "several": post("Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket, TLS/1.0"),
    "two headers": post("Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket"),
    "without Connection": post("Upgrade: h2c"),
    "without Upgrade": post("Connection: Upgrade"),
    "HTTP/1.0": post(*H2C, version="1.0"),
    "a large body": post(*H2C, body=b'{"text": "%s"}' % (b"a" * 150_000)),
    "expects 100": post(*H2C, "Expect: 100-continue"),
    "expects 100 alone": post("Expect: 100-Continue"),
    "expects 100 in HTTP/1.0": post("Expect: 100-continue", version="1.0"),
    "expects something else": post("Expect: 200-ok"),
    "expects nothing": post("Expect:"),
}


async def final(pair: Pair) -> tuple[int, list[int]]:
    """The final status of the next response, and what came before it."""
    passing: list[int] = []
    while (status := (await answer(pair))[0]) < 200:
        passing.append(status)
    return status, passing


@pytest.mark.parametrize("size", [37, 2**20])
async def test_an_offer_that_is_not_taken_changes_nothing(size: int) -> None:
    found: dict[str, list[tuple[int, list[int]]]] = {}
    async with cluster() as world, asyncio.timeout(60):
        for case, sent in OFFERS.items():
            step = size if len(sent) < 10_000 else len(sent)
            async with connections(url(world), 1) as [pair]:
                for start in range(0, len(sent), step):
                    pair[1].write(sent[start : start + step])
                    await pair[1].drain()
                found[case] = [await final(pair)]
                if b"HTTP/1.0" not in sent:  # the connection goes on as it was
                    pair[1].write(sent)
                    found[case].append(await final(pair))
    assert {case: {status for status, _ in answers} for case, answers in found.items()} == {
        case: {202} for case in OFFERS
    }
    assert found["expects 100 in HTTP/1.0"] == [(202, [])]


async def test_many_offers_at_once_are_answered_in_order() -> None:
    async with cluster() as world, connections(url(world), 1) as [pair]:
        pair[1].write((post(*H2C) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") * 3)
        assert [(await answer(pair))[0] for _ in range(6)] == [202, 200] * 3
        pair[1].write(post(*H2C) * 1000)
        await ended(pair[0])
    assert len(world.worker.orders) < 20


async def test_a_tunnel_is_refused() -> None:
    async with cluster() as world, connections(url(world), 1) as [pair]:
        pair[1].write(
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        )
        assert (await answer(pair))[0] in (400, 404, 405)


# --- hosts


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST.:8000", True),
        ("localhost:", True),
        ("localhost:\N{SUPERSCRIPT TWO}", False),
        ("[::1%25lo]", False),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("app.localhost", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evillocalhost", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:80:80", False),
        ("localhost@evil.example", False),
        ("localhost evil.example", False),
        ("", False),
        ("a" * 1000, False),
    ],
)
def test_names_of_loopback(host: str, good: bool) -> None:
    assert allowed_host(host, LOOPBACK) is good


def test_which_hosts_are_served_where_none_are_named() -> None:
    assert "localhost" in hosts_of("127.0.0.1", ())
    assert "localhost" in hosts_of("::1", ())
    assert hosts_of("0.0.0.0", ()) == ()
    assert hosts_of("10.0.0.7", ()) == ()
    assert hosts_of("127.0.0.1", ("Api.example",)) == ("api.example",)


async def test_another_host_two_or_none_are_refused() -> None:
    bad = ["Host: evil.example", "Host: a.example\r\nHost: evil.example", "X: y", "Host:"]
    heads = [*((one, 400, "INVALID_HOST") for one in bad), ("Host: A.example:80", 202, None)]
    async with cluster(config=replace(CONFIG, hosts=("a.example",))) as world:
        for head, status, code in heads:
            async with connections(url(world), 1) as [pair]:
                sent = f"POST /echo HTTP/1.1\r\n{head}\r\nContent-Length: {len(BODY)}\r\n\r\n"
                pair[1].write(sent.encode() + BODY)
                found, _, body = await answer(pair)
                assert (found, json.loads(body).get("code")) == (status, code), head
        async with connections(url(world), 1) as [pair]:
            pair[1].write(b"GET /readyz HTTP/1.0\r\nHost: 10.1.2.3:8000\r\n\r\n")  # a load balancer's check
            assert (await answer(pair))[0] == 200


# --- pages of other sites

PAGE = "https://app.example"
CROSS: dict[str, tuple[dict[str, str], int]] = {
    "a program": ({}, 202),
    "a page of ours": ({"Sec-Fetch-Site": "same-origin", "Origin": "http://x"}, 202),
    "typed by a person": ({"Sec-Fetch-Site": "none"}, 202),
    "an allowed page": ({"Sec-Fetch-Site": "cross-site", "Origin": PAGE}, 202),
    "an allowed page, old browser": ({"Origin": PAGE}, 202),
    "another page": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
    "another page without Origin": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "a sister page": ({"Sec-Fetch-Site": "same-site", "Origin": "https://other.x"}, 403),
    "another page, old browser": ({"Origin": "https://evil.example"}, 403),
    "an opaque page": ({"Origin": "null"}, 403),
    "an unknown word": ({"Sec-Fetch-Site": "cross-Site"}, 403),
    "ours, and none of the web": ({"Origin": "x://x"}, 403),
    "ours after another": ({"Origin": "null, http://x"}, 403),
    "ours": ({"Origin": "http://x"}, 202),
    "nearly ours": ({"Origin": "https://app.example.evil.example"}, 403),
}


async def test_a_page_of_another_site_cannot_submit() -> None:
    kinds = ["application/json", "text/plain", "", "multipart/form-data; boundary=b"]
    async with cluster() as world, httpx.AsyncClient(base_url=url(world)) as http:
        for case, (headers, status) in CROSS.items():
            for kind in kinds:
                expected = 422 if status == 202 and kind == "text/plain" else status
                sent = headers | ({"Content-Type": kind} if kind else {}) | {"Host": "x"}
                response = await http.post("/echo", content=FORM if "form" in kind else BODY, headers=sent)
                assert response.status_code == expected, (case, kind, response.text)
                if expected == 403:
                    assert response.json()["code"] == "CROSS_SITE"
                    assert "ECO2_CORS_ORIGINS" in response.json()["detail"]
            assert (await http.get("/healthz", headers=headers)).status_code == 200


async def test_two_origins_are_no_origin() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=url(world)) as http:
        for name in ("Origin", "Sec-Fetch-Site"):
            values = [PAGE, "https://evil.example"] if name == "Origin" else ["none", "cross-site"]
            response = await http.post("/echo", content=BODY, headers=[(name, value) for value in values])
            assert response.status_code == 403


# --- headers of answers, and of requests


async def test_every_answer_bears_the_headers() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=url(world)) as http:
        accepted = await http.post("/echo", json={"text": "a"})
        answers = [
            accepted,
            await http.get("/healthz"),
            await http.get("/nothing"),
            await http.get("/openapi.json"),
        ]
        answers += [await http.get(accepted.json()["result_url"]), await http.delete("/echo")]
        answers += [await http.post("/echo", content=b"{"), await http.get("/echo/words")]
        answers += [await http.get("/healthz", headers={"Host": "?"}), await http.get("/?" + "a" * 9000)]
        answers += [await http.post("/echo", json={}, headers={"Origin": "https://evil.example"})]
        async with http.stream("GET", accepted.json()["stream_url"]) as events:
            assert events.headers["cache-control"] == "no-cache"
            answers.append(events)
        await world.worker.append(*life(accepted.json()["job_id"]))
        await world.everywhere(accepted.json()["job_id"], 51)
        ended = world.gateways[0].journal.view.get(accepted.json()["job_id"])
        assert ended is not None
        seen = {"Last-Event-ID": str(ended.visible_events[-1].id)}
        answers.append(await http.get(accepted.json()["stream_url"], headers=seen))
        assert answers[-1].status_code == 204
        for response in answers:
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["content-security-policy"] == "default-src 'none'"
            assert response.headers["cache-control"] in ("no-store", "no-cache")


LONG_HEADERS = {
    "Content-Type: application/json" + ";a=b" * 15_000: 422,
    "Content-Type: multipart/form-data" + ';a="' * 15_000: 422,
    "X: y\r\n" * 10_000 + "A: b": 431,
    "X: y\r\n" * 400 + "A: b": 431,
    "Access-Control-Request-Headers: " + "," * 60_000: 202,
    "Cookie: " + "a=b; " * 12_000: 202,
    "Accept: " + "a/b, " * 12_000: 202,
    "X-User-ID: " + "a" * 60_000: 202,
    "traceparent: " + "a-" * 30_000: 202,
}


async def test_a_long_header_costs_little() -> None:
    async with cluster() as world:
        for head, status in LONG_HEADERS.items():
            lines = [f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}", head]
            sent = "\r\n".join([*lines, "", ""]).encode() + BODY
            async with connections(url(world), 1) as [pair]:
                before = time.thread_time()
                pair[1].write(sent)
                assert (await answer(pair))[0] == status, head[:30]
                assert time.thread_time() - before < 0.25, head[:30]  # of both ends


async def test_a_long_query_is_refused() -> None:
    async with cluster() as world:
        for query in ("a=b&" * 15_000, "last_event_id=" + "1" * 60_000):
            async with connections(url(world), 1) as [pair]:
                pair[1].write(f"GET /echo/x/events?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                status, _, body = await answer(pair)
                assert (status, json.loads(body)["code"]) == (414, "URI_TOO_LONG")
