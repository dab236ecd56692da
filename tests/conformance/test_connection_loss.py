"""Every connection of every process is cut, several times, while work goes on: nothing is lost."""

import asyncio
from itertools import pairwise

import pytest

from eco2.errors import BrokerUnavailable, DeliveryLost
from eco2.ports import Broker, Delivery, FromLast, FromStart, Record
from tests.conformance.harness import (
    PATIENCE,
    QUEUE,
    Brokers,
    Heard,
    Received,
    append,
    attached,
    eventually,
    publish,
)


async def test_an_unsettled_delivery_is_lost_and_comes_again(brokers: Brokers) -> None:
    broker = await brokers.start()
    received: Received[Delivery] = Received()
    broker.consume(QUEUE, 10, received)
    await publish(broker, b"job")
    lost = await received.take()
    await brokers.disrupt()
    again = await received.take()
    assert (again.message_id, again.redelivered) == ("job", True)
    for settle in (lost.ack, lost.requeue, lost.reject):
        with pytest.raises(DeliveryLost):
            await settle()
    await again.ack()


async def test_every_subscription_comes_back(brokers: Brokers) -> None:
    broker = await brokers.start()
    deliveries: Received[Delivery] = Received()
    records: Received[Record] = Received()
    heard = Heard()

    subscriptions = [
        broker.consume(QUEUE, 10, deliveries),
        broker.tail(FromStart(), records),
        broker.subscribe("#", heard.hear),
    ]
    await attached(*subscriptions)
    await publish(broker, b"before")
    await (await deliveries.take()).ack()
    await brokers.disrupt()
    await eventually(lambda: broker.ready and all(s.attached for s in subscriptions))
    await publish(broker, b"job")
    await append(broker, b"event")
    await deliveries.until(lambda items: items[-1].body == b"job")
    await records.until(lambda items: items[-1:] != [] and items[-1].body == b"event")
    async with asyncio.timeout(PATIENCE):
        while not heard.items:  # a cast before the listener is back is lost, as it may be
            broker.broadcast("topic", b"cast")
            await asyncio.sleep(0.02)
    assert heard.items[0] == ("topic", b"cast")


async def test_a_cancelled_subscription_does_not_come_back(brokers: Brokers) -> None:
    broker = await brokers.start()
    cancelled: Received[Delivery] = Received()
    subscription = broker.consume(QUEUE, 10, cancelled)
    await attached(subscription)
    await subscription.cancel()
    await brokers.disrupt()
    received: Received[Delivery] = Received()
    broker.consume(QUEUE, 10, received)
    await publish(broker, b"job")
    assert (await received.take()).body == b"job"
    assert cancelled.items == []


async def test_a_reader_says_that_its_connection_went(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, b"0")
    async with asyncio.timeout(PATIENCE), broker.read(FromStart()) as reader:
        await anext(reader)
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        await brokers.disrupt()
        with pytest.raises(BrokerUnavailable):
            await waiting


async def test_publishing_and_consuming_lose_nothing(brokers: Brokers) -> None:
    producer, consumer = await brokers.start(), await brokers.start()
    ids = [f"{number}" for number in range(300)]
    handled: Received[str] = Received()

    async def settle(delivery: Delivery) -> None:
        try:
            await delivery.ack()
        except DeliveryLost:
            return  # it comes again
        handled(delivery.message_id)

    async with asyncio.TaskGroup() as tasks:

        def hand_over(delivery: Delivery) -> None:
            tasks.create_task(settle(delivery))

        consumer.consume(QUEUE, 20, hand_over)
        for part in (ids[0::3], ids[1::3], ids[2::3]):
            tasks.create_task(publish(producer, *[name.encode() for name in part]))
        for progress in (50, 150, 250):
            await handled.count(progress)
            await brokers.disrupt()
        await handled.until(lambda items: set(items) == set(ids))


async def test_tails_lose_and_repeat_nothing(brokers: Brokers) -> None:
    writer, reader = await brokers.start(), await brokers.start()
    written = [b"%d" % number for number in range(300)]
    received: Received[Record] = Received()
    reader.tail(FromStart(), received)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(append(writer, *written))
        for progress in (50, 150, 250):
            await received.count(progress)
            await brokers.disrupt()
    await append(writer, b"last")
    await received.until(lambda items: items[-1].body == b"last")
    assert received.items == await everything(reader)
    assert list(dict.fromkeys(record.body for record in received.items)) == [*written, b"last"]
    assert all(before.offset < after.offset for before, after in pairwise(received.items))


async def everything(broker: Broker) -> list[Record]:
    records: list[Record] = []
    await eventually(lambda: broker.ready)
    async with asyncio.timeout(PATIENCE), broker.read(FromStart()) as reader:
        async for record in reader:
            records.append(record)
            if record.body == b"last":
                break
    return records


async def test_a_tail_that_is_attached_again_and_again_loses_and_repeats_nothing(brokers: Brokers) -> None:
    writer, reader = await brokers.start(), await brokers.start()
    received: Received[Record] = Received()
    tail = reader.tail(FromStart(), received)
    await attached(tail)
    for number in range(30):
        await append(writer, b"%d" % number)
        if number % 10 == 9:
            await tail.reattach()
            await attached(tail)
    await append(writer, b"last")
    await received.until(lambda items: items[-1].body == b"last")
    assert received.items == await everything(reader)


async def test_a_tail_of_a_stream_that_was_made_again_says_so_and_shows_nothing_of_it(
    brokers: Brokers,
) -> None:
    """The new stream is longer than the old one, so that the tail's place exists in it."""
    writer, reader = await brokers.start(), await brokers.start()
    received: Received[Record] = Received()
    replaced: Received[bool] = Received()
    tail = reader.tail(FromStart(), received, lambda: replaced(True))
    await append(writer, b"0", b"1", b"2")
    await received.count(3)
    await brokers.replace_stream(*[b"new-%d" % number for number in range(10)])
    await replaced.count(1)
    assert not tail.attached
    assert [record.body for record in received.items] == [b"0", b"1", b"2"]
    again: Received[Record] = Received()
    reader.tail(FromStart(), again)
    await again.count(10)
    assert replaced.items == [True]


async def test_a_tail_whose_place_is_beyond_the_end_of_a_new_stream_does_not_count_as_attached(
    brokers: Brokers,
) -> None:
    broker = await brokers.start()
    received: Received[Record] = Received()
    tail = broker.tail(FromStart(), received)
    await append(broker, *[b"%d" % number for number in range(20)])
    await received.count(20)
    await brokers.replace_stream()
    await eventually(lambda: not tail.attached)
    await append(broker, b"new")
    async with asyncio.timeout(PATIENCE), broker.read(FromLast()) as records:
        assert (await anext(records)).body == b"new"
    assert not tail.attached
    assert len(received.items) == 20


async def test_a_reader_from_the_end_begins_at_the_newest_record_or_before(brokers: Brokers) -> None:
    broker = await brokers.start()
    written = [b"%d" % number for number in range(20)]
    await append(broker, *written)
    bodies = []
    async with asyncio.timeout(PATIENCE), broker.read(FromLast()) as records:
        async for record in records:
            bodies.append(record.body)
            if record.body == b"19":
                break
    assert bodies == written[-len(bodies) :]
