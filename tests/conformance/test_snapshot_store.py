"""The store of snapshots: what was appended is read in order, apart from the journal and from orders."""

import asyncio

import pytest

from eco2.errors import BrokerUnavailable
from eco2.journal.snapshots import read_snapshot
from eco2.ports import Broker, FromStart
from tests.conformance.harness import PATIENCE, Brokers, append, surely


async def store(broker: Broker, body: bytes) -> None:
    await surely(lambda: broker.append_snapshot(body, str(len(body))))


async def test_snapshots_are_read_in_order_and_are_apart(brokers: Brokers) -> None:
    writer, reader = await brokers.start(), await brokers.start()
    bodies = [b"first", bytes(range(256)) * 2000, b"last"]
    await surely(lambda: writer.append_order(b"an order", "o"))
    await append(writer, b"an event")
    for body in bodies:
        await store(writer, body)
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE), reader.read_snapshots(FromStart()) as records:
        async for record in records:
            found.append(record.body)
            if record.body == b"last":
                break
    assert found == bodies


async def test_a_search_ends_where_the_store_ends(brokers: Brokers) -> None:
    broker = await brokers.start()
    await store(broker, b"of another version")
    async with asyncio.timeout(PATIENCE):
        assert await read_snapshot(broker, lambda: 0.0) is None


async def test_without_a_connection_no_snapshot_is_stored(brokers: Brokers) -> None:
    with pytest.raises(BrokerUnavailable):
        await brokers.create().append_snapshot(b"x", "1")
