"""Publishing with confirms: the result that the publisher gets, and the real effect.

Guarantees: a publish that returns has taken effect; one that raises `BrokerUnavailable` or `Unroutable` never
will; after `PublishUncertain` anything is possible, and under chaos everything happens.
"""

import asyncio
from collections.abc import Callable

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.chaos import Fate
from eco2.broker.embedded.server import Server
from eco2.errors import BrokerUnavailable, PublishUncertain

ALARM = "low on memory"
MAX_MISSED = 3
"""Publishes without a confirm, in a row, after which a connection is given up."""


class Publisher:
    """The publishes of one process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._in_flight = 0
        self._missed = 0
        self._withheld: Channel | None = None
        """The connection that gets no confirms any more."""
        self._all_confirmed = asyncio.Event()

    async def publish(self, channel: Channel, message_id: str, effect: Callable[[], None]) -> None:
        """Returns when the broker confirmed the message, which takes effect by `effect`."""
        if self._server.blocked is not None:
            raise BrokerUnavailable(f"the broker takes no messages ({self._server.blocked}): try again later")
        self._in_flight += 1
        try:
            if not await self._confirmed(channel, effect):
                raise PublishUncertain(
                    f"the broker did not confirm {message_id}: send it again under this id"
                )
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._all_confirmed.set()

    async def all_confirmed(self) -> None:
        """Returns when no publish is in flight."""
        while self._in_flight:
            self._all_confirmed.clear()
            await self._all_confirmed.wait()

    async def _confirmed(self, channel: Channel, effect: Callable[[], None]) -> bool:
        if self._server.dice.happens("withheld"):
            self.withhold(channel)
        fate = self._server.dice.publish()
        if fate is Fate.BLOCKED:
            self._block()
        self._take_effect(fate, effect)
        if fate is Fate.CUT:
            channel.cut()
        await asyncio.sleep(0 if fate is Fate.CONFIRMED else self._server.dice.delay("confirm"))
        if fate is Fate.GHOST:
            late = self._server.dice.delay("ghost", times=5)
            asyncio.get_running_loop().call_later(late, effect)
        if channel is self._withheld:
            self._miss(channel)
            return False
        return channel.open and fate in (Fate.CONFIRMED, Fate.LATE_CONFIRM)

    def withhold(self, channel: Channel) -> None:
        """From now on what is published over `channel` takes effect, and no confirm of it comes back."""
        self._withheld = channel
        self._missed = 0

    def _miss(self, channel: Channel) -> None:
        """One more confirm stays away, as RabbitMQ's publisher sees it."""
        self._missed += 1
        if self._missed >= MAX_MISSED:
            channel.cut()

    def _take_effect(self, fate: Fate, effect: Callable[[], None]) -> None:
        match fate:
            case Fate.CONFIRMED | Fate.LATE_CONFIRM | Fate.LOST_CONFIRM:
                effect()
            case Fate.CUT if self._server.dice.half():
                effect()

    def _block(self) -> None:
        dice = self._server.dice
        self._server.block(ALARM)
        asyncio.get_running_loop().call_later(dice.delay("alarm", times=5), self._server.unblock)
        raise BrokerUnavailable(f"the broker takes no messages ({ALARM}): try again later")
