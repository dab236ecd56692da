"""A TCP proxy that cuts connections on demand, so that tests need not restart a broker to lose one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Forwards every connection to `host:port`; `url` is the given URL with our port in it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.refusing = False
        """True: new connections are cut at once, as if nobody were behind."""

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator["Proxy"]:
        """Runs a proxy to the server of `url` on a free loopback port."""
        proxy = cls(url)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy._port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()

    @property
    def url(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}{at}127.0.0.1:{self._port}").geturl()

    def lead_to(self, url: str) -> None:
        """Connections from now on go to the server of `url`; open ones stay where they are."""
        self._target = urlsplit(url)

    def cut(self) -> None:
        """Every open connection ends without a goodbye, in both directions."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            out_reader, out_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port or 5672
            )
        except OSError:
            writer.transport.abort()
            return
        both = {writer, out_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward(reader, out_writer))
                directions.create_task(self._forward(out_reader, writer))
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (ConnectionError, RuntimeError, OSError):
            writer.transport.abort()
