"""A stream or queue of RabbitMQ that is deleted while processes stand, and a node that is wiped."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest

from eco2.broker.rabbitmq import RabbitMQ, check
from eco2.broker.topology import Topology
from eco2.event import Queued
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.ports import FromStart, Record
from tests.conformance.harness import QUEUE, Received, append, attached, eventually, publish
from tests.conformance.rabbitmq_node import delete
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node

PATIENCE = 60.0
"""Seconds: RabbitMQ itself takes ten to start."""


@pytest.fixture
async def topology(prefix: str, amqp_url: str) -> AsyncIterator[Topology]:
    topology = Topology(prefix, pipelines=("work",))
    yield topology
    await delete(amqp_url, topology)


@asynccontextmanager
async def process(url: str, topology: Topology) -> AsyncIterator[tuple[RabbitMQ, Journal]]:
    """A process with a journal, once its view is filled."""
    broker, stop = RabbitMQ(url, topology), asyncio.Event()
    journal = Journal(broker, View(900, time.time))
    async with asyncio.TaskGroup() as tasks:
        running, reading = asyncio.Event(), asyncio.Event()
        tasks.create_task(broker.run(running))
        task = tasks.create_task(journal.run(reading))
        await journal.filled.wait()
        try:
            yield broker, journal
        finally:
            reading.set()
            await task
            running.set()
            stop.set()


async def delete_queue(url: str, name: str) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.queue_delete(name)


async def announced(journal: Journal, job: str) -> None:
    now = time.time()
    async with asyncio.timeout(PATIENCE):
        await journal.announce(Queued(ts=now, job=job, pipeline="work", deadline=now + 60, digest="d"))


async def replaced(*journals: Journal) -> None:
    async with asyncio.timeout(PATIENCE):
        while not all(each.view.resets == 1 and each.current for each in journals):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_deleted_stream_is_made_again_and_read_by_every_process(
    amqp_url: str, topology: Topology
) -> None:
    async with process(amqp_url, topology) as (_, one), process(amqp_url, topology) as (_, other):
        for number in range(20):
            await announced(one, f"old-{number}")
        await delete_queue(amqp_url, topology.stream)
        await replaced(one, other)
        assert await check(amqp_url, topology) == []
        await announced(one, "new")
        await other.barrier()
        for journal in (one, other):
            assert [job.job for job in journal.view.recent()] == ["new"]


async def test_a_stream_that_was_made_again_and_outgrew_the_old_one_is_another_one(
    amqp_url: str, topology: Topology
) -> None:
    async with (
        Proxy.to(amqp_url) as proxy,
        process(amqp_url, topology) as (_, other),
        process(proxy.url, topology) as (_, one),
    ):
        await announced(one, "old")
        proxy.refusing = True
        proxy.cut()
        await delete_queue(amqp_url, topology.stream)
        await replaced(other)
        for number in range(50):
            await announced(other, f"new-{number}")
        proxy.refusing = False
        await replaced(one)
        await one.barrier()
        assert [job.job for job in one.view] == [f"new-{number}" for number in range(50)]


@pytest.mark.parametrize("name", [QUEUE, "dead", "inputs"])
async def test_a_deleted_queue_is_made_again_by_those_who_use_it(
    amqp_url: str, topology: Topology, name: str
) -> None:
    async with process(amqp_url, topology) as (broker, journal):
        received: Received[object] = Received()
        await attached(broker.consume(QUEUE, 10, received))
        await delete_queue(amqp_url, topology.queue(name))
        await announced(journal, "job")
        async with asyncio.timeout(PATIENCE):
            while await check(amqp_url, topology):
                # What the sweep and a gateway do all the time: it fails while a queue is missing.
                await asyncio.gather(
                    broker.depth("dead"), broker.append_order(b"", "input"), return_exceptions=True
                )
                await asyncio.sleep(0.2)
            await eventually(lambda: broker.ready)
        await publish(broker, b"job")
        await received.count(1)
        assert journal.view.resets == 0


@pytest.mark.timeout(240)
async def test_a_wiped_node_is_noticed_and_every_process_serves_again(own_node: Node, prefix: str) -> None:
    topology = Topology(prefix, pipelines=("work",))
    url = own_node.url
    async with process(url, topology) as (broker, one), process(url, topology) as (_, other):
        for number in range(20):
            await announced(one, f"old-{number}")
        await asyncio.to_thread(wipe, own_node)
        await replaced(one, other)
        await announced(one, "new")
        await other.barrier()
        for journal in (one, other):
            assert [job.job for job in journal.view.recent()] == ["new"]
        assert broker.ready


def wipe(node: Node) -> None:
    """The node ends, loses its disk, and starts."""
    node.kill9()
    shutil.rmtree(node.folder / "data")
    node.start()


async def test_a_tail_that_is_attached_again_loses_and_repeats_nothing(
    amqp_url: str, topology: Topology
) -> None:
    async with process(amqp_url, topology) as (broker, _):
        received: Received[Record] = Received()
        tail = broker.tail(FromStart(), received)
        await attached(tail)
        for number in range(30):
            await append(broker, b'{"v":1,"events":[]}')
            if number % 10 == 9:
                await tail.reattach()
                await attached(tail)
        await received.count(31)
        offsets = [record.offset for record in received.items]
        assert offsets == sorted(set(offsets))
