"""Each unkindness of the embedded broker: it happens, a seed repeats it, and without a seed there is none."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from operator import methodcaller

import pytest

from eco2.broker.embedded import CALM, Chaos, Embedded
from eco2.broker.embedded.chaos import Dice, Fate
from eco2.broker.embedded.queues import Message
from eco2.errors import BrokerUnavailable, DeliveryLost, Eco2Error, PublishUncertain
from eco2.ports import Delivery, FromStart, Record
from eco2.testing.clock import run_virtual, virtual
from tests.support.embedded import QUEUE, TOPOLOGY, only, quiet, running, server

Outcome = tuple[list[type[Exception] | None], list[bytes]]
"""What the publisher was told of each publish, and what the queue held in the end."""


async def publish_each(chaos: Chaos | None, count: int = 300) -> Outcome:
    broker = Embedded(TOPOLOGY, server(chaos))
    told: list[type[Exception] | None] = []
    arrived: list[bytes] = []
    async with running(broker):
        for number in range(count):
            try:
                await broker.publish(QUEUE, b"%d" % number, str(number))
                told.append(None)
            except Eco2Error as error:
                told.append(type(error))
            if number % 10 == 9:
                await quiet()
        broker.consume(QUEUE, count * 2, lambda delivery: arrived.append(delivery.body))
        await quiet()
    return told, arrived


def of(told: list[type[Exception] | None], arrived: list[bytes]) -> Counter[tuple[str, bool]]:
    """How often a publish ended so and did (not) arrive."""
    there = set(arrived)
    return Counter(
        (error.__name__ if error else "confirmed", b"%d" % number in there)
        for number, error in enumerate(told)
    )


def test_without_a_seed_nothing_unkind_happens() -> None:
    told, arrived = run_virtual(publish_each(None))
    assert told == [None] * 300
    assert arrived == [b"%d" % number for number in range(300)]


def test_calm_has_no_rate_at_all() -> None:
    assert all(getattr(CALM, field.name) == 0 for field in fields(Chaos) if field.name != "most_gap")


@virtual
async def test_a_lost_confirm_is_uncertain_though_the_message_is_in() -> None:
    assert set(of(*await publish_each(only(lost_confirm=0.3)))) == {
        ("confirmed", True),
        ("PublishUncertain", True),
    }


@virtual
async def test_a_lost_publish_is_uncertain_and_never_arrives() -> None:
    assert set(of(*await publish_each(only(lost_publish=0.3)))) == {
        ("confirmed", True),
        ("PublishUncertain", False),
    }


@virtual
async def test_a_ghost_arrives_after_newer_messages() -> None:
    told, arrived = await publish_each(only(ghost=0.3))
    assert set(of(told, arrived)) == {("confirmed", True), ("PublishUncertain", True)}
    assert arrived != sorted(arrived, key=int)
    assert sorted(arrived, key=int) == [b"%d" % number for number in range(300)]


@virtual
async def test_a_ghost_arrives_only_after_its_publisher_gave_up() -> None:
    broker = Embedded(TOPOLOGY, server(only(ghost=1)))
    seen: list[Record] = []
    broker.tail(FromStart(), seen.append)
    async with running(broker):
        with pytest.raises(PublishUncertain):
            await broker.append(b"ghost", "id")
        assert seen == []
        await quiet()
        assert [record.body for record in seen] == [b"ghost"]


@virtual
async def test_a_late_confirm_comes_after_a_reader_saw_the_message() -> None:
    broker = Embedded(TOPOLOGY, server(only(late_confirm=1)))
    seen: list[Record] = []
    broker.tail(FromStart(), seen.append)
    async with running(broker):
        began = asyncio.get_running_loop().time()
        await broker.append(b"x", "x")
        assert len(seen) == 1
        assert 0 < asyncio.get_running_loop().time() - began <= 1


@virtual
async def test_a_lagging_tail_is_behind_the_confirm() -> None:
    broker = Embedded(TOPOLOGY, server(only(lag=1)))
    seen: list[Record] = []
    broker.tail(FromStart(), seen.append)
    async with running(broker):
        await broker.append(b"x", "x")
        assert seen == []
        await quiet()
        assert len(seen) == 1


@virtual
async def test_a_blocked_broker_refuses_says_why_and_recovers() -> None:
    broker = Embedded(TOPOLOGY, server(only(seed=3, block=0.05)))
    async with running(broker):
        while broker.blocked is None:
            with suppress(BrokerUnavailable):
                await broker.publish(QUEUE, b"x", "x")
        for send in (
            broker.publish(QUEUE, b"x", "x"),
            broker.append(b"x", "x"),
        ):
            with pytest.raises(BrokerUnavailable, match="memory"):
                await send
        broker.broadcast("a", b"dropped")
        await quiet()
        assert broker.blocked is None


@virtual
async def test_a_cut_loses_the_connection_and_leaves_the_publish_uncertain() -> None:
    counts = of(*await publish_each(only(cut=0.2)))
    assert set(counts) == {
        ("confirmed", True),
        ("PublishUncertain", True),
        ("PublishUncertain", False),
        ("BrokerUnavailable", False),  # until it is connected again
    }


async def settle_each(chaos: Chaos, consumers: int = 1) -> Counter[tuple[str, int]]:
    """Works 200 messages off, each for a second; how often an ack ended so at the n-th delivery."""
    shared = server(chaos)
    brokers = [Embedded(TOPOLOGY, shared) for _ in range(consumers)]
    deliveries: Counter[str] = Counter()
    outcomes: Counter[tuple[str, int]] = Counter()

    async def work(delivery: Delivery) -> None:
        deliveries[delivery.message_id] += 1
        nth = deliveries[delivery.message_id]
        assert delivery.redelivered or nth == 1
        await asyncio.sleep(1)
        try:
            await delivery.ack()
            outcomes["acked", nth] += 1
        except DeliveryLost:
            outcomes["lost", nth] += 1

    async with running(*brokers), asyncio.TaskGroup() as tasks:

        def hand_over(delivery: Delivery) -> None:
            tasks.create_task(work(delivery))

        for broker in brokers:
            broker.consume(QUEUE, 5, hand_over)
        for number in range(200):
            shared.queues[TOPOLOGY.queue(QUEUE)].put(Message(b"", str(number)))
        for _ in range(20):
            await quiet()
    assert len(deliveries) == 200
    return outcomes


@virtual
async def test_a_lost_ack_brings_the_message_again() -> None:
    outcomes = await settle_each(only(lost_ack=0.2))
    assert outcomes["acked", 1] == 200
    assert 20 < outcomes["acked", 2] < 60


@virtual
async def test_a_delivery_is_taken_away_and_another_consumer_gets_it() -> None:
    outcomes = await settle_each(only(redeliver=0.2), consumers=2)
    assert 20 < outcomes["lost", 1] < 60
    assert outcomes["acked", 1] == 200 - outcomes["lost", 1]


@virtual
async def test_a_delivery_is_not_taken_away_where_nobody_else_could_get_it() -> None:
    assert await settle_each(only(redeliver=1)) == {("acked", 1): 200}


@virtual
async def test_a_cut_at_settling_loses_what_the_connection_held() -> None:
    outcomes = await settle_each(only(cut=0.05))
    assert outcomes["lost", 1] > 10
    assert sum(count for (end, _), count in outcomes.items() if end == "acked") == 200


@pytest.mark.parametrize(
    "draw",
    [
        Dice.publish,
        methodcaller("happens", "cut"),
        Dice.half,
        methodcaller("happens", "lost_ack"),
        methodcaller("happens", "redeliver"),
        methodcaller("happens", "lost_live"),
        Dice.lag,
        Dice.gap,
        Dice.early,
    ],
)
def test_the_same_seed_draws_the_same_fates(draw: Callable[[Dice], object]) -> None:
    def fates(seed: int) -> list[object]:
        dice = Dice(Chaos(seed=seed))
        return [draw(dice) for _ in range(2000)]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)


def test_other_questions_in_between_change_no_answer() -> None:
    alone, mixed = Dice(Chaos(seed=1)), Dice(Chaos(seed=1))
    expected = [alone.publish() for _ in range(500)]
    got = []
    for _ in range(500):
        mixed.gap()
        mixed.happens("lost_ack")
        got.append(mixed.publish())
    assert got == expected


def test_fates_come_at_their_rates() -> None:
    dice = Dice(Chaos(seed=5))
    counts = Counter(dice.publish() for _ in range(20_000))
    for fate in Fate:
        if fate is not Fate.CONFIRMED:
            assert counts[fate] == pytest.approx(getattr(dice.chaos, fate.value) * 20_000, rel=0.35)


def test_the_same_seed_repeats_a_whole_run() -> None:
    first, again, other = [run_virtual(publish_each(Chaos(seed=seed, delay=1))) for seed in (1, 1, 2)]
    assert first == again
    assert first != other
