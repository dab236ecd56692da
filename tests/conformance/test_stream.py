"""The stream: one total order that every reader sees alike, from wherever it starts."""

import asyncio
import time
from itertools import pairwise

import pytest

from eco2.errors import BrokerUnavailable
from eco2.ports import Broker, FromOffset, FromStart, FromTime, Record, Start
from tests.conformance.harness import PATIENCE, Brokers, Received, append, attached


def tail(broker: Broker, start: Start) -> Received[Record]:
    received: Received[Record] = Received()
    broker.tail(start, received)
    return received


def bodies(received: Received[Record]) -> list[bytes]:
    return [record.body for record in received.items]


async def read_until(broker: Broker, start: Start, last: bytes) -> list[Record]:
    records = []
    async with asyncio.timeout(PATIENCE), broker.read(start) as reader:
        async for record in reader:
            records.append(record)
            if record.body == last:
                break
    return records


async def test_a_tail_from_the_first_sees_everything_in_order(brokers: Brokers) -> None:
    broker = await brokers.start()
    written = [b"%d" % number for number in range(30)]
    await append(broker, *written[:15])
    received = tail(broker, FromStart())
    await append(broker, *written[15:])
    await received.until(lambda items: items[-1:] != [] and items[-1].body == b"29")
    assert bodies(received) == written
    assert all(before.offset < after.offset for before, after in pairwise(received.items))


async def test_a_tail_from_an_offset_starts_at_it(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, *[b"%d" % number for number in range(10)])
    records = await tail(broker, FromStart()).count(10)
    received = tail(broker, FromOffset(records[6].offset))
    assert await received.count(4) == records[6:]


async def test_a_tail_from_the_offset_after_a_record_starts_with_the_next(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, *[b"%d" % number for number in range(10)])
    records = await tail(broker, FromStart()).count(10)
    received = tail(broker, FromOffset(records[3].offset + 1))
    assert await received.count(6) == records[4:]


async def test_a_tail_from_beyond_the_end_waits_for_what_comes_there(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, b"0", b"1")
    last = (await tail(broker, FromStart()).count(2))[-1]
    received: Received[Record] = Received()
    await attached(broker.tail(FromOffset(last.offset + 1), received))
    await append(broker, b"2")
    assert (await received.take()).body == b"2"


async def test_a_tail_since_a_time_never_starts_later(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, b"before")
    now = time.time()
    await append(broker, b"0", b"1", b"2")
    received = tail(broker, FromTime(now))
    await received.until(lambda items: items[-1:] != [] and items[-1].body == b"2")
    assert bodies(received)[-3:] == [b"0", b"1", b"2"]


async def test_a_tail_of_an_empty_stream_gets_the_first_record(brokers: Brokers) -> None:
    broker = await brokers.start()
    starts: tuple[Start, ...] = (FromStart(), FromOffset(0))
    tails = [tail(broker, start) for start in starts]
    await append(broker, b"first")
    for received in tails:
        assert (await received.take()).body == b"first"


async def test_all_tails_see_the_same_order_of_concurrent_appends(brokers: Brokers) -> None:
    first, second = await brokers.start(), await brokers.start()
    tails = [tail(first, FromStart()), tail(first, FromStart()), tail(second, FromStart())]
    async with asyncio.TaskGroup() as tasks:
        for writer in range(8):
            names = [b"%d-%d" % (writer, number) for number in range(25)]
            tasks.create_task(append((first, second)[writer % 2], *names))
    expected = {b"%d-%d" % (writer, number) for writer in range(8) for number in range(25)}
    for received in tails:
        await received.until(lambda items: {record.body for record in items} >= expected)
    assert tails[0].items == tails[1].items == tails[2].items
    for writer in range(8):
        seen = [body for body in bodies(tails[0]) if body.startswith(b"%d-" % writer)]
        assert list(dict.fromkeys(seen)) == [b"%d-%d" % (writer, number) for number in range(25)]


async def test_a_cancelled_tail_gets_nothing_more(brokers: Brokers) -> None:
    broker = await brokers.start()
    received: Received[Record] = Received()
    subscription = broker.tail(FromStart(), received)
    await append(broker, b"0")
    await received.take()
    await subscription.cancel()
    assert not subscription.attached
    other = tail(broker, FromStart())
    await append(broker, b"1")
    await other.count(2)
    assert bodies(received) == [b"0"]


async def test_a_reader_is_independent_of_the_tail(brokers: Brokers) -> None:
    broker = await brokers.start()
    written = [b"%d" % number for number in range(300)]  # more than any prefetch of a reader
    await append(broker, *written)
    received = tail(broker, FromStart())
    assert [record.body for record in await read_until(broker, FromStart(), b"299")] == written
    middle = (await received.count(300))[200]
    assert (await read_until(broker, FromOffset(middle.offset), b"299"))[0] == middle


async def test_a_reader_waits_at_the_end_for_more(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, b"0")
    async with asyncio.timeout(PATIENCE), broker.read(FromStart()) as reader:
        assert (await anext(reader)).body == b"0"
        waiting = asyncio.ensure_future(anext(reader))
        await append(broker, b"1")
        assert (await waiting).body == b"1"


async def test_a_reader_that_was_left_can_be_opened_again_and_again(brokers: Brokers) -> None:
    broker = await brokers.start()
    await append(broker, b"0", b"1")
    for _ in range(10):
        assert [record.body for record in await read_until(broker, FromStart(), b"1")] == [b"0", b"1"]


async def test_reading_without_a_connection_raises(brokers: Brokers) -> None:
    broker = brokers.create()
    with pytest.raises(BrokerUnavailable):
        async with broker.read(FromStart()) as reader:
            await anext(reader)
