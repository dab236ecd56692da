"""The store of inputs: what was kept is found again, and nobody takes it for the journal."""

import asyncio
import time

import pytest

from eco2.errors import BrokerUnavailable
from eco2.ports import Broker, First, Record, Since, Start
from tests.conformance.harness import PATIENCE, Brokers, Received, append, surely


async def keep(broker: Broker, body: bytes, name: str) -> None:
    await surely(lambda: broker.keep(body, name))


async def kept_until(broker: Broker, start: Start, last: bytes) -> list[bytes]:
    bodies = []
    async with asyncio.timeout(PATIENCE), broker.kept(start) as reader:
        async for record in reader:
            bodies.append(record.body)
            if record.body == last:
                break
    return bodies


async def test_an_input_is_found_from_the_first_on_and_by_its_time(brokers: Brokers) -> None:
    writer, reader = await brokers.start(), await brokers.start()
    photo = bytes(range(256)) * 1200  # larger than a frame
    await keep(writer, b"before", "0")
    now = time.time()
    await keep(writer, photo, "1")
    await keep(writer, b"last", "2")
    assert await kept_until(reader, First(), b"last") == [b"before", photo, b"last"]
    assert (await kept_until(reader, Since(now), b"last"))[-2:] == [photo, b"last"]


async def test_a_reader_waits_for_an_input_that_is_still_to_come(brokers: Brokers) -> None:
    broker = await brokers.start()
    async with asyncio.timeout(PATIENCE), broker.kept(Since(time.time())) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await keep(broker, b"photo", "1")
        assert (await waiting).body == b"photo"


async def test_inputs_and_the_journal_do_not_meet(brokers: Brokers) -> None:
    broker = await brokers.start()
    journal: Received[Record] = Received()
    broker.tail(First(), journal)
    await keep(broker, b"photo", "1")
    await append(broker, b"event")
    assert (await journal.take()).body == b"event"
    await keep(broker, b"last", "2")
    assert await kept_until(broker, First(), b"last") == [b"photo", b"last"]


async def test_without_a_connection_nothing_is_kept_or_found(brokers: Brokers) -> None:
    broker = brokers.create()
    with pytest.raises(BrokerUnavailable):
        await broker.keep(b"photo", "1")
    with pytest.raises(BrokerUnavailable):
        async with broker.kept(First()) as reader:
            await anext(reader)


async def test_a_reader_of_inputs_says_that_its_connection_went(brokers: Brokers) -> None:
    broker = await brokers.start()
    async with asyncio.timeout(PATIENCE), broker.kept(First()) as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        await brokers.disrupt()
        with pytest.raises(BrokerUnavailable):
            await waiting
