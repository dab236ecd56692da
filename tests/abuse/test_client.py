"""A client that other servers answer in place of a gateway raises its own errors only, in bounded time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import pytest

from eco2.client import Client, ClientJob, Eco2Error, Refused, Unavailable
from eco2.errors import ConfigurationError
from eco2.eventstream import MAX_EVENT_BYTES, BrokenEvent, EventLines

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

JOB = ClientJob.at("scan", "j")
GOOD = b'event: queued\ndata: {"seq": 0, "status": "started"}\nid: 1\n\n'
DONE = b'event: done\ndata: {"seq": 51, "status": "completed"}\nid: 9\n\n'
BROKEN = {
    "a proxy's words": b"data: upstream error\n\n",
    "a list": b"event: vision\ndata: []\n\n",
    "null": b"event: vision\ndata: null\n\n",
    "empty": b"event: vision\ndata:\n\n",
    "a fraction": b'event: vision\ndata: {"seq": 10.5}\n\n',
    "a float": b'event: vision\ndata: {"seq": 10.0}\n\n',
    "a number as text": b'event: vision\ndata: {"seq": "10"}\n\n',
    "a negative number": b'event: done\ndata: {"seq": -1, "status": "completed"}\n\n',
    "a number beyond any": b'event: vision\ndata: {"seq": %d}\n\n' % (10**26),
    "a boolean": b'event: vision\ndata: {"seq": true}\n\n',
    "an unknown status": b'event: vision\ndata: {"seq": 10, "status": "paused"}\n\n',
    "a result that is a list": b'event: vision\ndata: {"seq": 10, "result": [1]}\n\n',
    "infinite": b'event: vision\ndata: {"seq": 10, "ts": 1e999}\n\n',
    "not UTF-8": b'event: vision\ndata: {"seq": 10, "result": {"a": "\xe9"}}\n\n',
    "a name that is not UTF-8": b"event: \xff\n\n",
    "half a surrogate pair": b'event: vision\ndata: {"result": {"a": "\\ud800"}}\n\n',
    "nested": b'event: vision\ndata: {"result": {"a": ' + b"[" * 100_000 + b"\n\n",
    "cut": b'event: vision\ndata: {"seq": 10, "status": "comp\n\n',
    "a done without a number": b"event: done\ndata: {}\n\n",
}


@pytest.mark.parametrize("event", BROKEN.values(), ids=BROKEN)
def test_a_broken_event_is_an_error_of_ours(event: bytes) -> None:
    with pytest.raises(BrokenEvent):
        EventLines().feed(GOOD + event)


@pytest.mark.parametrize("unit", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n", b"data:\n" * 10_000])
def test_no_event_takes_more_memory_than_a_bound(unit: bytes) -> None:
    lines = EventLines()
    pieces = itertools.repeat(unit, MAX_EVENT_BYTES // len(unit) + 2)
    with pytest.raises(BrokenEvent, match="bytes"):
        list(map(lines.feed, pieces))


def test_what_the_standard_lets_pass_is_no_error() -> None:
    stream = (
        b"\xef\xbb\xbf: caf\xe9\nfoo: bar\nretry: soon\nid\nevent: queued\rdata: {\r\ndata\ndata:"
        b'"seq": 0, "new": [1]}\nid: a\0b\r\r\n' + DONE
    )
    for size in (1, 2, 7, len(stream)):
        lines = EventLines()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        found = [event for piece in pieces for event in lines.feed(piece)]
        assert [(event.name, event.seq, event.id) for event in found] == [
            ("queued", 0, ""),
            ("done", 51, "9"),
        ]


@pytest.mark.parametrize("event", BROKEN.values(), ids=BROKEN)
async def test_a_broken_event_is_a_lost_connection(event: bytes) -> None:
    async with scripted(iter([stream(GOOD + event), stream(GOOD + DONE)])) as url, Client(url) as client:
        assert [seen.seq async for seen in client.events(JOB)] == [0, 51]


@pytest.mark.parametrize(
    "answer",
    [
        b"data: upstream error\n\n",
        GOOD + b"data: upstream error\n\n",
        b": nothing\n",
        b"",
        GOOD,
        b'event: answer.delta\ndata: {"text": "a"}\n\n',
        b'event: waiting\ndata: {"position": 3}\n\n',
    ],
)
async def test_a_stream_that_breaks_again_and_again_is_given_up(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few attempts: the pauses grow. Time passes only in them, so that no load can change the count."""
    now = [0.0]
    clock = SimpleNamespace(time=lambda: 0.0, monotonic=lambda: now[0])
    sleep = asyncio.sleep

    async def passes(seconds: float) -> None:
        now[0] += seconds
        await sleep(0)

    monkeypatch.setattr("eco2.client.time", clock)
    monkeypatch.setattr("eco2.client.asyncio.sleep", passes)
    asked: list[bytes] = []
    async with scripted(itertools.repeat(stream(answer)), asked) as url, Client(url, patience=60.0) as client:
        with pytest.raises(Unavailable):
            async for _ in client.events(JOB):
                pass
    assert 3 < len(asked) < 40
    assert now[0] < 70.0


BODIES = [
    b"",
    b"<html><title>502 Bad Gateway</title></html>",
    b"\xff\xfe\x00",
    b'{"detail": "\xe9"}',
    b'{"detail": {"code": "X"}}',
    b'{"detail": [{"loc": ["body"]}], "code": null}',
    b"[]",
    b"null",
    b'"text"',
    b"[" * 100_000,
    b'{"job_id": 7, "stream_url": "/a", "result_url": "/b"}',
    b'{"job_id": "j", "stream_url": "http://[", "result_url": "/b"}',
    b'{"job_id": "j", "stream_url": "https://evil.example/a", "result_url": "/b"}',
    b'{"job_id": "j", "stream_url": "//evil.example/a", "result_url": "/b"}',
    b'{"job_id": "j", "stream_url": "/\\\\evil.example/a", "result_url": "/b"}',
    b'{"job_id": "j", "stream_url": "/a\\n", "result_url": "/b"}',
]


@pytest.mark.parametrize("status", [200, 202, 204, 302, 404, 429, 502])
async def test_whatever_answers_the_error_is_ours(status: int) -> None:
    """Also for the `Retry-After` of a gateway whose clock is wrong."""
    wait = itertools.cycle([b"\xc2\xb2", b"-1", b"9" * 400, b"Fri, 31 Dec 9999 23:59:59 GMT", b"0"])
    answers = (
        reply(status, BODIES[number // 3 % len(BODIES)], b"Retry-After: " + next(wait))
        for number in itertools.count()
    )
    async with scripted(answers) as url, Client(url, patience=0.05) as client:
        attempts = [
            attempt
            for _ in BODIES
            for attempt in (client.submit("scan", {}), follow(client), client.result(JOB, timeout=0.05))
        ]
        for found in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(found, BaseException):
                assert isinstance(found, Eco2Error), found
                assert str(found)
            else:
                assert isinstance(found, dict) or (found is None and status == 204)


async def follow(client: Client) -> None:
    async with aclosing(client.events(JOB)) as events:
        async for _ in events:
            pass


async def test_a_body_that_is_cut_is_a_lost_connection() -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"st')

    async def garbled(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")

    async def no_http(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    answers = [cut, garbled, no_http, reply(200, b'{"status": "completed"}', b"X: 1")]
    async with scripted(iter(answers)) as url, Client(url) as client:
        assert await client.result(JOB) == {"status": "completed"}


@pytest.mark.parametrize("url", ["http://[", "\0", "//evil.example/a b", "http://exa mple/"])
async def test_a_job_that_is_none_is_refused(url: str) -> None:
    async with Client("http://127.0.0.1:9", patience=0.05) as client:
        for attempt in (
            client.result(ClientJob("j", url, url)),
            anext(client.events(ClientJob("j", url, url))),
        ):
            with pytest.raises((ConfigurationError, Unavailable)):
                await attempt


@pytest.mark.parametrize("last", ["", "é", "a\nb", "a b", "\ud800", "9" * 5000])
async def test_an_id_that_cannot_be_sent_means_a_full_replay(last: str) -> None:
    asked: list[bytes] = []
    async with scripted(iter([stream(GOOD + DONE)]), asked) as url, Client(url) as client:
        assert [event.seq async for event in client.events(JOB, last)] == [0, 51]
    assert b"last-event-id" not in asked[0].lower()


async def test_a_client_that_was_closed_says_so() -> None:
    client = Client("http://127.0.0.1:9")
    await client.aclose()
    for attempt in (client.submit("scan", {}), follow(client), client.result(JOB)):
        with pytest.raises(Unavailable, match="closed"):
            await attempt


async def test_a_proxys_page_is_not_taken_for_a_gateways_refusal() -> None:
    async with scripted(itertools.repeat(reply(403, b"<html>", b"X: 1"))) as url, Client(url) as client:
        with pytest.raises(Refused, match=r"HTTP 403 from 127\.0\.0\.1") as refused:
            await client.submit("scan", {})
    assert refused.value.code == "NO_GATEWAY"


def stream(body: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body
        )

    return answer


def reply(status: int, body: bytes, header: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        length = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
        writer.write(b"HTTP/1.1 %d X\r\n%s\r\nConnection: close\r\n%s\r\n" % (status, header, length))
        writer.write(body if length else b"")

    return answer


@asynccontextmanager
async def scripted(answers: Iterator[Answer], asked: list[bytes] | None = None) -> AsyncIterator[str]:
    """A server that gives each connection the next of `answers`; `asked` gets what came."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(head)
        await next(answers)(writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
