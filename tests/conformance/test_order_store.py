"""The store of orders: an appended order is read again, and is no part of the journal."""

import asyncio
import time

import pytest

from eco2.errors import BrokerUnavailable
from eco2.ports import Broker, FromStart, FromTime, Record, Start
from tests.conformance.harness import PATIENCE, Brokers, Received, append, surely


async def store(broker: Broker, body: bytes, name: str) -> None:
    await surely(lambda: broker.append_order(body, name))


async def read_until(broker: Broker, start: Start, last: bytes) -> list[bytes]:
    bodies = []
    async with asyncio.timeout(PATIENCE), broker.read_orders(start) as reader:
        async for record in reader:
            bodies.append(record.body)
            if record.body == last:
                break
    return bodies


async def test_an_order_is_found_from_the_start_and_by_its_time(brokers: Brokers) -> None:
    writer, reader = await brokers.start(), await brokers.start()
    photo = bytes(range(256)) * 1200  # larger than a frame
    await store(writer, b"before", "0")
    now = time.time()
    await store(writer, photo, "1")
    await store(writer, b"last", "2")
    assert await read_until(reader, FromStart(), b"last") == [b"before", photo, b"last"]
    assert (await read_until(reader, FromTime(now), b"last"))[-2:] == [photo, b"last"]


async def test_a_reader_waits_for_an_order_that_is_still_to_come(brokers: Brokers) -> None:
    broker = await brokers.start()
    async with asyncio.timeout(PATIENCE), broker.read_orders(FromTime(time.time())) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await store(broker, b"photo", "1")
        assert (await waiting).body == b"photo"


async def test_orders_and_the_journal_are_apart(brokers: Brokers) -> None:
    broker = await brokers.start()
    journal: Received[Record] = Received()
    broker.tail(FromStart(), journal)
    await store(broker, b"photo", "1")
    await append(broker, b"event")
    assert (await journal.take()).body == b"event"
    await store(broker, b"last", "2")
    assert await read_until(broker, FromStart(), b"last") == [b"photo", b"last"]


async def test_without_a_connection_nothing_is_stored_or_found(brokers: Brokers) -> None:
    broker = brokers.create()
    with pytest.raises(BrokerUnavailable):
        await broker.append_order(b"photo", "1")
    with pytest.raises(BrokerUnavailable):
        async with broker.read_orders(FromStart()) as reader:
            await anext(reader)


async def test_a_reader_of_orders_reports_a_lost_connection(brokers: Brokers) -> None:
    broker = await brokers.start()
    async with asyncio.timeout(PATIENCE), broker.read_orders(FromStart()) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        await brokers.disrupt()
        with pytest.raises(BrokerUnavailable):
            await waiting
