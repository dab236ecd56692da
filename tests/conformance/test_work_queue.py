"""The work queue: nothing confirmed is lost, nothing unsettled is forgotten, prefetch bounds what we hold."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from eco2.errors import BrokerUnavailable, Unroutable
from eco2.ports import DEAD, DELAYS, Broker, Delivery, delay_queue
from tests.conformance.harness import (
    PATIENCE,
    QUEUE,
    RETRIES,
    Brokers,
    Received,
    attached,
    publish,
    surely,
)


def consume(broker: Broker, prefetch: int = 10, queue: str = QUEUE) -> Received[Delivery]:
    received: Received[Delivery] = Received()
    broker.consume(queue, prefetch, received)
    return received


async def test_a_message_arrives_as_it_was_published(brokers: Brokers) -> None:
    broker = await brokers.start()
    received = consume(broker)
    body = bytes(range(256)) * 1200  # larger than a frame
    await surely(lambda: broker.publish(QUEUE, body, "id-1"))
    delivery = await received.take()
    assert delivery.body == body
    assert delivery.message_id == "id-1"
    assert delivery.redelivered is False
    await delivery.ack()


async def test_messages_wait_for_a_consumer_and_keep_their_order(brokers: Brokers) -> None:
    broker = await brokers.start()
    bodies = [b"%d" % number for number in range(20)]
    await publish(broker, *bodies)
    received = consume(broker, prefetch=50)
    assert [delivery.body for delivery in await received.count(20)] == bodies


async def test_an_acked_message_is_gone(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    received = consume(first)
    await publish(first, b"acked")
    await (await received.take()).ack()
    await brokers.stop(first)
    later = consume(second)
    await publish(second, b"fence")
    assert (await later.take()).body == b"fence"


async def test_a_requeued_message_comes_again_and_says_so(brokers: Brokers) -> None:
    broker = await brokers.start()
    received = consume(broker, prefetch=1)
    await publish(broker, b"again")
    await (await received.take()).requeue()
    again = await received.take()
    assert (again.body, again.message_id, again.redelivered) == (b"again", "again", True)
    await again.ack()


@pytest.mark.parametrize("queue", [QUEUE, RETRIES])
async def test_a_rejected_message_goes_to_the_dead_letters(brokers: Brokers, queue: str) -> None:
    broker = await brokers.start()
    received, dead = consume(broker, queue=queue), consume(broker, queue=DEAD)
    await publish(broker, b"poison", b"good", queue=queue)
    await (await received.take()).reject()
    letter = await dead.take()
    assert (letter.body, letter.message_id) == (b"poison", "poison")
    await letter.ack()
    assert (await received.take()).body == b"good"


async def test_a_delivery_tells_how_often_the_broker_has_taken_it_back(brokers: Brokers) -> None:
    broker = await brokers.start()
    received = consume(broker, prefetch=1)
    await publish(broker, b"job")
    for returns in range(3):
        delivery = await received.take()
        assert (delivery.delivery_count, delivery.redelivered) == (returns, returns > 0)
        await delivery.requeue()
    await received.take()
    await brokers.disrupt()  # a lost connection counts as well
    assert (await received.take()).delivery_count == 4


async def test_a_message_in_a_wait_queue_goes_first_when_its_time_has_come(brokers: Brokers) -> None:
    broker = await brokers.start()
    jobs, first = consume(broker), consume(broker, queue=RETRIES)
    shortest, next_longer = DELAYS[:2]
    began = time.monotonic()
    await publish(broker, b"later", b"and behind it", queue=delay_queue("work", shortest))
    assert await broker.depth(delay_queue("work", shortest)) == 2
    assert await broker.depth(RETRIES) == 0
    delivery = await first.take()
    assert shortest - 0.1 <= time.monotonic() - began < next_longer  # the broker's clock is not ours
    assert (delivery.body, delivery.message_id, delivery.delivery_count) == (b"later", "later", 0)
    assert (await first.take()).body == b"and behind it"
    assert await broker.depth(delay_queue("work", shortest)) == 0
    await publish(broker, b"fence")
    assert [(await jobs.take()).body] == [b"fence"]  # it went to no other queue


async def test_the_depth_is_what_nobody_holds(brokers: Brokers) -> None:
    broker, other = await brokers.start(), await brokers.start()
    assert await broker.depth(QUEUE) == 0
    await publish(broker, *[b"%d" % number for number in range(5)])
    assert await broker.depth(QUEUE) == await other.depth(QUEUE) == 5
    held = consume(other, prefetch=2)
    await held.count(2)
    assert await broker.depth(QUEUE) == 3
    await brokers.stop(other)
    await until_depth(broker, 5)
    await brokers.disrupt()
    await until_depth(broker, 5)


async def test_a_process_reads_and_fills_the_queues_of_a_pipeline_that_only_others_know(
    brokers: Brokers,
) -> None:
    received = consume(await brokers.start(), prefetch=1)
    broker = await brokers.start(brokers.create(replace(brokers.topology, pipelines=())))
    await publish(broker, b"first", b"second")
    assert (await received.take()).body == b"first"
    await until_depth(broker, 1)


async def until_depth(broker: Broker, expected: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(BrokerUnavailable):  # connections come back by themselves
                if await broker.depth(QUEUE) == expected:
                    return
            await asyncio.sleep(0.02)


async def test_the_depth_of_a_queue_that_does_not_exist_is_an_error_and_breaks_nothing(
    brokers: Brokers,
) -> None:
    broker = await brokers.start()
    received = consume(broker)
    asked = await asyncio.gather(
        *[broker.depth(queue) for queue in (QUEUE, "jobs.nowhere", RETRIES)], return_exceptions=True
    )
    assert asked[0::2] == [0, 0]
    assert isinstance(asked[1], BrokerUnavailable)
    assert "jobs.nowhere" in str(asked[1])
    await publish(broker, b"fence")
    assert (await received.take()).body == b"fence"
    assert await broker.depth(QUEUE) == 0
    with pytest.raises(BrokerUnavailable):
        await brokers.create().depth(QUEUE)  # which does not run


async def test_no_more_than_prefetch_messages_are_held_unsettled(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    held = consume(first, prefetch=3)
    await publish(first, *[b"%d" % number for number in range(10)])
    await held.count(3)
    rest = consume(second, prefetch=100)
    await rest.count(7)  # all that the first consumer was not given
    assert len(held.items) == 3


async def test_a_settled_slot_is_filled_again(brokers: Brokers) -> None:
    broker = await brokers.start()
    received = consume(broker, prefetch=2)
    await publish(broker, *[b"%d" % number for number in range(6)])
    for number in range(6):
        delivery = await received.take()
        assert delivery.body == b"%d" % number
        await delivery.ack()


async def test_two_consumers_share_and_none_gets_the_others_message(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    one, two = consume(first, prefetch=5), consume(second, prefetch=5)
    await publish(first, *[b"%d" % number for number in range(10)])
    await one.count(5)
    await two.count(5)
    assert {d.body for d in one.items} | {d.body for d in two.items} == {b"%d" % n for n in range(10)}


async def test_what_a_stopped_process_held_goes_to_another_and_says_so(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    held = consume(first)
    await publish(first, b"0", b"1", b"2")
    await held.count(3)
    other = consume(second)
    await brokers.stop(first)
    deliveries = await other.count(3)
    assert sorted(delivery.body for delivery in deliveries) == [b"0", b"1", b"2"]
    assert all(delivery.redelivered for delivery in deliveries)


async def test_after_cancel_messages_go_elsewhere_and_what_is_held_can_be_settled(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    received: Received[Delivery] = Received()
    subscription = first.consume(QUEUE, 1, received)
    await publish(first, b"held", b"waiting")
    held = await received.take()
    await subscription.cancel()
    assert not subscription.attached
    other = consume(second)
    assert (await other.take()).body == b"waiting"
    await held.ack()
    await brokers.stop(first)
    await publish(second, b"fence")
    assert (await other.take()).body == b"fence"  # and "held" did not come back before it
    assert len(received.items) == 1


async def test_cancel_may_be_called_twice_and_before_run(brokers: Brokers) -> None:
    broker = brokers.create()
    never: Received[Delivery] = Received()
    subscription = broker.consume(QUEUE, 1, never)
    await subscription.cancel()
    await brokers.start(broker)
    await subscription.cancel()
    received = consume(broker)
    await publish(broker, b"fence")
    assert (await received.take()).body == b"fence"
    assert never.items == []


async def test_a_consumer_can_be_replaced_with_another_prefetch(brokers: Brokers) -> None:
    broker = await brokers.start()
    one: Received[Delivery] = Received()
    subscription = broker.consume(QUEUE, 1, one)
    await attached(subscription)
    await subscription.cancel()
    two = consume(broker, prefetch=4)
    await publish(broker, b"0", b"1", b"2", b"3")
    await two.count(4)
    assert one.items == []


async def test_publishing_to_a_queue_that_does_not_exist_is_unroutable(brokers: Brokers) -> None:
    broker = await brokers.start()
    with pytest.raises(Unroutable, match=r"jobs\.nowhere"):
        await surely(lambda: broker.publish("jobs.nowhere", b"x", "x"))
    received = consume(broker)
    await publish(broker, b"fence")  # the publisher survived it
    assert (await received.take()).body == b"fence"


async def test_one_id_to_two_queues_at_once_is_told_apart(brokers: Brokers) -> None:
    broker = await brokers.start()
    received = consume(broker)
    sent = await asyncio.gather(
        *[broker.publish(queue, queue.encode(), "same") for queue in (QUEUE, "jobs.nowhere", QUEUE)],
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in sent] == [type(None), Unroutable, type(None)]
    assert [delivery.body for delivery in await received.count(2)] == [QUEUE.encode()] * 2


async def test_a_callback_that_raises_does_not_end_the_consumer(brokers: Brokers) -> None:
    broker = await brokers.start()
    received: Received[Delivery] = Received()

    def fragile(delivery: Delivery) -> None:
        received(delivery)
        if delivery.body == b"bad":
            raise ValueError("a defect of the callback")

    broker.consume(QUEUE, 10, fragile)
    await publish(broker, b"bad", b"good")
    assert [delivery.body for delivery in await received.count(2)] == [b"bad", b"good"]


async def test_a_thousand_messages_are_all_handled_once(brokers: Brokers) -> None:
    producer, first, second = [await brokers.start() for _ in range(3)]
    ids = {f"{number}" for number in range(1000)}
    done: Received[str] = Received()
    gate = asyncio.Semaphore(100)

    async def settle(delivery: Delivery) -> None:
        await delivery.ack()
        done(delivery.message_id)

    async def send(name: str) -> None:
        async with gate:
            await surely(lambda: producer.publish(QUEUE, b"x" * 500, name))

    async with asyncio.TaskGroup() as tasks:

        def hand_over(delivery: Delivery) -> None:
            tasks.create_task(settle(delivery))

        for consumer in (first, second):
            consumer.consume(QUEUE, 50, hand_over)
        for name in ids:
            tasks.create_task(send(name))
        await done.until(lambda items: set(items) == ids)
    assert len(done.items) == 1000
