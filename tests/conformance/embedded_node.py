"""The embedded broker as a node of the conformance suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eco2.broker.embedded import EmbeddedNode
from tests.conformance.harness import SERVICE, Node


@asynccontextmanager
async def open_node() -> AsyncIterator[Node]:
    """A node in memory: `process()` gives brokers that share it, `disrupt()` cuts all of them."""
    yield EmbeddedNode(queues=("jobs.work",), services=(SERVICE,))
