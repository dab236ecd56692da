"""Subscriptions that outlive connections: each is attached again to every new connection."""

from collections.abc import Callable
from typing import Protocol

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.stream import Log, Tail
from eco2.broker.position import Position


class Link(Protocol):
    """One attachment of a subscription to one connection."""

    def cancel(self) -> None:
        """No callback after this."""


class EmbeddedSubscription:
    """`ports.Subscription`. `link` attaches it to a connection; `forget` is called when it is cancelled."""

    def __init__(
        self, link: Callable[[Channel], Link], forget: "Callable[[EmbeddedSubscription], None]"
    ) -> None:
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


class EmbeddedTail(EmbeddedSubscription):
    """`ports.Tail`: remembers over all connections how far it came. `log` gives the present stream."""

    def __init__(
        self,
        log: Callable[[], Log],
        position: Position,
        forget: "Callable[[EmbeddedSubscription], None]",
    ) -> None:
        super().__init__(self._tail, forget)
        self._log = log
        self._position = position
        self._channel: Channel | None = None

    @property
    def attached(self) -> bool:
        return super().attached and self._position.proven

    async def reattach(self) -> None:
        channel = self._channel
        if channel is not None and channel.open:
            self.detach()
            self.attach(channel)

    def _tail(self, channel: Channel) -> Tail:
        self._channel, log = channel, self._log()
        return Tail(log, log.resolve(self._position.attach()), self._position.take)
