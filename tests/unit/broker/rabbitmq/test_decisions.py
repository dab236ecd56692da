"""The decisions of the RabbitMQ adapter that need no broker: where to read from, what a loss is."""

import asyncio
from datetime import UTC, datetime

import pytest
from aio_pika.exceptions import AMQPConnectionError

from eco2.broker.rabbitmq.connection_errors import ConnectionScope, map_connection_errors
from eco2.broker.rabbitmq.stream import arguments, wanted
from eco2.errors import DeliveryLost, InvalidInput, PublishUncertain
from eco2.ports import FromOffset, FromStart, FromTime


def test_a_reader_asks_the_broker_for_its_start() -> None:
    assert arguments(FromStart()) == {"x-stream-offset": "first"}
    assert arguments(FromOffset(17)) == {"x-stream-offset": 17}


@pytest.mark.parametrize("ts", [1_700_000_000.0, 1_700_000_000.999])
def test_a_time_is_asked_in_whole_seconds_and_never_later(ts: float) -> None:
    (asked,) = arguments(FromTime(ts)).values()
    assert isinstance(asked, datetime)
    assert (asked.tzinfo, asked.microsecond) == (UTC, 0)
    assert ts - 4 < asked.timestamp() < ts


def test_records_before_the_wanted_offset_are_dropped() -> None:
    assert [offset for offset in range(5) if wanted(FromOffset(3), offset)] == [3, 4]
    assert wanted(FromStart(), 0)
    assert wanted(FromTime(1e12), 0)  # the broker decides, and may start early


@pytest.mark.parametrize(
    "reason", [AMQPConnectionError("gone"), RuntimeError("closed"), OSError(), TimeoutError(), Exception()]
)
async def test_whatever_aiormq_raises_for_a_loss_becomes_ours(reason: Exception) -> None:
    with (
        pytest.raises(DeliveryLost, match="delivered again"),
        map_connection_errors(DeliveryLost, "delivered again"),
    ):
        raise reason


async def test_a_cancelled_future_is_a_loss_but_a_cancelled_task_is_not() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    with pytest.raises(PublishUncertain), map_connection_errors(PublishUncertain, ""):
        await future

    async def waits() -> None:
        with map_connection_errors(PublishUncertain, ""):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_was_turned_into_a_loss_is_a_cancellation_again() -> None:
    async def waits() -> None:
        with map_connection_errors(PublishUncertain, ""):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise AMQPConnectionError("gone") from None

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_defects_and_our_own_errors_pass() -> None:
    for reason in (TypeError("a defect"), InvalidInput("ours")):
        with pytest.raises(type(reason)), map_connection_errors(DeliveryLost, ""):
            raise reason


async def test_a_lifetime_ends_whoever_waits_in_it_and_whoever_comes_later() -> None:
    lifetime = ConnectionScope()

    async def waits() -> None:
        async with lifetime.scope():
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(0)
    lifetime.end()
    lifetime.end()
    waiting.append(asyncio.create_task(waits()))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 4
