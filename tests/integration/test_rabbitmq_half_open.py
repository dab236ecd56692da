"""Half-open connections: they are silent for ever, and what a process consumes goes on all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aio_pika.abc import AbstractChannel

from eco2.broker.rabbitmq import RabbitMQ, probe
from eco2.broker.rabbitmq.adapter import JOBS_HEARTBEAT
from eco2.broker.rabbitmq.link import ABANDON_TIMEOUT, RECONNECT, Link, Nodes
from eco2.broker.rabbitmq.probe import PROBE_INTERVAL, Probe
from eco2.broker.topology import Topology
from eco2.errors import DeliveryLost
from eco2.ports import Delivery, FromStart, Record
from eco2.settings import RECONNECT_MARGIN, Settings
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
from tests.conformance.rabbitmq_node import RabbitMQNode, delete
from tests.support.proxy import Proxy

PUBLISH_TIMEOUT = Settings.model_fields["publish_timeout"].default
"""Seconds; it is a probe's patience, too."""


@asynccontextmanager
async def brokers(url: str, topology: Topology) -> AsyncIterator[tuple[Brokers, Proxy]]:
    async with Proxy.to(url) as proxy:
        brokers = Brokers(RabbitMQNode(proxy, topology))
        try:
            yield brokers, proxy
        finally:
            await brokers.close()
    await delete(url, topology)


def test_the_longest_way_from_silence_to_the_next_try_is_below_the_holders_time_out() -> None:
    assert PROBE_INTERVAL + ABANDON_TIMEOUT + RECONNECT.cap == RECONNECT_MARGIN
    assert Settings.model_fields["holder_timeout"].default > PUBLISH_TIMEOUT + RECONNECT_MARGIN


async def test_a_tail_and_a_work_queue_go_on_when_their_connections_are_half_open(
    amqp_url: str, prefix: str
) -> None:
    topology = Topology(prefix, pipelines=("work",))
    loop = asyncio.get_running_loop()
    deliveries: Received[Delivery] = Received()
    records: Received[Record] = Received()
    async with brokers(amqp_url, topology) as (processes, proxy):
        outside = await processes.start(RabbitMQ(amqp_url, topology))
        broker = await processes.start()
        await attached(broker.tail(FromStart(), records), broker.consume(QUEUE, 1, deliveries))
        await publish(outside, b"acked", b"held")
        await append(outside, b"before")
        await records.take()
        await (await deliveries.take()).ack()
        held = await deliveries.take()  # so the broker has seen the ack of the first: the prefetch is 1
        proxy.stall()
        began = loop.time()
        await append(outside, b"during")
        await publish(outside, b"during")
        assert (await records.count(2))[1].body == b"during"
        during = await deliveries.take()
        await eventually(lambda: broker.ready)
        assert loop.time() - began < PROBE_INTERVAL + PUBLISH_TIMEOUT + ABANDON_TIMEOUT + RECONNECT.base + 1
        await during.ack()
        with pytest.raises(DeliveryLost):
            await held.ack()
        again = await deliveries.take()  # the broker, too, notices by itself
        assert (again.body, again.redelivered) == (b"held", True)
        assert loop.time() - began < 3 * JOBS_HEARTBEAT + 1
        await again.ack()
        proxy.flow()
        await append(outside, b"after")
        await publish(outside, b"after")
        assert [record.body for record in await records.count(3)] == [b"before", b"during", b"after"]
        bodies = [delivery.body for delivery in await deliveries.count(5)]
        assert bodies == [b"acked", b"held", b"during", b"held", b"after"]


async def test_a_publish_goes_through_a_new_connection_when_its_own_is_half_open(
    amqp_url: str, prefix: str
) -> None:
    async with brokers(amqp_url, Topology(prefix, pipelines=("work",))) as (processes, proxy):
        broker = await processes.start()
        proxy.stall()
        await publish(broker, b"job")  # again and again, as the engine does
        proxy.cut()  # what was on its way there is gone
        received: Received[Delivery] = Received()
        await attached(broker.consume(QUEUE, 10, received))
        assert (await received.take()).body == b"job"


async def test_a_link_that_nobody_wants_is_not_opened_to_be_probed(amqp_url: str, prefix: str) -> None:
    async with brokers(amqp_url, Topology(prefix, pipelines=("work",))) as (processes, proxy):
        gateway = await processes.start()
        await attached(gateway.tail(FromStart(), lambda record: None))
        assert proxy.open == 2  # publish and journal
        worker = await processes.start()
        await attached(worker.tail(FromStart(), lambda _: None), worker.consume(QUEUE, 1, lambda _: None))
        assert proxy.open == 2 + 3


async def test_a_quiet_connection_that_answers_is_left_alone(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_INTERVAL", 0.01)
    answers = Received[None]()

    async def question(channel: AbstractChannel) -> None:
        await probe.ask(channel)
        answers(None)

    async with Proxy.to(amqp_url) as proxy:
        link = Link(Nodes(proxy.url), "eco2 test", 10)
        probes = Probe(link, question, 0.5)
        tasks = [asyncio.create_task(link.run()), asyncio.create_task(probes.run())]
        first = await link.connection(PATIENCE)
        await answers.count(100)
        assert await link.connection(PATIENCE) is first
        proxy.stall()
        await eventually(lambda: not link.ready)
        second = await link.connection(PATIENCE)
        assert second is not first
        await answers.count(len(answers.items) + 10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
