"""Where faults are made: a broker (given, or a node of its own, or a cluster), a folder for logs, a voice.

Nodes are started when the first fault needs them and stopped with the lab.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.rabbitmq import Node


class Lab:
    """`given`: the URL of a broker that must not be maltreated; without it the lab has a node of its own."""

    def __init__(self, folder: Path, say: Callable[[str], None], given: str | None = None) -> None:
        self.folder = folder
        self.say = say
        self._given = given
        self.node: Node | None = None
        self._cluster: Cluster | None = None

    async def url(self) -> Callable[[], str]:
        """Where the broker is."""
        if self._given is not None:
            given = self._given
            return lambda: given
        node = await self.own_node()
        return lambda: node.url

    async def own_node(self) -> Node:
        """The node that faults may restart, kill and starve; running."""
        assert self._given is None, "this fault needs a node of its own"
        if self.node is None:
            self.say("starting RabbitMQ")
            self.node = Node(self.folder / "rabbitmq")
            await asyncio.to_thread(self.node.start)
        return self.node

    async def cluster(self) -> Cluster:
        """Three nodes, running. The single node is stopped first: the machine is small."""
        if self._cluster is None:
            if self.node is not None:
                await asyncio.to_thread(self.node.stop)
                self.node = None
            self.say("starting three nodes of RabbitMQ")
            self._cluster = Cluster(self.folder / "cluster")
            await asyncio.to_thread(self._cluster.start)
        return self._cluster

    async def close(self) -> None:
        for broker in (self.node, self._cluster):
            if broker is not None:
                await asyncio.to_thread(broker.stop)


@asynccontextmanager
async def open_lab(folder: Path, say: Callable[[str], None]) -> AsyncIterator[Lab]:
    """A lab with brokers of its own."""
    lab = Lab(folder, say)
    try:
        yield lab
    finally:
        await lab.close()
