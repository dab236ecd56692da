"""The outbox: total order, groups, and sending again what was not confirmed."""

import asyncio
from collections.abc import Iterable

import pytest

from eco2.errors import BrokerUnavailable, PublishUncertain, RetryableError, TooLarge
from eco2.event import Marker, decode_events
from eco2.journal.outbox import BATCH_BYTES, MAX_PUT_BYTES, Outbox
from eco2.testing.clock import virtual
from eco2.writers import Writers


class ScriptedStream:
    """Confirms after 1 ms, or raises the next of `failures`, before or after the message took effect."""

    def __init__(self, failures: Iterable[RetryableError] = ()) -> None:
        self.failures = list(failures)
        self.bodies: list[list[str]] = []
        self.message_ids: list[str] = []

    async def append(self, body: bytes, message_id: str) -> None:
        await asyncio.sleep(0.001)
        self.message_ids.append(message_id)
        failure = self.failures.pop(0) if self.failures else None
        if not isinstance(failure, BrokerUnavailable):
            self.bodies.append([event.id for event in decode_events(body) if isinstance(event, Marker)])
        if failure:
            raise failure


def marker(name: object) -> Marker:
    return Marker(ts=0.0, id=str(name))


async def flush(outbox: Outbox) -> None:
    stop = asyncio.Event()
    stop.set()
    await outbox.run(stop)


@virtual
async def test_what_gathers_while_one_message_is_on_its_way_goes_as_one() -> None:
    stream, stop = ScriptedStream(), asyncio.Event()
    outbox = Outbox(stream, Writers("me"))
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run(stop))
        first = outbox.put(marker("a"))
        await asyncio.sleep(0.0005)
        rest = [outbox.put(marker(name)) for name in "bcd"]
        await asyncio.gather(first, *rest)
        stop.set()
    assert stream.bodies == [["a"], ["b", "c", "d"]]


@virtual
async def test_one_put_is_never_split_and_a_long_queue_goes_in_several_messages() -> None:
    stream = ScriptedStream()
    outbox = Outbox(stream, Writers("me"))
    fifth = "x" * (BATCH_BYTES // 5)
    outbox.put(*(marker(f"{n} {fifth}") for n in range(6)))
    for n in range(6, 18):
        outbox.put(marker(f"{n} {fifth}"))
    await flush(outbox)
    assert [len(body) for body in stream.bodies] == [6, 4, 4, 4]
    assert [int(name.split()[0]) for body in stream.bodies for name in body] == list(range(18))


@virtual
async def test_a_failed_message_is_sent_again_with_its_id_before_anything_later() -> None:
    stream = ScriptedStream([BrokerUnavailable("down"), PublishUncertain("no confirm")])
    outbox = Outbox(stream, Writers("me"))
    first, second = outbox.put(marker("a")), outbox.put(marker("0" * BATCH_BYTES))
    await flush(outbox)
    assert first.done()
    assert second.done()
    assert [body[0][0] for body in stream.bodies] == ["a", "a", "0"]
    assert len(set(stream.message_ids[:3])) == 1
    assert stream.message_ids[3] != stream.message_ids[0]


@virtual
async def test_a_withdrawn_put_is_not_sent() -> None:
    stream = ScriptedStream()
    outbox = Outbox(stream, Writers("me"))
    outbox.put(marker("gone")).cancel()
    outbox.put(marker("kept"))
    await flush(outbox)
    assert stream.bodies == [["kept"]]


@virtual
async def test_what_is_withdrawn_while_nothing_could_be_sent_never_arrives() -> None:
    stream = ScriptedStream([BrokerUnavailable("blocked")])
    outbox = Outbox(stream, Writers("me"))
    withdrawn, kept = outbox.put(marker("gone")), outbox.put(marker("kept"))
    asyncio.get_running_loop().call_later(0.0005, withdrawn.cancel)
    await flush(outbox)
    assert kept.done()
    assert stream.bodies == [["kept"]]


@virtual
async def test_what_may_have_been_sent_is_sent_again_as_it_was_though_withdrawn() -> None:
    """The first copy may still arrive: only the same message under the same id keeps the order."""
    stream = ScriptedStream([PublishUncertain("no confirm")])
    outbox = Outbox(stream, Writers("me"))
    withdrawn = outbox.put(marker("gone"))
    asyncio.get_running_loop().call_later(0.0005, withdrawn.cancel)
    await flush(outbox)
    assert stream.bodies == [["gone"], ["gone"]]


@virtual
async def test_stop_flushes_what_is_left() -> None:
    stream = ScriptedStream([PublishUncertain("slow")] * 3)
    outbox = Outbox(stream, Writers("me"))
    confirmed = outbox.put(marker("last"))
    await flush(outbox)
    assert confirmed.result() is None
    assert len(outbox) == 0


@virtual
async def test_what_no_broker_takes_is_refused_at_once_and_holds_up_nothing() -> None:
    stream = ScriptedStream()
    outbox = Outbox(stream, Writers("me"))
    with pytest.raises(TooLarge, match=r"8,000,0.. bytes are too much"):
        outbox.put(marker("x" * MAX_PUT_BYTES))
    outbox.put(marker("next"))
    await flush(outbox)
    assert stream.bodies == [["next"]]


class Sized(ScriptedStream):
    """Refuses for good what is larger than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.refused = 0

    async def append(self, body: bytes, message_id: str) -> None:
        if len(body) > self.most:
            self.refused += 1
            raise TooLarge("too large for this broker")
        await super().append(body, message_id)


@virtual
async def test_a_batch_that_the_broker_never_takes_is_split_and_keeps_its_order() -> None:
    stream = Sized(5_000)
    outbox = Outbox(stream, Writers("me"))
    puts = [outbox.put(marker(f"{n} {'x' * 1_000}")) for n in range(40)]
    await flush(outbox)
    assert all(put.result() is None for put in puts)
    assert [int(name.split()[0]) for body in stream.bodies for name in body] == list(range(40))
    assert stream.refused < 8
    puts = [outbox.put(marker(f"{n} {'x' * 1_000}")) for n in range(40)]
    refused = stream.refused
    await flush(outbox)
    assert stream.refused == refused


@virtual
async def test_a_put_that_the_broker_never_takes_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    stream = Sized(5_000)
    outbox = Outbox(stream, Writers("me"))
    before, large, after = outbox.put(marker("a")), outbox.put(marker("x" * 5_000)), outbox.put(marker("b"))
    await flush(outbox)
    assert isinstance(large.exception(), TooLarge)
    assert (before.result(), after.result()) == (None, None)
    assert [name for body in stream.bodies for name in body] == ["a", "b"]
    assert any("too large for this broker" in record.getMessage() for record in caplog.records)


@virtual
async def test_a_withdrawn_put_that_the_broker_never_takes_ends_nothing() -> None:
    stream = Sized(5_000)
    outbox = Outbox(stream, Writers("me"))
    large, kept = outbox.put(marker("x" * 5_000)), outbox.put(marker("kept"))
    asyncio.get_running_loop().call_soon(large.cancel)
    await flush(outbox)
    assert kept.result() is None
    assert stream.bodies == [["kept"]]
