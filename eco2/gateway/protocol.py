"""One HTTP connection: uvicorn's protocol, with the limits that it lacks.

It is the only owner of a connection's time: a head must be complete in `head` seconds, and what is written
must be taken with pauses of at most `write` seconds. An offer of another protocol (`Upgrade`) is declined as
RFC 9110 has it: the request is answered as if it were not there. The price is one look a second at each
connection, and one more parse of a head with such an offer.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eco2.gateway.guard import SECURITY_HEADERS, secured
from eco2.gateway.problem import problem
from eco2.log import get_logger

MAX_HEAD = 64 * 1024
"""Bytes of a request before its body, beyond the piece in which it began; proxies stop far below."""
MAX_TARGET = 8 * 1024
"""Bytes of a request's path and query: parsing a query is slow, and none of ours is long."""
MAX_HEADERS = 200
KERNEL_MARGIN = 5.0
"""Seconds beyond `ConnectionLimits.write` until the kernel gives up a client that acknowledges nothing."""
_EXTENSION = "eco2.stalled"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may take; times are seconds.

    `connections`: that are served at once; more are answered 503. `head`: for the head of a request, from the
    accept or its first byte. `write`: without the client taking a byte of what was written. `rest`: for the
    rest of a body whose request was answered already. `pipelined`: requests that wait on one connection.
    """

    connections: int = 4_000
    head: float = 10.0
    write: float = 30.0
    rest: float = 30.0
    pipelined: int = 8

    @property
    def most_connections(self) -> int:
        """Beyond this they are closed at once: an answer, too, takes a descriptor for a while."""
        return self.connections + max(8, self.connections // 8)

    @property
    def period(self) -> float:
        """Seconds between two looks at a connection."""
        return min(1.0, min(self.head, self.write, self.rest) / 4)


def stalled(scope: Scope) -> bool:
    """True if the request's connection was ended because its client took nothing for too long."""
    told: Callable[[], bool] | None = scope.get("extensions", {}).get(_EXTENSION, {}).get("stalled")
    return told is not None and told()


class _Counted:
    """A transport that counts what is written to it: what its buffer lacks of that, the client has taken."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._written = 0

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    @property
    def taken(self) -> int:
        """Bytes that went to the kernel."""
        pending: int = self._transport.get_write_buffer_size()
        return self._written - pending

    @property
    def pending(self) -> bool:
        return bool(self._transport.get_write_buffer_size())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """`limits` first, then what uvicorn gives."""

    transport: Any
    pipeline: Any

    def __init__(self, limits: ConnectionLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._awaits_head = True
        self._in_head = False
        self._in_body = False
        self._ignores = False
        self._last = False
        self._head = 0
        self._offer: bytes | None = None
        self._age = 0.0
        self._rest_age = 0.0
        self._write_age = 0.0
        self._taken = 0
        self._stalled = False

    # --- called by the transport

    def connection_made(self, transport: Any) -> None:
        """Called by the transport."""
        super().connection_made(_Counted(transport))  # type: ignore[arg-type]
        if len(self.connections) > self._limits.most_connections:
            transport.abort()
            return
        if len(self.connections) > self._limits.connections:
            self.app = secured(_too_many)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            # The little that a stream writes fits the kernel's buffer, so a client that vanished is not seen
            # here, and the kernel would send again for 15 minutes. Later than `check`, which counts them.
            milliseconds = round((self._limits.write + KERNEL_MARGIN) * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._unset_keepalive_if_required()
        if not (self._awaits_head or self._in_body):
            self._awaits_head, self._age = True, 0.0
        known = self._in_head
        self._feed(data)
        self._head = self._head + len(data) if known and self._in_head else 0
        if self._head > MAX_HEAD:
            self._refuse(400, "the request line and headers are too long")

    def _feed(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._offer is None:  # CONNECT, which is refused: what follows is not HTTP
                    self._ignores = True
                    return
                data, self._offer = self._offer + data, None
                self._new_parser()
            except httptools.HttpParserError:
                self._refuse(400, "this is no HTTP request that can be read")
            else:
                return

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    # --- called by the parser

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._ignores:
            return
        super().on_message_begin()
        self._in_head, self._awaits_head = True, True
        self.scope["extensions"] = {_EXTENSION: {"stalled": lambda: self._stalled}}

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        if not self._ignores:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if not self._ignores and len(self.headers) <= MAX_HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = self._awaits_head = False
        if self._ignores:
            return
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, f"the request has more than {MAX_HEADERS} headers")
            return
        if len(self.url) > MAX_TARGET:
            self._refuse(414, f"the path and query are longer than {MAX_TARGET} bytes")
            return
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offer = self._head_without_offer()
            return
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        self._in_body = True
        super().on_headers_complete()
        if len(self.pipeline) >= self._limits.pipelined:
            self._last, self.cycle.keep_alive = True, False

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self._ignores:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._ignores or self._offer is not None:
            return
        self._in_body, self._rest_age = False, 0.0
        super().on_message_complete()
        self._ignores = self._last

    def on_response_complete(self) -> None:
        """Called when a response is written."""
        self._awaits_head = self._in_head  # from here on the time-out of idle connections counts
        super().on_response_complete()

    def _head_without_offer(self) -> bytes:
        """httptools skips the body of a request with `Upgrade`, so the parser must not see that header."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    # --- time

    def check(self, seconds: float) -> None:
        """Ends the connection if its client has had its time; `seconds` since the last look."""
        if self.transport.is_closing():
            return
        if self._write_overdue(seconds):
            self._stalled = True
            log.info("connection ended: the client takes nothing", seconds=self._limits.write)
            self.transport.abort()
        elif self._head_overdue(seconds) or self._rest_overdue(seconds):
            self.transport.abort()

    def _write_overdue(self, seconds: float) -> bool:
        taken = self.transport.taken
        waits = self.transport.pending and taken == self._taken
        self._taken, self._write_age = taken, self._write_age + seconds if waits else 0.0
        return self._write_age > self._limits.write

    def _head_overdue(self, seconds: float) -> bool:
        """A client cannot send a head while nothing is read, or be blamed for a line break after a body."""
        if self.flow.read_paused or not (self._in_head or (self._awaits_head and self._idle)):
            return False
        self._age += seconds
        return self._age > self._limits.head

    def _rest_overdue(self, seconds: float) -> bool:
        if not (self._in_body and self._idle):
            return False
        self._rest_age += seconds
        return self._rest_age > self._limits.rest

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    # --- refusals

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn."""
        self._refuse(400, msg)

    def _refuse(self, status: int, detail: str) -> None:
        """Answers a request that no application sees, and closes."""
        self._ignores = True
        if self.transport.is_closing():
            return
        if self._idle or not (self.pipeline or self.cycle.response_started):  # else in the middle of another
            codes = {414: "URI_TOO_LONG", 431: "HEADERS_TOO_LARGE"}
            response = problem(status, codes.get(status, "BAD_REQUEST"), detail)
            lines = [b"HTTP/1.1 %d Refused" % status, b"connection: close"]
            lines += [b"%s: %s" % pair for pair in response.raw_headers]
            lines += [f"{name}: {value}".encode() for name, value in SECURITY_HEADERS.items()]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "2", "Connection": "close"}
    detail = "this gateway has as many connections as it takes; try again soon"
    await problem(503, "TOO_MANY_CONNECTIONS", detail, headers)(scope, receive, send)
