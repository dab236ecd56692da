"""Runs the fake on a port until it is told to stop. It never touches signals: its caller owns those.

Stopping is abrupt on purpose: open connections are dropped, as they would be if the provider went away.
"""

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import uvicorn

from eco2.errors import ConfigurationError
from eco2.fake.app import build
from eco2.fake.config import FakeConfig
from eco2.fake.connection import ResettableProtocol


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, that says when it listens and drops what is open when it ends."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


async def serve(
    config: FakeConfig, host: str, port: int, stop: asyncio.Event, on_port: Callable[[int], None]
) -> None:
    """Serves until `stop` is set. Port 0 takes a free one; `on_port` gets the real one once it listens.

    Raises ConfigurationError if the port cannot be had, or the log file cannot be written.
    """
    with ExitStack() as resources:
        listener = resources.enter_context(_bind(host, port))
        sink = None
        if config.log_path is not None:
            sink = resources.enter_context(_open(config.log_path)).write
        options = uvicorn.Config(
            build(config, sink=sink),
            http=ResettableProtocol,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_keep_alive=75,  # longer than any client's pool, so that the client closes first
            timeout_graceful_shutdown=5,
        )
        bound: int = listener.getsockname()[1]
        server = _Server(options, on_listening=lambda: on_port(bound))
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(_exit_on(stop, server))
            await server.serve([listener])
            waiter.cancel()


async def _exit_on(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error}): choose another --port, 0 for any"
        ) from error


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the call log {path} ({error}): choose another path"
        ) from error
