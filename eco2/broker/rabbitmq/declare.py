"""Declares the topology at a RabbitMQ, or says in words where the broker's differs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AuthenticationError, ChannelNotFoundEntity, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from eco2.broker.rabbitmq.loss import lost_as
from eco2.broker.topology import Entity, Exchange, Topology, difference, missing
from eco2.errors import BrokerUnavailable, StartError

CONNECT_TIMEOUT = 10.0
HEARTBEAT = "10"
"""Seconds; the library's own would notice a dead broker after three minutes."""
UNREACHABLE = "the broker cannot be reached; look at ECO2_AMQP_URL"


async def apply(url: str, topology: Topology) -> None:
    """Creates what is missing. Raises `StartError` with every difference, `BrokerUnavailable`."""
    async with _connected(url) as connection:
        await declare(connection, topology)


async def check(url: str, topology: Topology) -> list[str]:
    """Every difference between the broker and `topology`, one line each; creates nothing."""
    async with _connected(url) as connection:
        found = [await _compare(connection, entity) for entity in topology.entities]
    return [line for line in found if line]


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Creates what is missing at the broker of `connection`; raises `StartError` with every difference."""
    found = [await _declare(connection, entity) for entity in topology.entities]
    if differences := [line for line in found if line]:
        raise StartError(
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
    return await _declare(connection, entity)


async def _declare(connection: AbstractConnection, entity: Entity) -> str | None:
    """Declares `entity` on a channel of its own, since a difference closes the channel; returns that."""
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            if isinstance(entity, Exchange):
                await channel.declare_exchange(entity.name, entity.type, durable=True)
            else:
                await channel.declare_queue(entity.name, durable=True, arguments=dict(entity.arguments))
    except (ChannelPreconditionFailed, ChannelAccessRefused) as reason:
        return difference(entity, str(reason))
    return None


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AbstractConnection]:
    async with await connect(url, "eco2 topology") as connection:
        with lost_as(BrokerUnavailable, UNREACHABLE):
            yield connection


async def connect(url: str, name: str) -> AbstractConnection:
    """A connection for an operator's errand, called `name`. Raises `StartError` for a refused login,
    `BrokerUnavailable`."""
    try:
        with lost_as(BrokerUnavailable, UNREACHABLE):
            return await aio_pika.connect(url, name=name, heartbeat=HEARTBEAT, timeout=CONNECT_TIMEOUT)
    except BrokerUnavailable as error:
        if isinstance(error.__cause__, AuthenticationError | ProbableAuthenticationError):
            raise StartError(f"the broker refuses the login of ECO2_AMQP_URL: {error.__cause__}") from error
        raise
