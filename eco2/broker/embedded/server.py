"""The part of the embedded broker that outlives connections: queues, streams and exchanges by name.

Several `Embedded` connections, one per "process", share one server. Everything in it ends with our process.
"""

import time
from collections.abc import Callable

from eco2.broker import topology
from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.chaos import CALM, Chaos, Dice
from eco2.broker.embedded.live import Exchange
from eco2.broker.embedded.queues import Message, Queue
from eco2.broker.embedded.stream import Log, Retention
from eco2.errors import ConfigurationError

Clock = Callable[[], float]


class Server:
    """An empty broker; connections declare what they need. `clock` gives Unix seconds.

    `chaos` makes it unkind; without it everything is prompt and nothing fails by itself.
    """

    def __init__(self, chaos: Chaos = CALM, clock: Clock = time.time) -> None:
        self.dice = Dice(chaos)
        self.blocked: str | None = None
        self.queues: dict[str, Queue] = {}
        self.logs: dict[str, Log] = {}
        self.exchanges: dict[str, Exchange] = {}
        self.channels: set[Channel] = set()
        self._clock = clock
        self._declared: dict[str, topology.Entity] = {}

    def declare(self, needed: topology.Topology) -> None:
        """Declares what is missing. Raises `ConfigurationError` for a name that has other arguments."""
        for entity in needed.entities:
            existing = self._declared.setdefault(entity.name, entity)
            if existing != entity:
                raise ConfigurationError(topology.difference(entity, f"it exists as {existing}"))
            if isinstance(entity, topology.Exchange):
                self.exchanges.setdefault(entity.name, Exchange(self.dice))
            elif entity.arguments["x-queue-type"] == "stream":
                self.logs.setdefault(entity.name, Log(Retention(age=entity.age), self._clock, self.dice))
            else:
                self.queues.setdefault(entity.name, self._queue(entity))

    def refuse_old_workers(self, needed: topology.Topology) -> None:
        """Raises `ConfigurationError` if workers of release 0.1 share a budget with this process."""
        for name in needed.old_budgets:
            if (queue := self.queues.get(name)) is not None and queue.has_consumers:
                raise ConfigurationError(topology.old_workers(name))

    def block(self, reason: str) -> None:
        """Refuses publishes, as under a memory alarm, until `unblock`."""
        self.blocked = reason

    def unblock(self) -> None:
        self.blocked = None

    def delete(self, name: str) -> None:
        """Deletes a queue or stream with all that it holds, and cuts every connection.

        The next connection declares it again, empty.
        """
        self._declared.pop(name, None)
        self.logs.pop(name, None)
        if (queue := self.queues.pop(name, None)) is not None:
            queue.delete()
        self.disrupt()

    def wipe(self) -> None:
        """Loses everything, as a broker that is started on an empty disk."""
        for name in tuple(self._declared):
            self.delete(name)
        self.exchanges.clear()

    def disrupt(self) -> None:
        """Cuts every connection at once; all connect again by themselves."""
        for channel in list(self.channels):
            channel.cut()

    def _queue(self, entity: topology.Queue) -> Queue:
        limit = entity.arguments.get("x-delivery-limit")
        ttl = entity.arguments.get("x-message-ttl")
        dead = entity.arguments.get("x-dead-letter-routing-key")
        return Queue(
            entity.name,
            self.dice,
            limit=None if limit is None else int(limit),
            ttl=None if ttl is None else int(ttl) / 1000,
            dead=None if dead is None else lambda message: self._dead_letter(str(dead), message),
        )

    def _dead_letter(self, queue: str, message: Message) -> None:
        if (dead := self.queues.get(queue)) is not None:  # else it was deleted, and is not declared again yet
            dead.put(message)
