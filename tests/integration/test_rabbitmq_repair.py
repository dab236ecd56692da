"""What only RabbitMQ does: consumers cancelled by the broker, channels that add up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from eco2.broker.rabbitmq import RabbitMQ, apply
from eco2.broker.rabbitmq.link import Link, Nodes
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, DeliveryLost, PublishUncertain
from eco2.ports import Delivery
from tests.conformance.harness import (
    PATIENCE,
    QUEUE,
    Brokers,
    Received,
    attached,
    eventually,
    publish,
)
from tests.conformance.rabbitmq_node import RabbitMQNode, delete
from tests.support.proxy import Proxy


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix, pipelines=("work",))


@pytest.fixture
async def brokers(amqp_url: str, topology: Topology) -> AsyncIterator[Brokers]:
    async with Proxy.to(amqp_url) as proxy:
        brokers = Brokers(RabbitMQNode(proxy, topology))
        try:
            yield brokers
        finally:
            await brokers.close()
            await delete(amqp_url, topology)


async def test_a_consumer_whose_queue_was_deleted_comes_back_with_the_queue(
    brokers: Brokers, amqp_url: str, topology: Topology
) -> None:
    broker = await brokers.start()
    received: Received[Delivery] = Received()
    subscription = broker.consume(QUEUE, 10, received)
    await attached(subscription)
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.queue_delete(topology.queue(QUEUE))
    await eventually(lambda: not subscription.attached)
    assert not broker.ready
    await apply(amqp_url, topology)
    await attached(subscription)
    await publish(broker, b"job")
    assert (await received.take()).body == b"job"


async def test_what_arrives_during_a_cancel_is_given_back(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    bodies = [b"%d" % number for number in range(200)]
    await publish(second, *bodies)
    received: Received[Delivery] = Received()
    subscription = first.consume(QUEUE, 200, received)
    await received.count(1)
    handed_over = len(received.items)
    await subscription.cancel()
    assert len(received.items) == handed_over
    rest: Received[Delivery] = Received()
    second.consume(QUEUE, 200, rest)
    await rest.count(len(bodies) - handed_over)
    assert {delivery.body for delivery in received.items + rest.items} == set(bodies)


async def test_many_settles_and_publishes_end_when_the_connection_is_cut(
    amqp_url: str, topology: Topology
) -> None:
    async with Proxy.to(amqp_url) as proxy:
        node = RabbitMQNode(proxy, topology)
        brokers = Brokers(node)
        broker = await brokers.start()
        received: Received[Delivery] = Received()
        broker.consume(QUEUE, 500, received)
        await asyncio.gather(*[publish(broker, b"%d" % number) for number in range(500)])
        await received.count(500)
        # Not by acks: those would leave in a single frame.
        settled = [asyncio.create_task(delivery.requeue()) for delivery in received.items]
        sent = [asyncio.create_task(broker.append(b"x", f"{number}")) for number in range(500)]
        await asyncio.sleep(0)
        await node.disrupt()  # most of them wait for room in the write queue, which nobody empties now
        less = 4  # seconds, than the time-out of a publish
        done, waiting = await asyncio.wait({*settled, *sent}, timeout=less)
        await brokers.close()
    await delete(amqp_url, topology)
    assert not waiting
    outcomes = {type(task.exception()) for task in done}
    assert outcomes <= {type(None), DeliveryLost, PublishUncertain, BrokerUnavailable}
    assert {DeliveryLost, PublishUncertain} <= outcomes


async def test_a_link_ends_although_a_library_swallowed_its_cancellation(amqp_url: str) -> None:
    preparing = asyncio.Event()

    async def swallow(connection: AbstractConnection) -> None:
        preparing.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    link = Link(Nodes(amqp_url), "eco2 test", 10, swallow)
    task = asyncio.create_task(link.run())
    waiting = asyncio.create_task(link.connection(PATIENCE))
    await preparing.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    waiting.cancel()
    assert done


async def test_a_process_started_before_its_broker_gets_ready_with_it(
    amqp_url: str, topology: Topology
) -> None:
    stop = asyncio.Event()
    async with Proxy.to(amqp_url) as proxy, asyncio.TaskGroup() as tasks:
        proxy.refusing = True
        broker = RabbitMQ(proxy.url, topology)
        tasks.create_task(broker.run(stop))
        await asyncio.sleep(0)
        with pytest.raises(BrokerUnavailable):
            await broker.publish(QUEUE, b"x", "x")
        assert not broker.ready
        proxy.refusing = False
        await eventually(lambda: broker.ready)
        stop.set()
    await delete(amqp_url, topology)
