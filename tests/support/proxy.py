"""A TCP proxy that cuts, stalls or slows connections on demand, so that tests need not harm a broker.

`cut` is a crash, `stall` a half-open connection (a pulled cable, a firewall that forgot it), `delay` a long
way.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Forwards every connection to `host:port`; `url` is the given URL with our port in it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._connections: set[Connection] = set()
        self._port = 0
        self.refusing = False
        """True: new connections are cut at once, as if nobody were behind."""
        self.delay = 0.0
        """Seconds that everything takes longer, in each direction and in its order; may change meanwhile."""

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
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

    @property
    def open(self) -> int:
        """Connections that are open at present, stalled ones included."""
        return len(self._connections)

    def lead_to(self, url: str) -> None:
        """Connections from now on go to the server of `url`; open ones stay where they are."""
        self._target = urlsplit(url)

    def cut(self) -> None:
        """Every open connection ends without a goodbye, in both directions."""
        for connection in self._connections:
            connection.cut()

    def stall(self) -> None:
        """Open connections stay open and carry nothing, not even the news of an end; new ones work."""
        for connection in self._connections:
            connection.flowing.clear()

    def flow(self) -> None:
        """Stalled connections go on where they stopped; nothing of what was sent meanwhile is missing."""
        for connection in self._connections:
            connection.flowing.set()

    def sieve(self) -> "Sieve":
        """What one direction of a new connection goes through."""
        return bytes

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
        connection = Connection(self, writer, out_writer)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(connection.forward(reader, out_writer))
                directions.create_task(connection.forward(out_reader, writer))
        finally:
            self._connections.discard(connection)
            connection.cut()


Sieve = Callable[[bytes], bytes]
"""What comes in, to what goes on."""


class Connection:
    """One client's connection through the proxy; it carries data while `flowing` is set."""

    def __init__(self, proxy: Proxy, *writers: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = writers
        self.flowing = asyncio.Event()
        self.flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.flowing.set()  # what waits finds out

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, to its end. Its two ends take turns of their own, so that a delay is no dam."""
        way = Way()
        try:
            async with asyncio.TaskGroup() as ends:
                ends.create_task(self._fill(way, reader))
                ends.create_task(self._empty(way, writer))
        except* (OSError, RuntimeError):
            writer.transport.abort()

    async def _fill(self, way: "Way", reader: asyncio.StreamReader) -> None:
        sieve = self._proxy.sieve()
        data: bytes | None = b""
        while data is not None:
            try:
                data = await reader.read(65536) or None
            except OSError:
                data = None
            if data is not None:
                data = sieve(data)
            await way.put(data, asyncio.get_running_loop().time() + self._proxy.delay)

    async def _empty(self, way: "Way", writer: asyncio.StreamWriter) -> None:
        while (data := await way.get()) is not None:
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        await self.flowing.wait()  # the end is news, too
        writer.write_eof()


class Way:
    """Data on the way, each with the loop time at which it arrives; None is the end. It holds a megabyte."""

    def __init__(self) -> None:
        self._data: deque[tuple[bytes | None, float]] = deque()
        self._size = 0
        self._changed = asyncio.Condition()

    async def put(self, data: bytes | None, due: float) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < 2**20)
            self._data.append((data, due))
            self._size += len(data or b"")
            self._changed.notify_all()

    async def get(self) -> bytes | None:
        """The next data, when it has arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._data))
            data, due = self._data.popleft()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        async with self._changed:
            self._size -= len(data or b"")
            self._changed.notify_all()
        return data
