"""Proxies that hold single frames back and let all else pass: orders, confirms, records of a stream."""

import asyncio

from tests.support.proxy import Proxy

_HEADER = b"AMQP"
_FRAME = 8
"""Bytes of a frame beside its payload: type, channel, size before it, the end mark behind it."""
_PUBLISH = b"\x00\x3c\x00\x28"
"""Class and method of basic.publish."""
_DELIVER = b"\x00\x3c\x00\x3c"
_CONFIRMS = (b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78")
"""basic.ack and basic.nack: from the broker, the confirm of a publish."""
_METHOD = 1
"""The frame type of a method; header and body of a message follow theirs on the same channel."""


class OrderWire(Proxy):
    """Passes everything until it is told what to keep back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.kept_back = asyncio.Event()
        """Set once something was."""
        self.queue: bytes | None = None
        """What is published to it is kept back from now on, and all that its channel sends behind it: else
        the confirms of later messages would count for it."""

    def sieve(self) -> "OrderFrames":
        return OrderFrames(self)


class Frames:
    """One direction of a connection, taken apart into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self.from_client = False

    def __call__(self, data: bytes) -> bytes:
        """What goes on of `data`; the beginning of a frame is kept until its rest has come."""
        self._rest += data
        passed = []
        while (size := self._size()) is not None and len(self._rest) >= size:
            frame, self._rest = self._rest[:size], self._rest[size:]
            if frame.startswith(_HEADER):
                self.from_client = True
                passed.append(frame)
            elif self.passes(frame):
                passed.append(frame)
        return b"".join(passed)

    def passes(self, frame: bytes) -> bool:
        """Whether the frame goes on."""
        raise NotImplementedError

    def _size(self) -> int | None:
        if self._rest.startswith(_HEADER):
            return 8
        return _FRAME + int.from_bytes(self._rest[3:7], "big") if len(self._rest) >= 7 else None


class OrderFrames(Frames):
    """A channel ends where it publishes to the wire's queue."""

    def __init__(self, wire: OrderWire) -> None:
        super().__init__()
        self._wire = wire
        self._deaf: set[bytes] = set()

    def passes(self, frame: bytes) -> bool:
        queue, channel = self._wire.queue, frame[1:3]
        if queue is not None and _publishes(frame, queue):
            self._deaf.add(channel)
            self._wire.kept_back.set()
        return channel not in self._deaf


class StreamWire(Proxy):
    """Open connections can be made to bring no confirms, or no records, of `stream`; new ones are whole."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.stream = b""
        self.channels: set[bytes] = set()
        """Those on which the process publishes to the stream; it does so on one connection only."""
        self._frames: list[StreamFrames] = []

    def sieve(self) -> "StreamFrames":
        self._frames.append(StreamFrames(self))
        return self._frames[-1]

    def withhold(self) -> None:
        """What is published to the stream takes effect, and no confirm of it comes back."""
        for frames in self._frames:
            frames.withheld = True

    def silence(self) -> None:
        """Consumers of the stream get nothing more."""
        for frames in self._frames:
            frames.silent = True


class StreamFrames(Frames):
    """One direction of a connection; only what comes from the broker is held back."""

    def __init__(self, wire: StreamWire) -> None:
        super().__init__()
        self._wire = wire
        self.withheld = self.silent = False
        self._skipping: set[bytes] = set()
        """Channels whose present message is held back."""

    def passes(self, frame: bytes) -> bool:
        channel = frame[1:3]
        if self.from_client:
            if _publishes(frame, self._wire.stream):
                self._wire.channels.add(channel)
            return True
        if frame[0] != _METHOD:
            return channel not in self._skipping
        self._skipping.discard(channel)
        if self.silent and frame[7:11] == _DELIVER and frame[:-1].endswith(_short(self._wire.stream)):
            self._skipping.add(channel)
            return False
        return not (self.withheld and frame[7:11] in _CONFIRMS and channel in self._wire.channels)


def _publishes(frame: bytes, queue: bytes) -> bool:
    """Class, method, two bytes, the default exchange's empty name, then the queue's name."""
    return frame[7:11] == _PUBLISH and frame[14:].startswith(_short(queue))


def _short(text: bytes) -> bytes:
    """A short string of AMQP."""
    return bytes([len(text)]) + text
