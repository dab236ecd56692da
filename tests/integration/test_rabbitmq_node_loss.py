"""A RabbitMQ that stops, dies, freezes or raises an alarm while processes of ours work on it.

One node for the whole file, which only these tests may treat like this.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from eco2.broker.rabbitmq import RabbitMQ
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, DeliveryLost, PublishUncertain
from eco2.ports import Broker, Delivery, FromStart, Record
from tests.conformance.harness import (
    PATIENCE,
    QUEUE,
    Brokers,
    Received,
    append,
    attached,
    eventually,
    publish,
)
from tests.support.rabbitmq import Node

BOOT = 60.0
"""Seconds that everything may take to work again after the node came back."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that has had streams for a while.

    RabbitMQ 3.10 forgets the coordinator of all its streams if it dies within seconds of its very first one:
    no stream then works again. An orderly restart writes the coordinator's registration to the disk.
    """
    node = Node(tmp_path_factory.mktemp("rabbitmq-loss"))
    node.start()
    asyncio.run(declare_first_stream(node))
    node.restart()
    yield node
    node.stop()
    node.remove_data()


async def declare_first_stream(node: Node) -> None:
    async with processes(node, "first") as brokers:
        await brokers.start()


class Direct:
    """Processes that connect to the node itself."""

    def __init__(self, node: Node, prefix: str) -> None:
        self._url = node.url
        self.topology = Topology(prefix, pipelines=("work",))

    def process(self, topology: Topology | None = None) -> Broker:
        return RabbitMQ(self._url, topology or self.topology, process="eco2 test", publish_timeout=2)

    async def disrupt(self) -> None:
        raise AssertionError("these tests treat the node itself badly")

    async def replace_stream(self, *bodies: bytes) -> None:
        raise AssertionError("these tests treat the node itself badly")


@asynccontextmanager
async def processes(node: Node, prefix: str) -> AsyncIterator[Brokers]:
    brokers = Brokers(Direct(node, prefix))
    try:
        yield brokers
    finally:
        await brokers.close()


@pytest.mark.parametrize("way", ["restart", "kill9"])
async def test_a_broker_that_comes_back_has_lost_nothing(node: Node, prefix: str, way: str) -> None:
    ids = [f"{number}" for number in range(400)]
    handled: Received[str] = Received()
    records: Received[Record] = Received()

    async def settle(delivery: Delivery) -> None:
        try:
            await delivery.ack()
        except DeliveryLost:
            return
        handled(delivery.message_id)

    async def persist(send: Broker, part: list[str]) -> None:
        for name in part:
            async with asyncio.timeout(BOOT):
                while True:
                    try:
                        await send.append(name.encode(), name)
                        await send.publish(QUEUE, name.encode(), name)
                        break
                    except (BrokerUnavailable, PublishUncertain):
                        await asyncio.sleep(0.05)

    async with processes(node, prefix) as brokers, asyncio.TaskGroup() as tasks:
        producer, consumer = await brokers.start(), await brokers.start()
        consumer.tail(FromStart(), records)

        def hand_over(delivery: Delivery) -> None:
            tasks.create_task(settle(delivery))

        consumer.consume(QUEUE, 20, hand_over)
        senders = [tasks.create_task(persist(producer, ids[start::4])) for start in range(4)]
        await handled.count(100)
        if way == "restart":
            await asyncio.to_thread(node.restart)
        else:
            await asyncio.to_thread(node.kill9)
            await asyncio.to_thread(node.start)
        async with asyncio.timeout(BOOT):
            await asyncio.gather(*senders)
        await append(producer, b"last")
        await records.until(lambda items: items[-1].body == b"last")
        await handled.until(lambda items: set(items) == set(ids))

    assert {record.body.decode() for record in records.items} == {*ids, "last"}
    assert all(before.offset < after.offset for before, after in pairwise(records.items))


def refused_at_once(sending: Coroutine[None, None, None]) -> None:
    """Expects the refusal before the coroutine waits for anything."""
    with pytest.raises(BrokerUnavailable, match="alarm"):
        sending.send(None)


async def test_an_alarm_refuses_publishes_at_once_and_lets_work_be_settled(node: Node, prefix: str) -> None:
    async with processes(node, prefix) as brokers:
        broker = await brokers.start()
        received: Received[Delivery] = Received()
        broker.consume(QUEUE, 10, received)
        await publish(broker, b"before")
        held = await received.take()
        await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "0")
        try:
            await eventually(lambda: broker.blocked is not None)  # nobody had to publish into it
            for _ in range(3):
                refused_at_once(broker.publish(QUEUE, b"ghost", "ghost"))
                refused_at_once(broker.append(b"ghost", "ghost"))
            await held.requeue()
            again = await received.take()
            assert again.redelivered
            await again.ack()
        finally:
            await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "0.4")
        await eventually(lambda: broker.blocked is None)
        await publish(broker, b"after")
        assert (await received.take()).body == b"after"  # and no ghost before it


async def test_a_frozen_broker_is_noticed_and_work_goes_on_when_it_wakes(node: Node, prefix: str) -> None:
    async with processes(node, prefix) as brokers:
        broker = await brokers.start()
        received: Received[Delivery] = Received()
        broker.consume(QUEUE, 10, received)
        await publish(broker, b"before")
        await (await received.take()).ack()
        node.suspend()
        try:
            with pytest.raises(PublishUncertain):
                await broker.publish(QUEUE, b"during", "during")
            await eventually(lambda: not broker.ready)  # long before a heartbeat would tell
            with pytest.raises(BrokerUnavailable):
                await broker.publish(QUEUE, b"refused", "refused")
        finally:
            node.resume()
        await eventually(lambda: broker.ready)
        await publish(broker, b"during", b"after")
        deliveries = await received.until(lambda items: items[-1].body == b"after")
        assert {delivery.body for delivery in deliveries} == {b"before", b"during", b"after"}


async def test_a_process_has_the_same_few_connections_whatever_it_does(node: Node, prefix: str) -> None:
    async with processes(node, prefix) as brokers:
        gateway, worker = await brokers.start(), await brokers.start()
        await act_as_gateway(gateway, rounds=1)
        await act_as_worker(worker, rounds=1)
        few, few_channels = await connections(node), await channels(node)
        await act_as_gateway(gateway, rounds=50)
        await act_as_worker(worker, rounds=50)
        many, many_channels = await connections(node), await channels(node)
    assert sorted(few) == [
        "eco2 test jobs",
        "eco2 test journal",
        "eco2 test journal",
        "eco2 test publish",
        "eco2 test publish",
    ]
    assert sorted(many) == sorted(few)
    assert many_channels == few_channels  # what was cancelled has left nothing behind


async def act_as_gateway(broker: Broker, rounds: int) -> None:
    for _ in range(rounds):
        name = os.urandom(8).hex()
        await append(broker, name.encode())
        await publish(broker, name.encode())
        broker.broadcast("a.b", b"")
        subscriptions = [
            broker.tail(FromStart(), lambda record: None),
            broker.subscribe("a.*", lambda *_: None),
        ]
        await attached(*subscriptions)
        async with asyncio.timeout(PATIENCE), broker.read(FromStart()) as reader:
            await anext(reader)
        if rounds > 1:
            await subscriptions[0].cancel()


async def act_as_worker(broker: Broker, rounds: int) -> None:
    await act_as_gateway(broker, rounds)

    for _ in range(rounds):
        received: Received[Delivery] = Received()
        subscription = broker.consume(QUEUE, 1, received)
        delivery = await received.take()
        await subscription.cancel()
        await delivery.ack()


async def connections(node: Node) -> list[str]:
    """The names under which an operator sees the open connections."""
    listed = await asyncio.to_thread(node.ctl, "list_connections", "client_properties")
    return re.findall(r'"connection_name",(?:longstr,)?"(eco2 [^"]*)"', listed)


async def channels(node: Node) -> int:
    return len((await asyncio.to_thread(node.ctl, "list_channels", "pid")).splitlines())
