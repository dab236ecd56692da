"""Declares the topology at a RabbitMQ broker, or explains how the broker's differs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aio_pika import Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource, ChannelPreconditionFailed

from eco2.broker.addresses import parse
from eco2.broker.rabbitmq import versions
from eco2.broker.rabbitmq.connect import Server, connect, server
from eco2.broker.rabbitmq.connection_errors import map_connection_errors, reason_of
from eco2.broker.topology import Entity, Exchange, Topology, difference, missing, old_workers
from eco2.errors import BrokerUnavailable, ConfigurationError
from eco2.job import PRIORITIES
from eco2.log import get_logger
from eco2.ports import jobs_queue

log = get_logger(__name__)

HEARTBEAT = 10.0
"""Seconds; the library's own would notice a dead broker after three minutes."""
REFUSALS = (ChannelPreconditionFailed, ChannelAccessRefused, ChannelLockedResource)
UNREACHABLE = "the broker cannot be reached; look at ECO2_AMQP_URL"


async def apply(url: str, topology: Topology) -> None:
    """Creates what is missing. Raises `ConfigurationError` with every difference, `BrokerUnavailable`."""
    async with _connected(url) as connection:
        await declare(connection, topology)


async def check(url: str, topology: Topology) -> list[str]:
    """Every difference between the broker and `topology`, one line each; creates nothing."""
    async with _connected(url) as connection:
        return await find_differences(connection, topology)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A broker's version, the cautions about it, and what the broker lacks: a sentence each."""

    server: Server
    cautions: list[str]
    differences: list[str]


async def inspect(url: str, topology: Topology, largest: int) -> Inspection:
    """Looks at everything that the broker can be asked for; creates nothing.

    `largest`: bytes of the largest message that it must take. So large a message is sent, to no queue: no
    other request shows a broker's limit.
    """
    async with _connected(url) as connection:
        found = server(connection)
        differences = await find_differences(connection, topology)
        if refusal := await _refusal_of_size(connection, f"{topology.prefix}.probe", largest):
            differences.append(refusal)
        if problem := versions.too_old(found):
            differences.insert(0, problem)
        cautions = [*versions.cautions(found), *await _unserved(connection, topology)]
        return Inspection(found, cautions, differences)


async def find_differences(connection: AbstractConnection, topology: Topology) -> list[str]:
    """Lists how the broker of `connection` differs from `topology`, a sentence each."""
    found = [await _compare(connection, entity) for entity in topology.entities]
    return [line for line in found if line]


async def _refusal_of_size(connection: AbstractConnection, key: str, size: int) -> str | None:
    try:
        async with connection.channel(publisher_confirms=True) as channel:
            await channel.default_exchange.publish(Message(bytes(size)), key, mandatory=False)
    except ChannelPreconditionFailed as error:
        return (
            f"the broker refuses requests that the gateway takes: {reason_of(error)}; raise max_message_size "
            f"in rabbitmq.conf to {size} or more, or lower ECO2_MAX_UPLOAD_MB"
        )
    return None


async def _unserved(connection: AbstractConnection, topology: Topology) -> list[str]:
    """A sentence for each pipeline whose work queue has no consumer."""
    found = []
    for name in topology.pipelines:
        queues = [topology.queue(jobs_queue(name, priority)) for priority in PRIORITIES]
        if 0 in [await _consumers(connection, queue) for queue in queues]:
            found.append(
                f"no worker takes jobs of the pipeline {name}: start one that serves it (or `eco2 resume`, "
                "if the intake is paused); until then its jobs wait, and end at their deadline"
            )
    return found


async def refuse_old_workers(connection: AbstractConnection, topology: Topology) -> None:
    """Raises `ConfigurationError` if workers of release 0.1 share a budget with this process."""
    for queue in topology.old_budgets:
        if await _consumers(connection, queue):
            raise ConfigurationError(old_workers(queue))


async def _consumers(connection: AbstractConnection, queue: str) -> int | None:
    """The number of consumers of `queue`; None if it does not exist."""
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            return (await channel.get_queue(queue)).declaration_result.consumer_count
    except ChannelNotFoundEntity:
        return None


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Creates what the broker of `connection` lacks; raises `ConfigurationError` with every difference."""
    if problem := versions.too_old(server(connection)):
        raise ConfigurationError(problem)
    found = [await _declare(connection, entity) for entity in topology.entities]
    if differences := [line for line in found if line]:
        raise ConfigurationError(
            "the broker's topology is not the one this program needs:\n" + "\n".join(differences)
        )


async def _compare(connection: AbstractConnection, entity: Entity) -> str | None:
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            if isinstance(entity, Exchange):
                await channel.get_exchange(entity.name)
            else:
                await channel.get_queue(entity.name)
    except ChannelNotFoundEntity:
        return missing(entity)
    except REFUSALS as refusal:
        return explain_refusal(entity, refusal)
    return await _declare(connection, entity)


async def _declare(connection: AbstractConnection, entity: Entity) -> str | None:
    """Declares `entity` on a channel of its own, since a difference closes the channel; returns that."""
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            if isinstance(entity, Exchange):
                await channel.declare_exchange(entity.name, entity.type, durable=True)
            else:
                await channel.declare_queue(entity.name, durable=True, arguments=dict(entity.arguments))
    except REFUSALS as refusal:
        return explain_refusal(entity, refusal)
    return None


def explain_refusal(entity: Entity, refusal: ChannelClosed) -> str:
    """Says what to do about the broker's `refusal` to declare `entity`, after the broker's own words."""
    text = reason_of(refusal)
    if isinstance(refusal, ChannelAccessRefused):
        advice = "let the user of ECO2_AMQP_URL configure, write and read it (`rabbitmqctl set_permissions`)"
    elif isinstance(refusal, ChannelLockedResource):
        advice = "another connection has it for itself: end that one, or use another ECO2_PREFIX"
    elif "limit" in text and "inequivalent" not in text:
        advice = "raise that limit (`rabbitmqctl set_vhost_limits`), or delete queues that are not used"
    else:
        return difference(entity, text)
    return f"{entity.kind} {entity.name}: {text}; {advice}"


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AbstractConnection]:
    async with await open_for(url, "eco2 topology") as connection:
        with map_connection_errors(BrokerUnavailable, UNREACHABLE):
            yield connection


async def open_for(url: str, name: str) -> AbstractConnection:
    """Opens a connection for an operator's command, called `name`: to the first host of `url` that takes it.

    Raises `ConfigurationError` for a refused login or vhost, `BrokerUnavailable`, each of the last host.
    """
    *others, last = parse(url)
    for address in others:
        try:
            return await connect(address, name, HEARTBEAT)
        except (BrokerUnavailable, ConfigurationError) as error:
            log.info("trying the next host", why=str(error))
    try:
        return await connect(last, name, HEARTBEAT)
    except BrokerUnavailable as error:
        raise BrokerUnavailable(f"{UNREACHABLE}: {error}") from error
