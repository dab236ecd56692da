"""One HTTP connection: uvicorn's protocol, with the limits that it lacks.

It is the only owner of a connection's time: a head must be complete in `head` seconds, and the client must
read what is written with pauses of at most `write` seconds. An offer of another protocol (`Upgrade`) is
declined as RFC 9110 has it: the request is answered as if the offer were not there. The price is one check
per second of each connection, and one more parse of a head with such an offer.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eco2.gateway.problem import problem
from eco2.log import get_logger

MAX_HEAD = 64 * 1024
"""Bytes of a request before its body, beyond the piece in which it began; proxies stop far below."""
MAX_TARGET = 8 * 1024
"""Bytes of a request's path and query: parsing a query is slow, and none of ours is long."""
MAX_HEADERS = 200
KERNEL_MARGIN = 5.0
"""Seconds beyond `ConnectionLimits.write` after which the kernel drops a client that acknowledges nothing."""
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'"),
)
"""Headers of every response; uvicorn adds them, also to its own."""
_EXTENSION = "eco2.stalled"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits of connections; times are seconds.

    `connections`: number that is served at once; more are answered 503. `head`: for the head of a request,
    from the accept or its first byte. `write`: without the client reading a byte of what was written. `rest`:
    for the rest of a body whose request was answered already. `pipelined`: requests that wait on one
    connection.
    """

    connections: int = 4_000
    head: float = 10.0
    write: float = 30.0
    rest: float = 30.0
    pipelined: int = 8

    @property
    def max_connections(self) -> int:
        """The number beyond which they are closed at once: a refusal takes a descriptor for a while, too."""
        return self.connections + max(8, self.connections // 8)

    @property
    def period(self) -> float:
        """Seconds between two checks of a connection."""
        return min(1.0, min(self.head, self.write, self.rest) / 4)


def stalled(scope: Scope) -> bool:
    """Returns True if the connection was ended because its client read nothing for too long."""
    was_stalled: Callable[[], bool] | None = scope.get("extensions", {}).get(_EXTENSION, {}).get("stalled")
    return was_stalled is not None and was_stalled()


class CountingTransport:
    """A transport that counts what is written to it: the client has taken what its buffer lacks of that."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._written = 0
        self.abort = transport.abort
        self.close = transport.close
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        """Counts the data and passes it on."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def taken(self) -> int:
        """The bytes that went to the kernel."""
        pending: int = self.get_write_buffer_size()
        return self._written - pending


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
        self._head_age = 0.0
        self._rest_age = 0.0
        self._write_age = 0.0
        self._taken = 0
        self._stalled = False

    # --- called by the transport

    def connection_made(self, transport: Any) -> None:
        """Called by the transport."""
        super().connection_made(CountingTransport(transport))  # type: ignore[arg-type]
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
            return
        if len(self.connections) > self._limits.connections:
            detail = "this gateway serves as many connections as it can; try again soon"
            headers = {"Retry-After": "2", "Connection": "close"}
            self.app = problem(503, "TOO_MANY_CONNECTIONS", detail, headers)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            # The little that a stream writes fits the kernel's buffer, so `check` does not notice a client
            # that vanished, and the kernel would retransmit for 15 minutes. Later than `check`, which counts.
            milliseconds = round((self._limits.write + KERNEL_MARGIN) * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._unset_keepalive_if_required()
        if not (self._awaits_head or self._in_body):
            self._awaits_head, self._head_age = True, 0.0
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
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            except httptools.HttpParserError:
                self._refuse(400, "this is no HTTP request that can be read")
            else:
                return

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
        """Returns the head without `Upgrade`, since httptools skips the body of a request that has it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    # --- time

    def check(self, seconds: float) -> None:
        """Ends the connection if its client has used up its time; `seconds` since the last check."""
        if self.transport.is_closing():
            return
        taken, limits = self.transport.taken, self._limits
        waits = taken == self._taken and self.transport.get_write_buffer_size() > 0
        self._taken, self._write_age = taken, self._write_age + seconds if waits else 0.0
        # A client cannot send a head while nothing is read; nor does a line break after a body begin one.
        if not self.flow.read_paused and (self._in_head or (self._awaits_head and self.idle)):
            self._head_age += seconds
        if self._in_body and self.idle:
            self._rest_age += seconds
        if self._write_age > limits.write:
            self._stalled = True
            log.info("connection ended: the client reads nothing", seconds=limits.write)
            self.transport.abort()
        elif self._head_age > limits.head or self._rest_age > limits.rest:
            self.transport.abort()

    @property
    def idle(self) -> bool:
        """True while no response is awaited."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    # --- refusals

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn."""
        self._refuse(400, msg)

    def _refuse(self, status: int, detail: str) -> None:
        """Answers a request that no application receives, and closes the connection."""
        self._ignores = True
        if self.transport.is_closing():
            return
        if self.idle or not (self.pipeline or self.cycle.response_started):  # else in the middle of another
            codes = {414: "URI_TOO_LONG", 431: "HEADERS_TOO_LARGE"}
            response = problem(status, codes.get(status, "BAD_REQUEST"), detail)
            headers = [(b"connection", b"close"), *self.server_state.default_headers, *response.raw_headers]
            lines = [b"HTTP/1.1 %d Refused" % status, *(b"%s: %s" % pair for pair in headers)]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
