"""Starting and stopping: what holds before `run`, while it runs and after it ended."""

import asyncio
from dataclasses import replace

import pytest

from eco2.broker.topology import Queue, Topology
from eco2.errors import BrokerUnavailable, ConfigurationError
from eco2.ports import Broker, Delivery, FromStart, Record
from tests.conformance.harness import QUEUE, Brokers, Heard, Received, append, attached, eventually, publish


async def test_before_run_nothing_is_sent(brokers: Brokers) -> None:
    broker = brokers.create()
    assert not broker.ready
    with pytest.raises(BrokerUnavailable):
        await broker.publish(QUEUE, b"early", "early")
    with pytest.raises(BrokerUnavailable):
        await broker.append(b"early", "early")
    await brokers.start(broker)
    received: Received[Delivery] = Received()
    broker.consume(QUEUE, 10, received)
    await publish(broker, b"fence")
    assert (await received.take()).body == b"fence"


async def test_a_running_broker_becomes_ready_and_is_not_blocked(brokers: Brokers) -> None:
    broker = await brokers.start()
    assert broker.ready
    assert broker.blocked is None


async def test_subscriptions_made_before_run_are_attached_by_it(brokers: Brokers) -> None:
    broker = brokers.create()
    deliveries: Received[Delivery] = Received()
    records: Received[Record] = Received()
    heard = Heard()
    subscriptions = [
        broker.consume(QUEUE, 10, deliveries),
        broker.tail(FromStart(), records),
        broker.subscribe("#", heard.hear),
    ]
    assert not any(subscription.attached for subscription in subscriptions)
    await brokers.start(broker)
    assert all(subscription.attached for subscription in subscriptions)  # that is what `ready` says
    await publish(broker, b"job")
    await append(broker, b"event")
    broker.broadcast("topic", b"cast")
    assert (await deliveries.take()).body == b"job"
    assert (await records.take()).body == b"event"
    assert await heard.take() == ("topic", b"cast")


async def test_ready_waits_for_a_subscription_made_while_running(brokers: Brokers) -> None:
    broker = await brokers.start()
    subscription = broker.tail(FromStart(), lambda record: None)
    assert broker.ready == subscription.attached
    await attached(subscription)
    await eventually(lambda: broker.ready)


async def test_after_stop_nothing_is_sent_and_nothing_attached(brokers: Brokers) -> None:
    broker = await brokers.start()
    subscription = broker.tail(FromStart(), lambda record: None)
    await attached(subscription)
    await brokers.stop(broker)
    assert not broker.ready
    assert not subscription.attached
    with pytest.raises(BrokerUnavailable):
        await broker.publish(QUEUE, b"late", "late")


async def test_stop_lets_publishes_in_flight_be_confirmed(brokers: Brokers) -> None:
    broker, other = await brokers.start(), await brokers.start()
    sent = [asyncio.create_task(publish(broker, b"%d" % number)) for number in range(20)]
    await asyncio.sleep(0)  # every task has handed over its message
    await brokers.stop(broker)
    confirmed = [task for task in sent if task.done() and not task.exception()]
    received: Received[Delivery] = Received()
    other.consume(QUEUE, 100, received)
    await received.until(lambda items: len({item.body for item in items}) >= len(confirmed))
    assert len(confirmed) == 20
    assert {item.body for item in received.items} == {b"%d" % number for number in range(20)}


async def test_run_returns_at_once_when_stop_is_set_already(brokers: Brokers) -> None:
    broker = brokers.create()
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(10):
        await broker.run(stop)
    assert not broker.ready


async def test_what_was_published_outlives_every_process(brokers: Brokers) -> None:
    broker = await brokers.start()
    await publish(broker, b"job")
    await append(broker, b"event")
    await brokers.stop(broker)
    successor = await brokers.start()
    deliveries: Received[Delivery] = Received()
    records: Received[Record] = Received()
    successor.consume(QUEUE, 1, deliveries)
    successor.tail(FromStart(), records)
    assert (await deliveries.take()).body == b"job"
    assert (await records.take()).body == b"event"


def of_release_01(topology: Topology) -> Topology:
    """With the queue from which workers of release 0.1 serve a budget."""
    arguments: dict[str, str | int | bool] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    old = replace(topology)
    served = Queue(topology.queue("rpc.quota-openai"), arguments)
    object.__setattr__(old, "entities", (*topology.entities, served))
    return old


async def test_a_process_does_not_start_beside_an_old_worker_that_shares_its_budget(brokers: Brokers) -> None:
    old = await brokers.start(brokers.create(of_release_01(brokers.topology)))
    serving = old.consume("rpc.quota-openai", 10, lambda delivery: None)
    await attached(serving)

    def create(provider: str) -> Broker:
        broker = brokers.create(replace(brokers.topology, budgets=(provider,)))
        broker.tail(FromStart(), lambda record: None)
        return broker

    async with asyncio.timeout(20):
        with pytest.raises(
            ConfigurationError, match=r"release 0\.1 run.*rpc\.quota-openai.*Stop all of them"
        ):
            await create("openai").run(asyncio.Event())
    await brokers.start(create("gemini"))
    await serving.cancel()
    await brokers.start(create("openai"))
