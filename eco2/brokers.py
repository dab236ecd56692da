"""The broker that an installation runs on: RabbitMQ where the settings have its URL, else one in memory."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from math import ceil
from typing import TYPE_CHECKING

from eco2.broker.topology import Topology
from eco2.errors import ConfigurationError
from eco2.pipeline import AnyPipeline, Retry
from eco2.ports import Broker
from eco2.settings import Settings

if TYPE_CHECKING:
    from eco2.broker.rabbitmq import DeadLetterMessage, Inspection

ORDER_OVERHEAD = 100_000
"""Bytes of an order beside its upload."""


def longest_life(settings: Settings, pipelines: Sequence[AnyPipeline]) -> float:
    """Returns the seconds for which a job may live, unless it is put off after progress again and again."""
    return max(
        _interactive_life(settings, pipelines),
        batch_max_wait(settings, pipelines) + _work(settings, pipelines),
    )


def batch_max_wait(settings: Settings, pipelines: Sequence[AnyPipeline]) -> float:
    """Returns the seconds that batch jobs may wait.

    Unless it is set: up to the full hours for which copies of orders are kept for the others, and the journal
    its records.
    """
    if settings.batch_max_wait is not None:
        return settings.batch_max_wait
    hours = min(ceil(_interactive_life(settings, pipelines) / 3600), settings.retention_hours)
    return hours * 3600 - _work(settings, pipelines)


def _interactive_life(settings: Settings, pipelines: Sequence[AnyPipeline]) -> float:
    lives = [(each.max_wait or settings.max_wait) + _work(settings, (each,)) for each in pipelines]
    return max(lives, default=settings.max_wait + _work(settings, pipelines))


def _work(settings: Settings, pipelines: Sequence[AnyPipeline]) -> float:
    """The seconds from the first grant of a job until its end, at the most, delays included."""
    times = [
        (each.timeout or settings.timeout)
        + max((stage.retry.total_delay for stage in each.stages), default=0)
        for each in pipelines
    ]
    return max(times, default=settings.timeout + Retry().total_delay)


def topology(settings: Settings, pipelines: Sequence[AnyPipeline], budgets: Sequence[str] = ()) -> Topology:
    """The queues and exchanges that are needed. Raises `ConfigurationError` for a name that cannot be.

    `budgets`: the providers that the process calls.
    """
    names = tuple(pipeline.name for pipeline in pipelines)
    hours = ceil(settings.retention_hours), ceil(longest_life(settings, pipelines) / 3600)
    try:
        return Topology(settings.prefix, names, *hours, tuple(budgets))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def open_broker(settings: Settings, needed: Topology, process: str, *, alone: bool) -> Broker:
    """A broker object for a process of this name; nothing is connected yet.

    `alone`: all that uses the broker runs in this process. Raises `ConfigurationError` if a URL is missing.
    """
    if settings.amqp_url is not None:
        from eco2.broker.rabbitmq import RabbitMQ

        return RabbitMQ(
            settings.amqp_url, needed, f"eco2 {process}", settings.heartbeat, settings.publish_timeout
        )
    if not alone:
        raise ConfigurationError(
            f"`eco2 {process}` needs a broker: set ECO2_AMQP_URL, or use `eco2 serve` for all in one process"
        )
    from eco2.broker.embedded import Embedded

    return Embedded(needed)


async def check(settings: Settings, needed: Topology) -> list[str]:
    """How the broker differs from what is needed, a sentence each. Raises `BrokerUnavailable`."""
    from eco2.broker import rabbitmq

    return await rabbitmq.check(_url(settings), needed)


async def inspect(settings: Settings, needed: Topology) -> "Inspection":
    """Returns the broker's version and what it lacks, with its size limit. Raises as `check`."""
    from eco2.broker import rabbitmq

    # An upload travels in base64, four bytes for three.
    largest = ceil(settings.max_upload_mb * 2**20 * 4 / 3) + ORDER_OVERHEAD
    return await rabbitmq.inspect(_url(settings), needed, largest)


async def apply(settings: Settings, needed: Topology) -> None:
    """Creates what the broker lacks. Raises `ConfigurationError` for differences, `BrokerUnavailable`."""
    from eco2.broker import rabbitmq

    await rabbitmq.apply(_url(settings), needed)


def open_dead_letters(
    settings: Settings, needed: Topology, limit: int = 1000
) -> AbstractAsyncContextManager[list["DeadLetterMessage"]]:
    """Holds the oldest dead letters during the block. Raises `ConfigurationError`, `BrokerUnavailable`."""
    from eco2.broker import rabbitmq

    url = _url(settings, "the dead letters of the broker in memory end with its process")
    return rabbitmq.open_dead_letters(url, needed, limit)


def _url(settings: Settings, otherwise: str = "the broker in memory makes what it needs by itself") -> str:
    if settings.amqp_url is None:
        raise ConfigurationError(f"set ECO2_AMQP_URL: {otherwise}")
    return settings.amqp_url
