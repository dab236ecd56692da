"""A uvicorn protocol that lets an endpoint reset its connection, as a crashing provider does."""

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
        self.scope["extensions"] = {EXTENSION: {"reset": lambda: reset(self.transport)}}


def reset(transport: asyncio.Transport) -> None:
    """Resets the connection: with a linger of 0 s the peer gets RST instead of FIN."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def reset_connection(scope: Scope) -> None:
    """Resets the connection of this request. Raises RuntimeError under a server that cannot."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    if extension is None:
        raise RuntimeError("the fault `disconnect` needs eco2.fake.server.serve, not another ASGI server")
    act: Callable[[], None] = extension["reset"]
    act()
