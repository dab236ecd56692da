"""One HTTP connection: uvicorn's protocol, with two limits that it lacks.

A head (request line and headers) of any length would be held in memory, so it is cut at `MOST_HEAD`. And a
connection whose client reads nothing would stay until its buffer is empty, so the application can abort it.
"""

from collections.abc import Callable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 64 * 1024
"""Bytes of a request before its body, beyond the piece in which it began; proxies stop far below."""
_EXTENSION = "eco2.abort"


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """What ends the request's connection at once, whatever is still to be sent; None on other servers."""
    abort: Callable[[], None] | None = scope.get("extensions", {}).get(_EXTENSION, {}).get("abort")
    return abort


class Protocol(HttpToolsProtocol):
    _in_head = False
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        known = self._in_head
        super().data_received(data)
        self._head = self._head + len(data) if known and self._in_head else 0
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The request line and headers are too long.")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._in_head = True
        self.scope["extensions"] = {_EXTENSION: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        super().on_headers_complete()
