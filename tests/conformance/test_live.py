"""Live messages: whoever listens now gets them, nobody else, and nobody waits for them."""

import pytest

from eco2.ports import Broker
from tests.conformance.harness import Brokers, Heard, attached


async def listen(broker: Broker, pattern: str) -> Heard:
    heard = Heard()
    await attached(broker.subscribe(pattern, heard.hear))
    return heard


async def test_every_listener_in_every_process_hears_it(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    listeners = [await listen(first, "job.*"), await listen(first, "job.*"), await listen(second, "job.*")]
    first.broadcast("job.1", b"hello")
    for heard in listeners:
        assert await heard.take() == ("job.1", b"hello")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("job.1", ["job.1"]),
        ("job.*", ["job.1", "job.2"]),
        ("*.1.delta", ["job.1.delta"]),
        ("job.#", ["job", "job.1", "job.2", "job.1.delta"]),
        ("#.delta", ["job.1.delta", "delta"]),
        ("#", ["job", "job.1", "job.2", "job.1.delta", "delta", "worker.a.b"]),
        ("*", ["job", "delta"]),
    ],
)
async def test_a_pattern_chooses_topics(brokers: Brokers, pattern: str, expected: list[str]) -> None:
    broker = await brokers.start()
    heard, everything = await listen(broker, pattern), await listen(broker, "#")
    topics = ("job", "job.1", "job.2", "job.1.delta", "delta", "worker.a.b")
    for topic in topics:
        broker.broadcast(topic, b"")
    await everything.count(len(topics))
    assert [topic for topic, _ in await heard.count(len(expected))] == expected


async def test_who_listens_late_hears_only_what_comes_then(brokers: Brokers) -> None:
    broker = await brokers.start()
    early = await listen(broker, "#")
    broker.broadcast("a", b"1")
    await early.take()
    late = await listen(broker, "#")
    broker.broadcast("a", b"2")
    assert await late.take() == ("a", b"2")
    assert await early.take() == ("a", b"2")


async def test_one_sender_is_heard_in_order(brokers: Brokers) -> None:
    sender, receiver = await brokers.start(), await brokers.start()
    heard = await listen(receiver, "n")
    for number in range(200):
        sender.broadcast("n", b"%d" % number)
    assert [body for _, body in await heard.count(200)] == [b"%d" % number for number in range(200)]


async def test_after_cancel_nothing_is_heard(brokers: Brokers) -> None:
    broker = await brokers.start()
    heard = Heard()
    subscription = broker.subscribe("#", heard.hear)
    await attached(subscription)
    other = await listen(broker, "#")
    await subscription.cancel()
    assert not subscription.attached
    broker.broadcast("a", b"1")
    await other.take()
    assert heard.items == []


async def test_casting_to_nobody_or_without_a_connection_is_no_error(brokers: Brokers) -> None:
    broker = brokers.create()
    broker.broadcast("a", b"before run")
    await brokers.start(broker)
    broker.broadcast("a", b"to nobody")
    heard = await listen(broker, "#")
    broker.broadcast("a", b"to someone")
    assert await heard.take() == ("a", b"to someone")
    await brokers.stop(broker)
    broker.broadcast("a", b"after run")
