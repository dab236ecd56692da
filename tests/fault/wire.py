"""A proxy that keeps a process's work orders from the broker, frame by frame, and lets all else pass."""

import asyncio

from tests.proxy import Proxy

_HEADER = b"AMQP"
_FRAME = 8
"""Bytes of a frame beside its payload: type, channel, size before it, the end mark behind it."""
_PUBLISH = b"\x00\x3c\x00\x28"
"""Class and method of basic.publish."""


class OrderWire(Proxy):
    """Passes everything until it is told what to keep back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.kept_back = asyncio.Event()
        """Set once something was."""
        self.queue: bytes | None = None
        """What is published to it is kept back from now on, and all that its channel sends behind it: else
        the confirms of later messages would count for it."""

    def sieve(self) -> "Frames":
        return Frames(self)


class Frames:
    """One direction of a connection, taken apart: a channel ends where it publishes to the wire's queue."""

    def __init__(self, wire: OrderWire) -> None:
        self._wire = wire
        self._rest = b""
        self._deaf: set[bytes] = set()

    def __call__(self, data: bytes) -> bytes:
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
