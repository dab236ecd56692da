"""A proxy between one process and its broker that can lose a connection in the ways that networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from tests.proxy import Proxy

_HEADER = b"AMQP"
_FRAME = 8
"""Bytes of a frame beside its payload: type, channel, size before it, the end mark behind it."""
_PUBLISH = b"\x00\x3c\x00\x28"
"""Class and method of basic.publish."""


class Wire(Proxy):
    """Forwards everything, until told otherwise."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._lost = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Runs a wire to the server of `url` on a free loopback port."""
        wire = cls(url)
        server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        wire._port = server.sockets[0].getsockname()[1]
        try:
            yield wire
        finally:
            server.close()
            wire.cut()

    def half_open(self) -> None:
        """All connections stay open at both ends, and nothing passes any more; new ones are not concerned.

        So does a firewall that forgot them.
        """
        self._lost += 1

    def _sieve(self) -> "Sieve | None":
        """What one direction of a new connection goes through."""
        return None

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        born, sieve = self._lost, self._sieve()
        try:
            while data := await reader.read(65536):
                if born == self._lost:
                    writer.write(data if sieve is None else sieve.passed(data))
                    await writer.drain()
            if born == self._lost:
                writer.write_eof()
        except (ConnectionError, RuntimeError, OSError):
            if born == self._lost:
                writer.transport.abort()


class OrderWire(Wire):
    """Can keep back what is published to one queue, so that the broker never hears of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.kept_back = asyncio.Event()
        """Set once something was."""
        self.queue: bytes | None = None
        """What is published to it is kept back from now on, and all that its channel sends behind it."""

    def _sieve(self) -> "Sieve | None":
        return Sieve(self)


class Sieve:
    """Takes the frames of a connection apart and drops channels from a publish to the wire's queue on."""

    def __init__(self, wire: OrderWire) -> None:
        self._wire = wire
        self._rest = b""
        self._deaf: set[bytes] = set()

    def passed(self, data: bytes) -> bytes:
        """What goes on of `data`; the beginning of a frame is kept until its rest has come."""
        self._rest += data
        passed = []
        while (size := self._size()) is not None and len(self._rest) >= size:
            frame, self._rest = self._rest[:size], self._rest[size:]
            channel = frame[1:3]
            if self._unwanted(frame):
                self._deaf.add(channel)
                self._wire.kept_back.set()
            if channel not in self._deaf or frame.startswith(_HEADER):
                passed.append(frame)
        return b"".join(passed)

    def _size(self) -> int | None:
        if self._rest.startswith(_HEADER):
            return 8
        return _FRAME + int.from_bytes(self._rest[3:7], "big") if len(self._rest) >= 7 else None

    def _unwanted(self, frame: bytes) -> bool:
        """Class, method, two bytes, the default exchange's empty name, then the queue's name."""
        queue = self._wire.queue
        if queue is None or frame[7:11] != _PUBLISH:
            return False
        return frame[14:].startswith(bytes([len(queue)]) + queue)
