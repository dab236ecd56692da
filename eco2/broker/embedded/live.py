"""Transient messages in memory: a topic exchange whose listeners have bounded queues.

Guarantees: a listener sees messages in the order of casting, and a slow one loses the oldest, never the
newest; nothing here delays the sender.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from eco2.broker.embedded.chaos import Dice
from eco2.broker.topic import matches

MAX_WAITING = 1000
"""Messages that wait for one listener, at most."""


class Exchange:
    """Passes each message to all listeners that there are at the moment."""

    def __init__(self, dice: Dice) -> None:
        self.listeners: list[Listener] = []
        self._dice = dice

    def publish(self, topic: str, body: bytes) -> None:
        """Sends it to every subscriber whose pattern fits, or to none."""
        if self._dice.happens("lost_live"):
            return
        for listener in self.listeners:
            listener.offer(topic, body)


class Listener:
    """One listener over one connection."""

    def __init__(self, exchange: Exchange, pattern: str, on_message: Callable[[str, bytes], None]) -> None:
        self._exchange = exchange
        self._pattern = pattern
        self._on_message = on_message
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MAX_WAITING)
        self._scheduled = False
        exchange.listeners.append(self)

    def offer(self, topic: str, body: bytes) -> None:
        """Takes the message if its topic fits; the callback runs from the loop."""
        if matches(self._pattern, topic):
            self._waiting.append((topic, body))
            self._schedule()

    def cancel(self) -> None:
        """No callback after this."""
        self._exchange.listeners.remove(self)
        self._waiting.clear()

    def _schedule(self) -> None:
        if not self._scheduled and self._waiting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._scheduled = False
        try:
            for _ in range(len(self._waiting)):
                if self._waiting:  # a callback may have cancelled this listener
                    self._on_message(*self._waiting.popleft())
        finally:  # a callback that raises, against the port's rule, must not end the listening
            self._schedule()
