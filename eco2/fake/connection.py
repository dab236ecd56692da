"""A uvicorn protocol that lets an endpoint reset its connection, as a provider that crashes would."""

import asyncio
import socket
import struct
from collections.abc import Callable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "eco2.reset"


class ResettableProtocol(HttpToolsProtocol):
    """Offers the reset to the endpoint as an ASGI extension."""

    def on_message_begin(self) -> None:
        """Called by the parser for every request, before its headers."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"reset": self._reset}}

    def _reset(self) -> None:
        reset(self.transport)


def reset(transport: asyncio.Transport) -> None:
    """Drops the connection so that the peer sees ECONNRESET: a linger of 0 s sends RST instead of FIN."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def reset_connection(scope: Scope) -> None:
    """Resets the connection of this request. Raises RuntimeError under a server that cannot."""
    offer = scope.get("extensions", {}).get(EXTENSION)
    if offer is None:
        raise RuntimeError("the fault `disconnect` needs eco2.fake.server.serve, not another ASGI server")
    act: Callable[[], None] = offer["reset"]
    act()
