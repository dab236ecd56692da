"""RabbitMQ as a node of the conformance suite: a prefix of its own, reached through a proxy that can cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika

from eco2.broker.rabbitmq import RabbitMQ, apply
from eco2.broker.topology import Exchange, Topology
from eco2.ports import Broker
from tests.conformance.harness import Node
from tests.support.proxy import Proxy


class RabbitMQNode:
    """The node behind `proxy`."""

    def __init__(self, proxy: Proxy, topology: Topology, url: str = "") -> None:
        self._proxy = proxy
        self.topology = topology
        self._url = url
        self.given: list[Topology] = []
        """What single processes declared besides."""

    def process(self, topology: Topology | None = None) -> Broker:
        if topology is not None:
            self.given.append(topology)
        return RabbitMQ(self._proxy.url, topology or self.topology)

    async def disrupt(self) -> None:
        self._proxy.cut()

    async def replace_stream(self, *bodies: bytes) -> None:
        self._proxy.refusing = True
        self._proxy.cut()
        stream = self.topology.stream
        async with await aio_pika.connect(self._url) as connection, connection.channel() as channel:
            await channel.queue_delete(stream)
            await apply(self._url, self.topology)
            for body in bodies:
                message = aio_pika.Message(body, delivery_mode=2)
                await channel.default_exchange.publish(message, stream, mandatory=True)
        self._proxy.refusing = False


@asynccontextmanager
async def open_node(url: str, prefix: str) -> AsyncIterator[Node]:
    """The broker at `url`; what the test declared under `prefix` is deleted afterwards."""
    topology = Topology(prefix, pipelines=("work",))
    async with Proxy.to(url) as proxy:
        node = RabbitMQNode(proxy, topology, url)
        yield node
    for each in (topology, *node.given):
        await delete(url, each)


async def delete(url: str, topology: Topology) -> None:
    """Nothing of `topology` remains at the broker."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for entity in topology.entities:
            if isinstance(entity, Exchange):
                await channel.exchange_delete(entity.name)
            else:
                await channel.queue_delete(entity.name)
