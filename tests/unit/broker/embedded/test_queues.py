"""The embedded work queue where it goes beyond the conformance suite: limits, elections, the loop."""

import asyncio

import pytest

from eco2.broker.embedded import Embedded
from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.chaos import Dice
from eco2.broker.embedded.queues import Consumer, Message, Queue, QueueDelivery
from eco2.ports import DELAYS, delay_queue, retry_queue
from eco2.testing.clock import virtual
from tests.support.embedded import QUEUE, TOPOLOGY, quiet, running, server


def channel() -> Channel:
    return Channel(on_cut=lambda: None)


@virtual
async def test_a_callback_never_runs_inside_publish() -> None:
    queue, seen = Queue("q", Dice()), list[QueueDelivery]()
    Consumer(queue, channel(), 10, seen.append)
    queue.put(Message(b"x", "x"))
    assert seen == []
    await quiet()
    assert [delivery.body for delivery in seen] == [b"x"]


@virtual
async def test_a_message_beyond_its_delivery_limit_goes_to_the_dead_letters() -> None:
    dead, seen = list[Message](), list[QueueDelivery]()
    queue = Queue("q", Dice(), limit=2, dead=dead.append)
    Consumer(queue, channel(), 10, seen.append)
    queue.put(Message(b"x", "x"))
    for _ in range(3):
        await quiet()
        assert dead == []
        await seen[-1].requeue()
    assert [(letter.body, letter.id, letter.returns) for letter in dead] == [(b"x", "x", 0)]
    assert (len(seen), len(queue)) == (3, 0)


@virtual
async def test_without_dead_letters_a_rejected_message_is_gone() -> None:
    queue, seen = Queue("q", Dice()), list[QueueDelivery]()
    Consumer(queue, channel(), 10, seen.append)
    queue.put(Message(b"x", "x"))
    await quiet()
    await seen[0].reject()
    await quiet()
    assert (len(seen), len(queue)) == (1, 0)


@virtual
async def test_what_a_connection_held_comes_back_in_its_old_order() -> None:
    queue, held, again = Queue("q", Dice()), list[QueueDelivery](), list[QueueDelivery]()
    connection = channel()
    consumer = Consumer(queue, connection, 3, held.append)
    for number in range(5):
        queue.put(Message(b"%d" % number, ""))
    await quiet()
    consumer.cancel()
    connection.close()
    Consumer(queue, channel(), 10, again.append)
    await quiet()
    assert [delivery.body for delivery in again] == [b"0", b"1", b"2", b"3", b"4"]
    assert [delivery.redelivered for delivery in again] == [True, True, True, False, False]


@pytest.mark.parametrize("delay", DELAYS)
@virtual
async def test_a_message_waits_as_long_as_its_queue_says_and_goes_first_then(delay: int) -> None:
    broker, loop = Embedded(TOPOLOGY, server()), asyncio.get_running_loop()
    arrived: list[tuple[float, bytes, int]] = []
    broker.consume(
        retry_queue("work"), 10, lambda each: arrived.append((loop.time(), each.body, each.delivery_count))
    )
    async with running(broker):
        began = loop.time()
        for number in range(3):
            await broker.publish(delay_queue("work", delay), b"%d" % number, str(number))
            await asyncio.sleep(1)
        assert await broker.depth(delay_queue("work", delay)) == 3
        await asyncio.sleep(delay)
        assert await broker.depth(delay_queue("work", delay)) == 0
    assert [(round(at - began, 6), body, returned) for at, body, returned in arrived] == [
        (delay + number, b"%d" % number, 0) for number in range(3)
    ]


@virtual
async def test_what_is_held_beyond_its_time_moves_on_when_it_comes_back() -> None:
    dead, seen = list[Message](), list[QueueDelivery]()
    queue = Queue("q", Dice(), ttl=5, dead=dead.append)
    Consumer(queue, channel(), 1, seen.append)
    for body in (b"held", b"behind"):
        queue.put(Message(body, ""))
    await asyncio.sleep(1)
    queue.put(Message(b"waits", ""))
    await seen[0].requeue()
    await quiet()
    assert [delivery.body for delivery in seen] == [b"held", b"held"]
    assert [letter.body for letter in dead] == [b"behind", b"waits"]
    await seen[1].requeue()
    assert [letter.body for letter in dead] == [b"behind", b"waits", b"held"]
    await quiet()
    assert (len(seen), len(queue)) == (2, 0)


@virtual
async def test_two_consumers_take_turns() -> None:
    queue, one, two = Queue("q", Dice()), list[QueueDelivery](), list[QueueDelivery]()
    Consumer(queue, channel(), 100, one.append)
    Consumer(queue, channel(), 100, two.append)
    for _ in range(10):
        queue.put(Message(b"", ""))
    await quiet()
    assert (len(one), len(two)) == (5, 5)


@virtual
async def test_a_broker_alone_has_a_server_of_its_own() -> None:
    one, other = Embedded(TOPOLOGY), Embedded(TOPOLOGY)
    received: list[bytes] = []
    other.consume(QUEUE, 10, lambda delivery: received.append(delivery.body))
    async with running(one, other):
        await one.publish(QUEUE, b"x", "x")
        await quiet()
    assert received == []
