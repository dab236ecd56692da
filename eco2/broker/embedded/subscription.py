"""A standing wish for messages: attached whenever there is a connection, over any number of them."""

from collections.abc import Callable
from typing import Protocol

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.stream import Log, Tail
from eco2.ports import Record, Start


class Link(Protocol):
    """One attachment of a subscription to one connection."""

    def cancel(self) -> None:
        """No callback after this."""


class Standing:
    """`ports.Subscription`. `link` attaches it to a connection; `forget` is told when it is cancelled."""

    def __init__(self, link: Callable[[Channel], Link], forget: "Callable[[Standing], None]") -> None:
        self._make_link = link
        self._forget = forget
        self._link: Link | None = None
        self._cancelled = False

    @property
    def attached(self) -> bool:
        return self._link is not None

    def attach(self, channel: Channel) -> None:
        """Attaches it to `channel`, unless it is attached, cancelled or too late."""
        if self._link is None and channel.open and not self._cancelled:
            self._link = self._make_link(channel)

    def detach(self) -> None:
        """The connection is going."""
        if self._link is not None:
            self._link.cancel()
            self._link = None

    async def cancel(self) -> None:
        self._cancelled = True
        self.detach()
        self._forget(self)


class Following:
    """The wish behind a tail: remembers over all connections how far it came."""

    def __init__(self, log: Callable[[], Log], start: Start, on_record: Callable[[Record], None]) -> None:
        self._log = log
        self._start = start
        self._on_record = on_record
        self._last: Tail | None = None

    def link(self, _: Channel) -> Tail:
        """Goes on behind the last record that was handed over."""
        log = self._log()
        position = log.resolve(self._start) if self._last is None else self._last.position
        self._last = Tail(log, position, self._on_record)
        return self._last
