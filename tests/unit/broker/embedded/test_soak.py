"""Everything at once, under chaos of several seeds: what the port promises still holds."""

import asyncio
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest

from eco2.broker.embedded import Chaos, Embedded
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, ConfigurationError, DeliveryLost
from eco2.ports import Delivery, FromStart, Record
from eco2.testing.clock import virtual
from tests.support.embedded import QUEUE, TOPOLOGY, quiet, running, server, surely

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
@virtual
async def test_nothing_confirmed_is_lost_whatever_happens(seed: int) -> None:
    shared = server(Chaos(seed=seed))
    producer, *workers = brokers = [Embedded(TOPOLOGY, shared) for _ in range(3)]
    ids = [str(number) for number in range(400)]
    acked: set[str] = set()

    async def work(delivery: Delivery) -> None:
        await asyncio.sleep(0.01)
        try:
            await delivery.ack()
            acked.add(delivery.message_id)
        except DeliveryLost:
            return  # it comes again

    async with asyncio.timeout(3600), running(*brokers), asyncio.TaskGroup() as tasks:

        def hand_over(delivery: Delivery) -> None:
            tasks.create_task(work(delivery))

        for worker in workers:
            worker.consume(QUEUE, 10, hand_over)
        for name in ids:
            await surely(partial(producer.publish, QUEUE, name.encode(), name))
        while acked != set(ids):
            await quiet()


@pytest.mark.parametrize("seed", SEEDS)
@virtual
async def test_every_tail_sees_one_order_without_loss_or_repeat(seed: int) -> None:
    shared = server(Chaos(seed=seed, cut=0.02))
    writer, reader = Embedded(TOPOLOGY, shared), Embedded(TOPOLOGY, shared)
    tails: list[list[Record]] = [[], [], []]
    for broker, seen in zip((writer, reader, reader), tails, strict=True):
        broker.tail(FromStart(), seen.append)
    written = [b"%d" % number for number in range(400)]
    async with running(writer, reader):
        for number, body in enumerate(written):
            await surely(partial(writer.append, body, body.decode()))
            if number % 100 == 50:
                shared.disrupt()
        await quiet()
    assert tails[0] == tails[1] == tails[2]
    assert all(before.offset < after.offset for before, after in pairwise(tails[0]))
    assert list(dict.fromkeys(record.body for record in tails[0])) == written


@virtual
async def test_two_topologies_on_one_server_do_not_meet_unless_they_agree() -> None:
    shared = server()
    first = Embedded(Topology("one", pipelines=("work",)), shared)
    second = Embedded(Topology("two", pipelines=("work",)), shared)
    received: list[bytes] = []
    second.consume(QUEUE, 10, lambda delivery: received.append(delivery.body))
    async with running(first, second):
        await first.publish(QUEUE, b"x", "x")
        await quiet()
    assert received == []
    different = Embedded(Topology("one", pipelines=("work",), retention_hours=1), shared)
    with pytest.raises(ConfigurationError, match=r"one\.events"):
        await different.run(asyncio.Event())


@virtual
async def test_a_broken_connection_refuses_and_comes_back_by_itself() -> None:
    shared = server()
    broker = Embedded(TOPOLOGY, shared)
    async with running(broker):
        broker.disrupt()
        assert not broker.ready
        with pytest.raises(BrokerUnavailable):
            await broker.publish(QUEUE, b"x", "x")
        await quiet()
        assert broker.ready


@virtual
async def test_a_process_that_publishes_without_a_pause_can_stop() -> None:
    broker, stop = Embedded(TOPOLOGY, server()), asyncio.Event()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        with suppress(BrokerUnavailable):
            while True:
                await broker.append(b"x", "x")
                sent += 1
                if sent == 30:
                    stop.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(broker.run(stop))
        await quiet()
        for _ in range(3):
            tasks.create_task(flood())
    assert sent >= 30


@virtual
async def test_a_process_that_ends_may_run_again() -> None:
    broker = Embedded(TOPOLOGY, server())
    received: list[bytes] = []
    broker.consume(QUEUE, 10, lambda delivery: received.append(delivery.body))
    for body in (b"0", b"1"):
        async with running(broker):
            await broker.publish(QUEUE, body, body.decode())
            await quiet()
    assert received == [b"0", b"0", b"1"]  # the first was never settled, so it came again
