"""The transport of calls over real connections: what is kept, what is cut off, what is refused."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest

from eco2.call import Call
from eco2.errors import Eco2Error, ProviderDown, ProviderError, RetryableError
from eco2.llm import hooks
from eco2.llm.openai import OpenAIModel
from tests.support.scripted_provider import USAGE, completion

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = completion(message="네", usage=USAGE).encode()
COMPLETION = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
PATIENCE = 10.0
CALL = Call("answer", "Answer.", "이거 어떻게 버려요?", str, 100)


@dataclass
class Server:
    """A server that writes an answer to each request, byte by byte where `slowly`. `None`: it hangs up."""

    answers: list[bytes | None]
    slowly: bool = False
    connections: int = 0
    open: int = 0
    requests: list[bytes] = field(default_factory=list)
    torn: bytes = b""  # of requests that did not come whole
    url: str = ""

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                self.requests.append(head + await reader.readexactly(int(length.split(b":")[1])))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                step = 1 if self.slowly else len(answer) or 1
                for start in range(0, len(answer), step):
                    writer.write(answer[start : start + step])
                    await writer.drain()
                if b"connection: close" in answer:
                    return
        except asyncio.IncompleteReadError as error:
            self.torn += error.partial
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()

    async def until_open(self, number: int) -> None:
        """Waits until so many connections are open."""
        async with asyncio.timeout(PATIENCE):
            while self.open != number:  # noqa: ASYNC110 - the state is in a server
                await asyncio.sleep(0.01)


async def skip(*_: object) -> None:
    """Stands for a hook."""


@asynccontextmanager
async def serving(
    *answers: bytes | None, slowly: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, httpx2.AsyncClient]]:
    """A server and a client with the transport."""
    server = Server(list(answers), slowly)
    listener = await asyncio.start_server(server.respond, "127.0.0.1", 0, ssl=tls)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(PATIENCE), listener, hooks.client(skip, skip, lambda *_: None) as client:
        yield server, client
    await server.until_open(0)


async def post(server: Server, client: httpx2.AsyncClient) -> bytes:
    return (await client.post(server.url, content=b"request")).content


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving(OK, OK, OK) as (server, client):
        assert [await post(server, client) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST / HTTP/1.1\r\n")
        assert server.requests[0].endswith(b"\r\n\r\nrequest")


async def test_requests_at_once_have_a_connection_each() -> None:
    async with serving(*[OK] * 5, slowly=True) as (server, client):
        assert await asyncio.gather(*(post(server, client) for _ in range(5))) == [b"ok"] * 5
        assert server.connections == 5


@pytest.mark.parametrize(
    ("answer", "body", "kept"),
    [
        (OK, b"ok", True),
        (CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc", True),
        (b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end", b"to the end", False),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    ],
)
@pytest.mark.parametrize("slowly", [False, True])
async def test_an_answer_is_read_to_its_end(answer: bytes, body: bytes, kept: bool, slowly: bool) -> None:
    async with serving(answer, OK, slowly=slowly) as (server, client):
        reply = await client.post(server.url, content=b"request")
        assert reply.content == body
        assert "link" not in reply.headers
        assert await post(server, client) == b"ok"
        assert server.connections == (1 if kept else 2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "Server disconnected"),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\ncut",
            "not completed|Not enough data",
        ),
        (CHUNKED + b"3\r\ncut\r\nno size\r\n", "chunk size"),
        (b"220 mail.example.org ESMTP\r\n", "[Ss]tatus line"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: a\r\nconnection: upgrade\r\n\r\n", "HTTP 101"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "[Tt]oo many headers"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("slowly", [False, True])
async def test_what_is_not_whole_is_an_error(
    answer: bytes | None, reason: str, stream: bool, slowly: bool
) -> None:
    async with serving(answer, OK, slowly=slowly and len(answer or b"") < 1000) as (server, _):
        model = OpenAIModel("key", f"{server.url}/v1", "gpt-5.1")
        with pytest.raises(Eco2Error, match=reason):
            await model.complete(replace(CALL, stream=stream), "job", lambda _: None)
        await model.aclose()
        assert len(server.requests) == 1  # and not sent again
        await server.until_open(0)


async def test_what_nobody_asked_for_is_no_answer_to_the_next_request() -> None:
    async with serving(OK + OK.replace(b"ok", b"no"), OK) as (server, client):
        assert await post(server, client) == b"ok"
        assert await post(server, client) == b"ok"
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with serving(OK, OK) as (server, client):
        server.answers.insert(1, None)
        assert await post(server, client) == b"ok"
        with pytest.raises(httpx2.TransportError):
            await post(server, client)
        await server.until_open(0)
        assert await post(server, client) == b"ok"
        assert server.connections == 2


async def test_an_answer_that_is_not_read_to_its_end_ends_its_connection() -> None:
    async with serving(CHUNKED + b"2\r\nab\r\n", OK) as (server, client):
        async with client.stream("POST", server.url, content=b"request") as reply:
            assert await anext(reply.aiter_raw()) == b"ab"
        await server.until_open(0)
        assert await post(server, client) == b"ok"


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", CHUNKED])
async def test_a_cancelled_request_ends_its_connection(begun: bytes) -> None:
    async with serving(begun) as (server, client):
        request = asyncio.ensure_future(post(server, client))
        async with asyncio.timeout(PATIENCE):
            while not server.requests:  # noqa: ASYNC110 - the state is in a server
                await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await server.until_open(0)


async def test_a_body_that_nobody_reads_stops_its_sender() -> None:
    size = 50_000_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)
    async with serving(answer) as (server, client):
        async with client.stream("POST", server.url, content=b"request") as reply:
            await asyncio.sleep(0.2)  # the server writes as much as it can
            pieces = [len(piece) async for piece in reply.aiter_raw()]
        assert sum(pieces) == size
        assert max(pieces) < 1_000_000


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with serving(OK) as (server, client):
        with pytest.raises(ValueError, match="header"):
            await client.post(server.url, headers={"authorization": "key\r\nx-other: 1"}, content=b"")
        assert not server.requests


async def test_a_certificate_must_be_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=eco2 -days 2"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)  # noqa: ASYNC221
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    with pytest.raises(httpx2.TransportError, match="certificate verify failed"):
        async with serving(OK, tls=tls) as (server, client):
            await post(server, client)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    async with serving(OK, OK, tls=tls) as (server, client):
        assert [await post(server, client) for _ in range(2)] == [b"ok", b"ok"]
        assert server.connections == 1
        with pytest.raises(httpx2.TransportError, match="match"):
            await client.post(server.url.replace("127.0.0.1", "localhost"), content=b"")


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(COMPLETION) as (proxy, _):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        model = OpenAIModel("key", "http://provider.example/v1", "gpt-5.1")
        before_sending: list[int] = []

        async def gate() -> None:
            before_sending.append(len(proxy.requests))

        reply = await model.complete(CALL, "job", lambda _: None, gate)
        await model.aclose()
        assert reply.value == "네"
        assert before_sending == [0]
        assert proxy.requests[0].startswith(b"POST http://provider.example/v1/chat/completions HTTP/1.1")


@pytest.mark.parametrize("kept", [False, True])
async def test_a_call_that_must_not_be_sent_sends_no_byte_and_ends_its_connection(kept: bool) -> None:
    class TooOld(RetryableError):
        pass

    async with serving(COMPLETION) as (server, _):
        model = OpenAIModel("key", f"{server.url}/v1", "gpt-5.1")
        if kept:
            await model.complete(CALL, "job", lambda _: None)

        async def refuse() -> None:
            await server.until_open(1)
            raise TooOld("the grant is too old")

        with pytest.raises(TooOld):
            await model.complete(CALL, "job", lambda _: None, refuse)
        await server.until_open(0)
        assert (server.connections, len(server.requests), server.torn) == (1, int(kept), b"")
        await model.aclose()


async def test_a_connection_that_is_lost_before_the_call_may_be_sent_is_down() -> None:
    async with serving(OK) as (server, _):
        model = OpenAIModel("key", f"{server.url}/v1", "gpt-5.1")

        async def gate() -> None:
            for task in asyncio.all_tasks():
                if "respond" in repr(task.get_coro()):
                    task.cancel()
            await server.until_open(0)
            await asyncio.sleep(0.05)  # until the end has come

        with pytest.raises(ProviderDown):
            await model.complete(CALL, "job", lambda _: None, gate)
        assert not server.requests
        await model.aclose()


async def test_nobody_listens() -> None:
    async with serving() as (server, _):
        pass
    model = OpenAIModel("key", f"{server.url}/v1", "gpt-5.1")
    with pytest.raises(ProviderError, match="failed"):
        await model.complete(CALL, "job", lambda _: None)
    await model.aclose()
