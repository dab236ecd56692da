"""The topology at a real broker: created once, compared in words, and refused at start where it differs."""

import asyncio
from dataclasses import replace

import aio_pika
import pytest
from pamqp.common import FieldTable

from eco2.broker.rabbitmq import RabbitMQ, apply, check
from eco2.broker.topology import Exchange, Topology
from eco2.errors import BrokerUnavailable, ConfigurationError
from tests.conformance.rabbitmq_node import delete

UNREACHABLE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix, pipelines=("scan", "other"))


async def test_check_names_what_is_missing_and_creates_nothing(amqp_url: str, topology: Topology) -> None:
    for _ in range(2):
        differences = await check(amqp_url, topology)
        assert len(differences) == len(topology.entities)
        assert f"queue {topology.prefix}.jobs.scan does not exist" in "\n".join(differences)
        assert all("eco2 topology apply" in difference for difference in differences)


async def test_after_apply_there_is_no_difference_and_applying_again_is_harmless(
    amqp_url: str, topology: Topology
) -> None:
    await apply(amqp_url, topology)
    await apply(amqp_url, topology)
    assert await check(amqp_url, topology) == []
    await delete(amqp_url, topology)


async def test_a_different_retention_is_said_in_words(amqp_url: str, topology: Topology) -> None:
    await apply(amqp_url, topology)
    other = replace(topology, retention_hours=72)
    (difference,) = await check(amqp_url, other)
    assert difference.startswith(f"queue {topology.stream}: x-max-age is 24h at the broker, 72h here")
    assert "ECO2_PREFIX" in difference
    await delete(amqp_url, topology)


async def test_a_process_does_not_start_on_another_topology_and_says_every_difference(
    amqp_url: str, topology: Topology
) -> None:
    jobs, live = f"{topology.prefix}.jobs.scan", topology.live
    arguments: FieldTable = {"x-queue-type": "quorum", "x-delivery-limit": 20}
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.declare_queue(jobs, durable=True, arguments=arguments)
        await channel.declare_exchange(live, "fanout", durable=True)
    with pytest.raises(ConfigurationError) as refusal:
        async with asyncio.timeout(20):
            await RabbitMQ(amqp_url, topology).run(asyncio.Event())
    text = str(refusal.value)
    assert f"exchange {live}: type is fanout at the broker, topic here" in text
    assert f"queue {jobs}: " in text
    assert "at the broker" in text
    await delete(amqp_url, topology)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("x-delivery-limit", 20, "x-delivery-limit is 20 at the broker, 1000 here"),
        ("x-dead-letter-strategy", "at-most-once", "is at-most-once at the broker, at-least-once here"),
        ("x-dead-letter-routing-key", "elsewhere", "is elsewhere at the broker"),
        ("x-overflow", None, "x-overflow is none at the broker, reject-publish here"),
        ("x-single-active-consumer", True, "x-single-active-consumer is true at the broker, none here"),
    ],
)
async def test_each_argument_of_a_work_queue_is_compared(
    amqp_url: str, topology: Topology, argument: str, value: str | int | None, said: str
) -> None:
    jobs = next(each for each in topology.entities if each.name.endswith("jobs.scan"))
    assert not isinstance(jobs, Exchange)
    arguments = {**jobs.arguments, argument: value}
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        given: FieldTable = {name: each for name, each in arguments.items() if each is not None}
        await channel.declare_queue(jobs.name, durable=True, arguments=given)
    (difference,) = [line for line in await check(amqp_url, topology) if "does not exist" not in line]
    assert difference.startswith(f"queue {jobs.name}: ")
    assert said in difference
    await delete(amqp_url, topology)


async def test_an_unreachable_broker_and_a_refused_login_are_told_apart(
    amqp_url: str, topology: Topology
) -> None:
    with pytest.raises(BrokerUnavailable, match="ECO2_AMQP_URL"):
        await check(UNREACHABLE, topology)
    wrong = amqp_url.replace("guest:guest@", "guest:wrong@")
    with pytest.raises(ConfigurationError, match="login"):
        await check(wrong, topology)
    with pytest.raises(ConfigurationError, match="login"):
        async with asyncio.timeout(20):
            await RabbitMQ(wrong, topology).run(asyncio.Event())
