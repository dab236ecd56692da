"""Whether the own tail shows what the broker confirmed: the only proof that a tail is alive.

A connection that stands proves nothing. A tail may have fallen silent on it, or the stream may be another one
in which its position lies beyond the end.
"""

import asyncio

from eco2.ports import Appender, Record


class Echo:
    """Appends to `stream` for the outbox, and notes when the tail shows what was appended.

    One message at a time is looked for: the log has one order, so the later ones follow it.
    """

    def __init__(self, stream: Appender) -> None:
        self._stream = stream
        self._awaited: bytes | None = None
        self._confirmed: float | None = None
        self._shown = 0.0

    async def append(self, body: bytes, message_id: str) -> None:
        """See `ports.Appender.append`."""
        if self._confirmed is None:
            self._awaited = body
        await self._stream.append(body, message_id)
        if body is self._awaited and self._confirmed is None:
            self._confirmed = _now()

    def show(self, record: Record) -> None:
        """The tail shows a record."""
        self._shown = _now()
        if record.body == self._awaited:
            self._awaited = self._confirmed = None

    def begin(self) -> None:
        """Another log, or another way to it: what was confirmed before says nothing."""
        self._awaited = self._confirmed = None
        self._shown = _now()

    @property
    def behind(self) -> float:
        """Seconds since the oldest confirmed message that the tail has not shown; 0.0 without one."""
        return 0.0 if self._confirmed is None else _now() - self._confirmed

    @property
    def silence(self) -> float:
        """Seconds since the tail showed anything."""
        return _now() - self._shown


def _now() -> float:
    return asyncio.get_running_loop().time()
