"""Runs the fake on a port until it is stopped. Its caller handles signals.

It stops abruptly on purpose: open connections are dropped, as if the provider were lost.
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


class AbruptServer(uvicorn.Server):
    """uvicorn without signal handlers; it reports when it listens, and drops open connections at its end."""

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
    """Serves until `stop` is set. Port 0: any free port; `on_port` gets the port once it listens.

    Raises `ConfigurationError` if the port is taken, or the log file cannot be written.
    """
    with ExitStack() as resources:
        listener = resources.enter_context(bind(host, port))
        sink = None
        if config.log_path is not None:
            sink = resources.enter_context(open_log(config.log_path)).write
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
        server = AbruptServer(options, on_listening=lambda: on_port(bound))

        async def exit_on_stop() -> None:
            await stop.wait()
            server.should_exit = True

        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(exit_on_stop())
            await server.serve([listener])
            waiter.cancel()


def bind(host: str, port: int) -> socket.socket:
    """Opens the listening socket. Raises `ConfigurationError`."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error}): choose another --port, 0 for any"
        ) from error


def open_log(path: str) -> BinaryIO:
    """Opens the log file. Raises `ConfigurationError`."""
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the call log {path} ({error}): choose another path"
        ) from error
