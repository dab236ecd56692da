"""Dead letters at a real broker: looking at them changes nothing, dropping one drops that one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from eco2 import brokers
from eco2.broker.rabbitmq import DeadLetterMessage, apply, open_dead_letters
from eco2.broker.topology import DELIVERY_LIMIT, Topology
from eco2.errors import BrokerUnavailable, ConfigurationError, DeliveryLost
from eco2.ports import DEAD, Broker, Delivery
from eco2.settings import Settings
from tests.conformance.harness import PATIENCE, QUEUE, RETRIES, Brokers, Received, publish
from tests.conformance.rabbitmq_node import RabbitMQNode, delete
from tests.support.proxy import Proxy


@pytest.fixture
async def topology(amqp_url: str, prefix: str) -> AsyncIterator[Topology]:
    topology = Topology(prefix, pipelines=("work",))
    await apply(amqp_url, topology)
    yield topology
    await delete(amqp_url, topology)


@asynccontextmanager
async def process(url: str, topology: Topology) -> AsyncIterator[Broker]:
    async with Proxy.to(url) as proxy:
        processes = Brokers(RabbitMQNode(proxy, topology))
        try:
            yield await processes.start()
        finally:
            await processes.close()


async def bury(url: str, topology: Topology, *names: str) -> None:
    """Puts a letter of each name into the queue, in this order."""
    async with process(url, topology) as broker:
        await publish(broker, *[name.encode() for name in names], queue=DEAD)


async def bodies(url: str, topology: Topology) -> list[str]:
    async with open_dead_letters(url, topology) as held:
        return [letter.body.decode() for letter in held]


async def test_a_letter_tells_where_why_and_when_it_died(amqp_url: str, topology: Topology) -> None:
    began = int(time.time())  # the broker tells whole seconds
    received: Received[Delivery] = Received()
    async with process(amqp_url, topology) as broker:
        broker.consume(RETRIES, 1, received)
        await publish(broker, b"poison", queue=RETRIES)
        await (await received.take()).reject()
        letter = await only(amqp_url, topology)
    assert (letter.body, letter.message_id) == (b"poison", "poison")
    assert (letter.queue, letter.reason, letter.count) == (RETRIES, "rejected", 1)
    assert letter.when is not None
    assert began <= letter.when <= time.time()


async def test_a_letter_tells_that_its_delivery_limit_killed_it(amqp_url: str, topology: Topology) -> None:
    seen = 0

    async def reject(message: AbstractIncomingMessage) -> None:
        # Not by a nack, as the adapter gives orders back: from RabbitMQ 4.3 that does not count.
        nonlocal seen
        seen += 1
        await message.reject(requeue=True)

    async with process(amqp_url, topology) as broker:
        await publish(broker, b"hot potato")
        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            await channel.set_qos(prefetch_count=1)
            await (await channel.get_queue(topology.queue(QUEUE))).consume(reject)
            letter = await only(amqp_url, topology)
    assert (letter.queue, letter.reason) == (QUEUE, "delivery_limit")
    assert seen == DELIVERY_LIMIT + 1


async def only(url: str, topology: Topology) -> DeadLetterMessage:
    """The one letter, as soon as it is there; it stays there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with open_dead_letters(url, topology) as held:
                if held:
                    (letter,) = held
                    return letter


async def test_thirty_looks_lose_nothing_and_keep_the_order(amqp_url: str, topology: Topology) -> None:
    names = [f"{number}" for number in range(200)]
    await bury(amqp_url, topology, *names)
    for _ in range(30):
        assert await bodies(amqp_url, topology) == names


async def test_a_dropped_letter_is_gone_and_the_others_keep_their_order(
    amqp_url: str, topology: Topology
) -> None:
    names = [f"{number}" for number in range(100)]
    await bury(amqp_url, topology, *names)
    for divisor in (3, 5, 7):
        async with open_dead_letters(amqp_url, topology) as held:
            assert [letter.message_id for letter in held] == names
            for letter in held:
                if int(letter.message_id) % divisor == 0:
                    await letter.drop()
                    await letter.drop()
        names = [name for name in names if int(name) % divisor]
    async with open_dead_letters(amqp_url, topology) as held:
        assert [letter.message_id for letter in held] == names
        for letter in held:
            await letter.drop()
    assert await bodies(amqp_url, topology) == []


async def test_letters_beyond_the_limit_stay_while_others_are_dropped(
    amqp_url: str, topology: Topology
) -> None:
    names = [f"{number}" for number in range(100)]
    await bury(amqp_url, topology, *names)
    for divisor in (3, 5, 7):
        async with open_dead_letters(amqp_url, topology, 50) as held:
            assert len(held) == 50
            for letter in held:
                if int(letter.message_id) % divisor == 0:
                    await letter.drop()
                    names.remove(letter.message_id)
        assert sorted(await bodies(amqp_url, topology)) == sorted(names)


async def test_an_exception_passes_and_what_was_not_dropped_goes_back(
    amqp_url: str, topology: Topology
) -> None:
    await bury(amqp_url, topology, "0", "1", "2")
    for error in (TimeoutError("ours"), asyncio.CancelledError(), BrokerUnavailable("ours")):
        with pytest.raises(type(error)) as raised:
            async with open_dead_letters(amqp_url, topology):
                raise error
        assert raised.value is error
        assert await bodies(amqp_url, topology) == ["0", "1", "2"]


async def test_what_was_dropped_before_an_exception_is_gone(amqp_url: str, topology: Topology) -> None:
    await bury(amqp_url, topology, "0", "1", "2")

    async def replay(held: list[DeadLetterMessage]) -> None:
        await held[1].drop()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with open_dead_letters(amqp_url, topology) as held:
            await replay(held)
    assert await bodies(amqp_url, topology) == ["0", "2"]


async def test_a_limit_takes_the_oldest_and_others_may_take_the_rest(
    amqp_url: str, topology: Topology
) -> None:
    await bury(amqp_url, topology, *"01234")
    async with open_dead_letters(amqp_url, topology, limit=2) as held:
        assert [letter.body for letter in held] == [b"0", b"1"]
        assert await bodies(amqp_url, topology) == ["2", "3", "4"]
    assert sorted(await bodies(amqp_url, topology)) == ["0", "1", "2", "3", "4"]
    for limit in (0, 65_536):
        with pytest.raises(ValueError, match="limit"):
            await open_dead_letters(amqp_url, topology, limit).__aenter__()


async def test_the_settings_lead_to_the_letters(amqp_url: str, topology: Topology) -> None:
    await bury(amqp_url, topology, *"012")
    async with brokers.open_dead_letters(Settings(amqp_url=amqp_url), topology, limit=2) as held:
        assert [letter.message_id for letter in held] == ["0", "1"]


async def test_a_message_that_somebody_published_there_has_no_death(
    amqp_url: str, topology: Topology
) -> None:
    await bury(amqp_url, topology, "by hand")
    async with open_dead_letters(amqp_url, topology) as (letter,):
        assert (letter.queue, letter.reason, letter.when, letter.count) == (None, None, None, 0)


async def test_letters_of_a_lost_connection_are_back_and_dropping_says_so(
    amqp_url: str, topology: Topology
) -> None:
    await bury(amqp_url, topology, "0", "1", "2")
    async with Proxy.to(amqp_url) as proxy:
        async with open_dead_letters(proxy.url, topology) as held:
            await held[0].drop()
            proxy.cut()
            with pytest.raises(DeliveryLost):
                await held[1].drop()
        async with asyncio.timeout(PATIENCE):
            # The broker has no notice of the loss that it noticed.
            while sorted(await bodies(amqp_url, topology)) != ["1", "2"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_what_cannot_be_read_says_why(amqp_url: str, topology: Topology) -> None:
    with pytest.raises(BrokerUnavailable, match="ECO2_AMQP_URL"):
        await bodies("amqp://guest:guest@127.0.0.1:1/", topology)
    with pytest.raises(ConfigurationError, match="login"):
        await bodies(amqp_url.replace("guest:guest@", "guest:wrong@"), topology)
    with pytest.raises(BrokerUnavailable, match="topology check"):
        await bodies(amqp_url, Topology(f"{topology.prefix}.nowhere"))
