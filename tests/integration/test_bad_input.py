"""Whatever is sent: the documented error, and everything else goes on. Real sockets, the real scan.

Every test ends with a good job that passes: what broke the gateway for others would fail it.
"""

import asyncio
import base64
import gzip
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from eco2.delta import DELTA_TOPIC
from eco2.gateway.config import GatewayConfig
from eco2.stages import scan
from eco2.stages.request import MAX_QUESTION
from tests.integration.test_gateway_stream import stream
from tests.support import pictures
from tests.support.gateways import SEQS, Cluster, cluster, eventually

CONFIG = GatewayConfig(models=("small",), max_upload=12 * 2**20)
PICTURE = {"image": ("a.jpg", pictures.plain(), "image/jpeg")}
URL = "https://example.org/a.jpg"


@asynccontextmanager
async def gateway(config: GatewayConfig = CONFIG) -> AsyncIterator[tuple[Cluster, httpx.AsyncClient]]:
    """A gateway with the scan; at the end a good job must pass, from its POST to `done`."""
    async with (
        cluster(pipelines=(scan,), config=config) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url, timeout=30) as http,
    ):
        yield world, http
        world.worker.at_once = True
        answer = await http.post("/scan", files=PICTURE)
        assert answer.status_code == 202
        async with stream(world.gateways[0].url + answer.json()["stream_url"]) as received:
            assert await received.to_end() == SEQS


def as_json(**members: object) -> dict[str, Any]:
    return {"json": members}


def raw(body: bytes, kind: str = "application/json") -> dict[str, Any]:
    return {"content": body, "headers": {"Content-Type": kind}}


def upload(data: bytes, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"files": {"image": ("a", data, kind)}}


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def nested(depth: int) -> bytes:
    return b'{"image_url": "%s", "x": ' % URL.encode() + b"[" * depth + b"]" * depth + b"}"


def form(*parts: bytes, kind: str = "multipart/form-data; boundary=b") -> dict[str, Any]:
    return raw(b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n", kind)


QUESTION_PART = b'Content-Disposition: form-data; name="user_input"\r\n\r\n'
URL_PART = b'Content-Disposition: form-data; name="image_url"\r\n\r\n' + URL.encode()

INVALID, TOO_LARGE, UNSUPPORTED = (
    (422, "INVALID_REQUEST"),
    (413, "IMAGE_TOO_LARGE"),
    (415, "UNSUPPORTED_IMAGE"),
)
FORM = "multipart/form-data; boundary=b"
OF_LIBRARIES = re.compile(
    r"codec|malformed|deserializ|recursion|truncated|Invalid multipart|Maximum number|Expected `|0x|pydantic|"
    r"Traceback|Error\b|of type|not $"
)
"""Words of decoders and of Python, which tell a client nothing or mislead it."""
REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "no JSON": (raw(b"what is this?"), INVALID),
    "no object": (raw(b'["image_url"]'), INVALID),
    "JSON cut short": (raw(b'{"image_url": "https://exa'), INVALID),
    "UTF-16": (raw('{"image_url": ""}'.encode("utf-16")), INVALID),
    "no UTF-8": (raw(b'{"image_url": "\xff"}'), INVALID),
    "NaN": (raw(b'{"image_url": NaN}'), INVALID),
    "nested without end": (raw(b'{"x":' + b"[" * 1_000_000), INVALID),
    "number beyond floats": (raw(b'{"user_input": 1e999}'), INVALID),
    "number of 100,000 digits": (raw(b'{"user_input": ' + b"9" * 100_000 + b"}"), INVALID),
    "half a character": (raw(b'{"image_url": "\\ud800"}'), INVALID),
    "half a character in the question": (
        raw(b'{"image_url": "%s", "user_input": "\\udfff"}' % URL.encode()),
        INVALID,
    ),
    "half a character in a name": (raw(b'{"\\ud800": 1}'), INVALID),
    "NUL in the question": (as_json(image_url=URL, user_input="a\0b"), INVALID),
    "NUL in the URL": (as_json(image_url=URL + "\0"), INVALID),
    "question of 10,000 characters": (as_json(image_url=URL, user_input="가" * 10_000), INVALID),
    "question that is no text": (as_json(image_url=URL, user_input={"a": 1}), INVALID),
    "picture that is no text": (as_json(image_url=5), INVALID),
    "nothing": (as_json(), (400, "IMAGE_URL_REQUIRED")),
    "empty": (raw(b""), INVALID),
    "other type": (raw(b"image_url=x", "application/x-www-form-urlencoded"), INVALID),
    "unknown model": (as_json(image_url=URL, model="gpt-9"), (400, "UNSUPPORTED_MODEL")),
    "model that is no text": (as_json(image_url=URL, model=[["x" * 1000]]), (400, "UNSUPPORTED_MODEL")),
    "a file's URL": (as_json(image_url="file:///etc/passwd"), INVALID),
    "FTP": (as_json(image_url="ftp://example.org/a.jpg"), INVALID),
    "credentials": (as_json(image_url="https://user:pass@example.org/a.jpg"), INVALID),
    "loopback": (as_json(image_url="http://127.0.0.1/a.jpg"), INVALID),
    "loopback as a number": (as_json(image_url="http://2130706433/"), INVALID),
    "metadata": (as_json(image_url="http://169.254.169.254/latest/"), INVALID),
    "private IPv6": (as_json(image_url="http://[::ffff:10.0.0.1]/"), INVALID),
    "no picture": (upload(b"what is this?"), UNSUPPORTED),
    "empty picture": (upload(b""), UNSUPPORTED),
    "a document": (upload(b"%PDF-1.7\n%...", "application/pdf"), UNSUPPORTED),
    "SVG": (upload(pictures.SVG, "image/svg+xml"), UNSUPPORTED),
    "HEIC": (upload(pictures.HEIC, "image/heic"), UNSUPPORTED),
    "JPEG cut short": (upload(pictures.noise("JPEG", 100)[:-2000]), UNSUPPORTED),
    "PNG cut short": (upload(pictures.noise("PNG", 100)[:-2000]), UNSUPPORTED),
    "100-megapixel bomb": (upload(pictures.bomb(10_000, 10_000)), TOO_LARGE),
    "bomb of 4 gigapixels": (upload(pictures.bomb(2**16, 2**16 // 64)[:4000]), TOO_LARGE),
    "bomb as data": (as_json(image_url=data_url(pictures.bomb(10_000, 10_000))), TOO_LARGE),
    "picture beyond its limit": (upload(b"\xff\xd8" + b"\0" * 10_000_001), TOO_LARGE),
    "upload beyond the limit": (upload(b"\0" * (13 * 2**20)), TOO_LARGE),
    "data URL of no picture": (as_json(image_url="data:text/html;base64,PGI+"), UNSUPPORTED),
    "data URL of no base64": (as_json(image_url="data:image/png;base64,!"), UNSUPPORTED),
    "form without boundary": (raw(b"--b--", "multipart/form-data"), INVALID),
    "form with an empty boundary": (raw(b"--b--", "multipart/form-data; boundary="), INVALID),
    "form of no parts": (raw(b"x" * 100, "multipart/form-data; boundary=b"), INVALID),
    "part without a name": (form(b"Content-Disposition: form-data\r\n\r\nx"), INVALID),
    "part without a head": (form(b"\r\nx"), INVALID),
    "parts without end": (form(*[QUESTION_PART + b"x"] * 50), INVALID),
    "form in a codec that makes half characters": (
        form(
            URL_PART,
            QUESTION_PART + b"\\ud800",
            kind="multipart/form-data; boundary=b; charset=unicode_escape",
        ),
        INVALID,
    ),
    "form in a codec that is none": (
        form(URL_PART, kind="multipart/form-data; boundary=b; charset=none"),
        INVALID,
    ),
    "a picture and a URL": (
        form(URL_PART, b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\nx'),
        INVALID,
    ),
    "NUL in a form": (form(URL_PART, QUESTION_PART + b"a\0b"), INVALID),
    "form without its last boundary": (
        raw(b"--b\r\n" + URL_PART + b"\r\n--b\r\n" + QUESTION_PART + b"x", FORM),
        INVALID,
    ),
    "form cut off in its last boundary": (raw(b"--b\r\n" + URL_PART + b"\r\n--b", FORM), INVALID),
    "files without end": (
        form(*[b'Content-Disposition: form-data; name="x"; filename="a"\r\n\r\n'] * 50),
        INVALID,
    ),
    "compressed": (
        {"content": gzip.compress(b"{}"), "headers": {"Content-Encoding": "GZip"}},
        INVALID,
    ),
    "JSON with more behind it": (raw(b"{} x"), INVALID),
    "empty content type": (raw(b"{}", ""), INVALID),
    "key of 300 characters": (as_json(image_url=URL) | {"headers": {"Idempotency-Key": "k" * 300}}, INVALID),
    "key that is no ASCII": (
        as_json(image_url=URL) | {"headers": {b"Idempotency-Key": b"\xed\xa0\x80"}},
        INVALID,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_is_refused_as_documented_and_leaves_nothing(case: str) -> None:
    request, refusal = REFUSED[case]
    async with gateway() as (world, http):
        response = await http.post("/scan", **request)
        assert (response.status_code, response.json()["code"]) == refusal
        assert response.json()["detail"]
        assert not OF_LIBRARIES.search(response.json()["detail"]), response.text
        assert len(response.content) < 1000
        assert world.gateways[0].journal.view.recent() == []


TAKEN: dict[str, dict[str, Any]] = {
    "CMYK": upload(pictures.cmyk()),
    "16 bits": upload(pictures.sixteen_bits()),
    "palette with holes": upload(pictures.palette_with_holes()),
    "animated GIF": upload(pictures.animated("GIF")),
    "animated WebP": upload(pictures.animated("WEBP")),
    "animated PNG": upload(pictures.animated("PNG")),
    "another type than it says": upload(pictures.plain("PNG"), "text/html"),
    "picture without a file's name": form(
        b'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png\r\n\r\n'
        + pictures.plain("PNG"),
    ),
    "file's name of half characters": form(
        b'Content-Disposition: form-data; name="image"; filename="\xed\xa0\x80\0"\r\n\r\n' + pictures.plain()
    ),
    "picture with only an extended name, as urllib3 1 writes it": form(
        b"Content-Disposition: form-data; name=\"image\"; filename*=utf-8''%EC%82%AC%EC%A7%84.jpg\r\n\r\n"
        + pictures.plain(),
    ),
    "JSON behind a byte order mark": raw(b'\xef\xbb\xbf{"image_url": "%s"}' % URL.encode()),
    "encoding named and none": as_json(image_url=URL) | {"headers": {"Content-Encoding": "identity"}},
    "data URL with spaces around": as_json(image_url=f"  {data_url(pictures.plain('PNG'))} "),
    "longest question": as_json(image_url=URL, user_input="가" * MAX_QUESTION),
    "nested": raw(nested(100)),
    "a member twice": raw(b'{"image_url": "file:///", "image_url": "%s"}' % URL.encode()),
    "a number of 300 digits": raw(b'{"image_url": "%s", "x": ' % URL.encode() + b"9" * 300 + b"}"),
    "no content type": {"content": json.dumps({"image_url": URL}).encode()},
    "content type with parameters": raw(b'{"image_url": "%s"}' % URL.encode(), "Application/JSON; charset=x"),
    "broken trace": as_json(image_url=URL) | {"headers": {b"traceparent": b"00-zz-\xff-1"}},
}


@pytest.mark.parametrize("case", TAKEN)
async def test_odd_and_taken(case: str) -> None:
    async with gateway() as (world, http):
        response = await http.post("/scan", **TAKEN[case])
        assert response.status_code == 202, response.text
        await eventually(lambda: bool(world.worker.orders))
        sent = str(world.worker.orders[0].input["image_url"])
        assert sent == URL or sent.startswith("data:image/jpeg;base64,")


async def test_nesting_of_any_depth_is_taken_or_refused() -> None:
    async with gateway() as (_, http):
        statuses = {
            depth: (await http.post("/scan", **raw(nested(depth)))).status_code
            # Python 3.11 ends at some 1,000; from 3.12 on it goes by the size of the C stack.
            for depth in [*range(100, 1200, 25), 5_000, 50_000, 300_000]
        }
        assert set(statuses.values()) == {202, 422}


@pytest.mark.parametrize(
    "last", ["9" * 5000, "-1", "9" * 39, "1" * 41, "NaN", "\xff", "0.0.0", "1e9", "%00", "."]
)
async def test_any_last_event_id_is_a_full_replay(last: str) -> None:
    async with gateway() as (world, http):
        world.worker.at_once = True
        answer = (await http.post("/scan", files=PICTURE)).json()
        await world.everywhere(answer["job_id"], SEQS[-1])
        url = world.gateways[0].url + answer["stream_url"]
        async with httpx.AsyncClient() as other:
            for request in (
                {"headers": {b"Last-Event-ID": last.encode("latin-1")}},
                {"params": {"last_event_id": last}},
                {"params": {"lastEventId": last}},
            ):
                response = await other.get(url, **request)
                assert (response.status_code, response.text.count("\nid: ")) == (200, len(SEQS))


@pytest.mark.parametrize(
    "job",
    [
        "x",
        "0",
        "00000000-0000-0000-0000-000000000000",
        "%00",
        "%FF",
        "%ED%A0%80",
        "a" * 5000,
        "..%2f..",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    ],
)
async def test_ids_of_no_job(job: str) -> None:
    async with gateway() as (_, http):
        for what in ("events", "result"):
            response = await http.get(f"/scan/{job}/{what}")
            assert response.status_code in (404, 410)
            assert response.json()["code"] in ("NOT_FOUND", "GONE")


@asynccontextmanager
async def socket(world: Cluster) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a test may say what no client would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.gateways[0].url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


HEAD = b"POST /scan HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"image_url": "%s"}' % URL.encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, 202),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), 202),
        (
            HEAD.replace(b"Content-Type: application/json\r\n", b"")
            + b"Content-Length: %d\r\n\r\n" % len(BODY)
            + BODY,
            202,
        ),
        (HEAD + b"Content-Length: 5\r\n\r\n" + BODY, 400),
        (HEAD + b"Content-Length: 500\r\n\r\n" + BODY, 408),
        (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (HEAD + b"Content-Length: 9999999999999999999\r\n\r\n", 413),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
        (HEAD + b"X: " + b"x" * 500_000, 400),
        (b"GET /" + b"a" * 500_000, 400),
        (b"GET /scan\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else None,
)
async def test_what_no_client_would_say(sent: bytes, status: int) -> None:
    impatient = replace(CONFIG, upload_grace=0.5)
    async with gateway(impatient) as (world, _), socket(world) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_client_that_goes_in_the_middle_of_its_body_is_no_defect() -> None:
    async with gateway() as (world, http):
        async with socket(world) as (_, writer):
            writer.write(HEAD + b"Content-Length: 500\r\n\r\n" + BODY)
            await writer.drain()
        assert (await http.get("/healthz")).status_code == 200


async def test_of_an_upload_of_50_mb_no_more_than_the_limit_is_ever_held() -> None:
    piece = b"\0" * 65_536
    async with gateway() as (world, _), socket(world) as (reader, writer):
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(50 * 2**20 // len(piece)):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        answer = await reader.readuntil(b"\r\n")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert peak - before < 2 * CONFIG.max_upload


BROKEN = [
    b"",
    b"\xff\xfe",
    b"[]",
    b'{"v": 99, "events": []}',
    b'{"v": 1, "events": [{"type": "new"}, 5, {}]}',
    b'{"v":1,"events":' + b"[" * 100_000,
    b'{"v": 1, "events": [{"type": "queued", "job": 5}]}',
]


async def test_broken_messages_in_the_journal_and_of_live_text_are_passed_over() -> None:
    async with gateway() as (world, http):
        world.worker.at_once = True
        answer = (await http.post("/scan", files=PICTURE)).json()
        for number, body in enumerate(BROKEN):
            await world.worker.broker.append(body, f"broken {number}")
            world.worker.broker.broadcast(DELTA_TOPIC, body)
        assert (await http.get(answer["result_url"])).status_code == 200
        assert world.gateways[0].journal.view.skipped > len(BROKEN)
        async with stream(world.gateways[0].url + answer["stream_url"]) as received:
            assert await received.to_end() == SEQS
