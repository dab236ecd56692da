"""Serves an application on a socket until `stop` is set.

`stop` must be set before uvicorn begins to exit: uvicorn waits for open event streams, and `stop` ends those.
Signals are not touched here; the service owns them.
"""

import asyncio
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from eco2.errors import ConfigurationError
from eco2.gateway.protocol import SECURITY_HEADERS, ConnectionLimits, Protocol
from eco2.log import get_logger

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open; proxies usually close theirs after 60 s, and must be first."""
GRACE = 10
"""Seconds that a stop waits for open responses."""
RESERVED_FILES = 128
"""Descriptors for other purposes than clients: the broker, the provider, libraries, logs."""

log = get_logger(__name__)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], period: float, stop: asyncio.Event
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._period = period
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Checks the connections every `period` seconds until it stops; uvicorn's wakes every 0.1 s."""
        checked = time.monotonic()
        while not self._stop.is_set():
            await self.on_tick(0)  # renews the header `Date`
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period):
                    await self._stop.wait()
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    # A blocked loop reads nothing: that time does not count against the clients.
                    connection.check(min(now - checked, 2 * self._period))
            checked = now
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_port: Callable[[int], None],
    advice: str = "choose another address or port",
    limits: ConnectionLimits | None = None,
) -> None:
    """Serves until `stop` is set and open responses have ended. Port 0 takes a free one.

    `on_port(port)` is called when it listens. Raises `ConfigurationError`, with `advice`, if it cannot.
    """
    limits = within_open_files(limits or ConnectionLimits())
    listener = _listen(host, port, advice)
    bound: int = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=cast(type[asyncio.Protocol], partial(Protocol, limits)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(SECURITY_HEADERS),
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(config, lambda: on_port(bound), limits.period, stop)
    log.info("listening", host=host, port=bound)
    if not await _run(server, listener):
        raise ConfigurationError("the HTTP application did not start; the log has the reason")
    log.info("closed", host=host, port=bound)


def within_open_files(limits: ConnectionLimits) -> ConnectionLimits:
    """Returns `limits` with no more connections than the process may have descriptors for.

    A process without free descriptors answers nothing, not even its probes.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, (soft - RESERVED_FILES) * 8 // 9)
    if soft == resource.RLIM_INFINITY or limits.connections <= most:
        return limits
    log.warning(
        "fewer connections than ECO2_MAX_CONNECTIONS: raise the limit of open files",
        most=most,
        open_files=soft,
    )
    return replace(limits, connections=most)


async def _run(server: uvicorn.Server, listener: socket.socket) -> bool:
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn raises it if the application did not start
        return False
    except asyncio.CancelledError:
        # Another component failed. uvicorn's lifespan task is in no group: left to the end of the loop, it
        # would log that component's error again, as a traceback.
        async with asyncio.timeout(GRACE):
            await server.lifespan.shutdown()
        raise
    else:
        return True
    finally:
        listener.close()


def _listen(host: str, port: int, advice: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error).partition(" (while attempting")[0]
        raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}; {advice}") from error
