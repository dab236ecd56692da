"""The embedded broker as a node of the conformance suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eco2.broker.embedded import Embedded, Server
from eco2.broker.topology import Topology
from eco2.ports import Broker
from tests.conformance.harness import Node


class EmbeddedNode:
    """Connections that share `server`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.topology = Topology("t", pipelines=("work",))

    def process(self, topology: Topology | None = None) -> Broker:
        return Embedded(topology or self.topology, self._server)

    async def disrupt(self) -> None:
        self._server.disrupt()

    async def replace_stream(self, *bodies: bytes) -> None:
        self._server.delete(self.topology.stream)
        self._server.declare(self.topology)
        for body in bodies:
            self._server.logs[self.topology.stream].append(body)


@asynccontextmanager
async def open_node() -> AsyncIterator[Node]:
    """A node in memory: `process()` gives brokers that share it, `disrupt()` cuts all of them."""
    yield EmbeddedNode(Server())
