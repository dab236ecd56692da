"""A proxy of two gateways that cuts event streams where a test wants it; connections go to them in turn."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import httpx

How = Literal["RST", "FIN"]


@dataclass(frozen=True)
class Cut:
    """Where a stream ends, as the end of what `where` matches, and how: by a reset, or as a whole body."""

    where: bytes
    how: How


def after(stage: bytes, status: bytes, how: How) -> Cut:
    """Behind the whole event."""
    return Cut(rb'event: %s\ndata: [^\n]*"status":"%s"[^\n]*\nid: \S+\n\n' % (stage, status), how)


def inside(stage: bytes, status: bytes, how: How) -> Cut:
    """In the middle of the event's data."""
    return Cut(rb'event: %s\ndata: [^\n]*"status":"%s"' % (stage, status), how)


@dataclass
class Front:
    """`url`: where it listens; `statuses`: what streams were answered with, in order."""

    gateways: Sequence[str]
    cuts: Sequence[Cut]
    url: str = ""
    statuses: list[int] = field(default_factory=list)
    _cut: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.rstrip("\r\n").split("\r\n")
            method, path, _ = request.split(" ")
            sent = dict(line.split(": ", 1) for line in lines)
            headers = {
                name: value for name, value in sent.items() if name.lower() not in ("host", "connection")
            }
            gateway = self.gateways[len(self.statuses) % len(self.gateways)]
            async with (
                httpx.AsyncClient(timeout=30, trust_env=False) as http,
                http.stream(method, gateway + path, headers=headers) as answer,
            ):
                if method == "GET":
                    self.statuses.append(answer.status_code)
                await self._pass_on(answer, writer, sent.get("Origin"))
        except (OSError, asyncio.IncompleteReadError, httpx.HTTPError):
            writer.transport.abort()

    async def _pass_on(
        self, answer: httpx.Response, writer: asyncio.StreamWriter, origin: str | None
    ) -> None:
        chunked = answer.status_code == 200
        kept = [
            f"{name}: {value}"
            for name, value in answer.headers.items()
            if name not in ("transfer-encoding", "connection", "content-length")
        ]
        kept += ["connection: close"] + (["transfer-encoding: chunked"] if chunked else [])
        kept += [f"access-control-allow-origin: {origin}"] if origin else []
        start = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"
        writer.write("\r\n".join([start, *kept, "", ""]).encode("latin-1"))
        body = b""
        async for piece in answer.aiter_raw():
            found = (
                re.search(self.cuts[self._cut].where, body + piece) if self._cut < len(self.cuts) else None
            )
            passed = piece[: found.end() - len(body)] if found else piece
            body += piece
            if chunked and passed:
                writer.write(b"%x\r\n%s\r\n" % (len(passed), passed))
                await writer.drain()
            if found:
                cut, self._cut = self.cuts[self._cut], self._cut + 1
                if cut.how == "RST":
                    await _reset(writer)
                    return
                break
        writer.write(b"0\r\n\r\n" if chunked else b"")
        await writer.drain()
        writer.close()


async def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection with a TCP reset, once the client's kernel has all that was written."""
    connection: socket.socket = writer.get_extra_info("socket")
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def front(gateways: Sequence[str], cuts: Sequence[Cut]) -> AsyncIterator[Front]:
    """Runs a front on a free port."""
    one = Front(gateways, cuts)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    async with server:
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield one
