"""The log in memory: what it forgets, where a reader begins, and that offsets are only compared."""

import asyncio
from itertools import pairwise

import pytest

from eco2.broker.embedded import Embedded
from eco2.broker.embedded.chaos import CALM, Chaos, Dice
from eco2.broker.embedded.stream import BATCH, Log, Retention, Tail
from eco2.ports import FromOffset, FromStart, FromTime, Record
from eco2.testing.clock import EPOCH, VirtualClock, virtual
from tests.support.embedded import TOPOLOGY, only, quiet, running, server


def log(retention: Retention | None = None, chaos: Chaos = CALM) -> Log:
    return Log(retention or Retention(), VirtualClock.now, Dice(chaos))


def everything(log: Log) -> list[Record]:
    records: list[Record] = []
    while batch := log.after(records[-1].offset + 1 if records else 0):
        records += batch
    return records


@virtual
async def test_calm_offsets_count_and_chaotic_ones_have_gaps() -> None:
    calm, sparse = log(), log(chaos=only(gap=0.5, most_gap=50))
    for number in range(200):
        calm.append(b"%d" % number)
        sparse.append(b"%d" % number)
    assert [record.offset for record in everything(calm)] == list(range(200))
    steps = [after.offset - before.offset for before, after in pairwise(everything(sparse))]
    assert min(steps) == 1
    assert 10 < max(steps) <= 51
    assert 60 < sum(step > 1 for step in steps) < 140


@virtual
async def test_an_offset_in_a_gap_means_the_next_record() -> None:
    sparse = log(chaos=only(gap=1, most_gap=5))
    for number in range(10):
        sparse.append(b"%d" % number)
    records = everything(sparse)
    assert sparse.after(sparse.resolve(FromOffset(records[3].offset + 1)))[0] == records[4]


@virtual
async def test_since_starts_at_the_time_or_earlier_under_chaos() -> None:
    calm, early = log(), log(chaos=only(early=300))
    for number in range(1000):
        calm.append(b"%d" % number)
        early.append(b"%d" % number)
        await asyncio.sleep(1)
    start = FromTime(EPOCH + 600)
    assert calm.after(calm.resolve(start))[0].body == b"600"
    begins = [int(early.after(early.resolve(start))[0].body) for _ in range(50)]
    assert all(300 <= number <= 600 for number in begins)
    assert len(set(begins)) > 20


@virtual
async def test_since_the_future_means_what_comes_next() -> None:
    calm = log()
    calm.append(b"old")
    position = calm.resolve(FromTime(VirtualClock.now() + 3600))
    assert calm.after(position) == []
    calm.append(b"new")
    assert [record.body for record in calm.after(position)] == [b"new"]


@virtual
async def test_a_clock_that_goes_back_does_not_hide_records() -> None:
    times = iter([100.0, 50.0, 101.0])
    calm = Log(Retention(), lambda: next(times), Dice())
    for body in (b"0", b"1", b"2"):
        calm.append(body)
    assert [record.body for record in calm.after(calm.resolve(FromTime(100)))] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("retention", "most"),
    [(Retention(records=1000), 1125), (Retention(size=100_000), 1125), (Retention(age=1000), 1000 + BATCH)],
)
@virtual
async def test_the_log_forgets_and_never_grows_beyond_its_retention(retention: Retention, most: int) -> None:
    bounded = log(retention)
    longest = 0
    for number in range(5000):
        bounded.append(b"%0100d" % number)
        longest = max(longest, len(bounded))
        await asyncio.sleep(1)
    assert 1000 <= longest <= most
    bodies = [int(record.body) for record in everything(bounded)]
    assert bodies == list(range(5000 - len(bodies), 5000))
    assert bounded.after(bounded.resolve(FromStart()))[0].body == b"%0100d" % bodies[0]


@virtual
async def test_inputs_are_forgotten_after_an_hour_and_the_journal_after_its_retention() -> None:
    shared = server()
    async with running(Embedded(TOPOLOGY, shared)):
        inputs, journal = shared.logs[TOPOLOGY.inputs], shared.logs[TOPOLOGY.stream]
        for _ in range(2 * 3600):
            inputs.append(b"")
            journal.append(b"")
            await asyncio.sleep(1)
    assert len(journal) == 2 * 3600
    assert 3600 <= len(inputs) <= 3600 + BATCH


@virtual
async def test_one_record_larger_than_the_retention_is_kept_until_the_next() -> None:
    bounded = log(Retention(size=10))
    bounded.append(b"x" * 100)
    assert len(bounded) == 1
    bounded.append(b"y" * 100)
    assert [record.body for record in everything(bounded)] == [b"y" * 100]


@virtual
async def test_a_late_tail_still_sees_everything_in_order() -> None:
    lagging = log(chaos=only(lag=0.5))
    seen: list[Record] = []
    Tail(lagging, 0, seen.append)
    for number in range(500):
        lagging.append(b"%d" % number)
        await asyncio.sleep(0.01)
    await quiet()
    assert seen == everything(lagging)


@virtual
async def test_a_callback_that_raises_loses_only_its_own_record() -> None:
    calm = log()
    seen: list[bytes] = []

    def fragile(record: Record) -> None:
        seen.append(record.body)
        if record.body == b"1":
            raise ValueError("a defect of the callback")

    Tail(calm, 0, fragile)
    for body in (b"0", b"1", b"2"):
        calm.append(body)
    await quiet()
    assert seen == [b"0", b"1", b"2"]


@virtual
async def test_a_tail_cancelled_by_its_own_callback_stops_at_once() -> None:
    calm = log()
    seen: list[Record] = []

    def once(record: Record) -> None:
        seen.append(record)
        tail.cancel()

    tail = Tail(calm, 0, once)
    calm.append(b"0")
    calm.append(b"1")
    await quiet()
    assert [record.body for record in seen] == [b"0"]
