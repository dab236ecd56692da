"""Request and reply: one elected process answers, and another takes over with what was not answered."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eco2.errors import BrokerUnavailable, NoReply
from eco2.ports import Broker
from tests.conformance.harness import PATIENCE, SERVICE, Brokers, Received, attached, surely


def echo(name: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    async def handler(body: bytes) -> bytes:
        return name + b":" + body

    return handler


async def test_a_question_gets_its_answer(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    server.serve(SERVICE, echo(b"server"))
    assert await client.request(SERVICE, b"hello", PATIENCE) == b"server:hello"
    assert await server.request(SERVICE, b"myself", PATIENCE) == b"server:myself"


async def test_only_the_elected_process_is_asked(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    for name, server in ((b"first", first), (b"second", second)):
        await attached(server.serve(SERVICE, echo(name)))
    replies = {await client.request(SERVICE, b"", PATIENCE) for _ in range(10)}
    assert replies == {b"first:"}


async def test_concurrent_questions_are_handled_side_by_side(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    all_here = asyncio.Barrier(20)

    async def meet(body: bytes) -> bytes:
        await all_here.wait()  # passes only when all twenty are being handled
        return body

    server.serve(SERVICE, meet)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.request(SERVICE, b"%d" % n, PATIENCE)) for n in range(20)]
    assert [task.result() for task in asked] == [b"%d" % number for number in range(20)]


async def test_nobody_serving_means_no_reply(brokers: Brokers) -> None:
    client = await brokers.start()
    with pytest.raises(NoReply):
        await surely(lambda: client.request(SERVICE, b"", 0.1))


async def test_a_slow_answer_means_no_reply_and_harms_nothing(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    release = asyncio.Event()

    async def slow(body: bytes) -> bytes:
        if body == b"slow":
            await release.wait()
        return body

    await attached(server.serve(SERVICE, slow))
    with pytest.raises(NoReply):
        await client.request(SERVICE, b"slow", 0.1)
    release.set()
    assert await client.request(SERVICE, b"quick", PATIENCE) == b"quick"


async def test_a_handler_that_raises_sends_no_reply_and_serves_on(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    asked: Received[bytes] = Received()

    async def fragile(body: bytes) -> bytes:
        asked(body)
        if body == b"bad":
            raise ValueError("a defect of the handler")
        return body

    await attached(server.serve(SERVICE, fragile))
    with pytest.raises(NoReply):
        await client.request(SERVICE, b"bad", 0.2)
    assert await client.request(SERVICE, b"good", PATIENCE) == b"good"
    assert asked.items == [b"bad", b"good"]


async def test_when_the_elected_stops_another_answers_what_was_open(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    begun: Received[bytes] = Received()

    async def stuck(body: bytes) -> bytes:
        begun(body)
        await asyncio.Event().wait()
        return body

    await attached(first.serve(SERVICE, stuck))
    await attached(second.serve(SERVICE, echo(b"second")))
    asked = [asyncio.create_task(client.request(SERVICE, b"%d" % n, PATIENCE)) for n in range(3)]
    await begun.count(3)
    await brokers.stop(first)
    assert await asyncio.gather(*asked) == [b"second:0", b"second:1", b"second:2"]


async def test_what_was_answered_is_not_asked_again(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    asked: Received[bytes] = Received()

    async def successor(body: bytes) -> bytes:
        asked(body)
        return body

    await attached(first.serve(SERVICE, echo(b"first")))
    await attached(second.serve(SERVICE, successor))
    for number in range(3):
        await client.request(SERVICE, b"%d" % number, PATIENCE)
    await brokers.stop(first)
    assert await client.request(SERVICE, b"new", PATIENCE) == b"new"
    assert asked.items == [b"new"]


async def test_when_the_elected_resigns_another_serves(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    office = first.serve(SERVICE, echo(b"first"))
    await attached(office)
    await attached(second.serve(SERVICE, echo(b"second")))
    assert await client.request(SERVICE, b"", PATIENCE) == b"first:"
    await office.cancel()
    assert not office.attached
    assert await client.request(SERVICE, b"", PATIENCE) == b"second:"


async def test_asking_without_a_connection_raises(brokers: Brokers) -> None:
    with pytest.raises(BrokerUnavailable):
        await brokers.create().request(SERVICE, b"", 1)


class Counter:
    """A server that answers copies at once, but for silent ones, and requests once `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.requests: Received[bytes] = Received()
        self.copies: Received[bytes] = Received()

    async def handle(self, body: bytes) -> bytes:
        self.requests(body)
        await self.open.wait()
        return b"request:" + body

    def express(self, body: bytes) -> bytes | None:
        self.copies(body)
        return None if body == b"silent" else b"copy:" + body


async def test_a_copy_is_answered_ahead_of_its_request(brokers: Brokers) -> None:
    client, server, counter = await brokers.start(), await brokers.start(), Counter()
    await attached(server.serve(SERVICE, counter.handle, counter.express))
    assert await client.request(SERVICE, b"first", PATIENCE, express=True) == b"request:first"
    counter.open.clear()
    assert await client.request(SERVICE, b"second", PATIENCE, express=True) == b"copy:second"
    counter.open.set()
    assert (
        await client.request(SERVICE, b"third", PATIENCE) == b"request:third"
    )  # and no reply that is left over
    assert [body for body in counter.requests.items if body != b"second"] == [b"first", b"third"]
    assert counter.copies.items == [b"second"]


async def test_where_a_copy_meets_silence_its_request_is_answered(brokers: Brokers) -> None:
    client, server, counter = await brokers.start(), await brokers.start(), Counter()
    await attached(server.serve(SERVICE, counter.handle, counter.express))
    for _ in range(2):
        assert await client.request(SERVICE, b"silent", PATIENCE, express=True) == b"request:silent"
    await counter.copies.count(1)


async def test_a_copy_to_who_has_gone_costs_nothing(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    gone, here = Counter(), Counter()
    await attached(first.serve(SERVICE, gone.handle, gone.express))
    await attached(second.serve(SERVICE, here.handle))
    assert await client.request(SERVICE, b"1", PATIENCE, express=True) == b"request:1"
    await brokers.stop(first)
    for body in (b"2", b"3"):
        assert await client.request(SERVICE, body, PATIENCE, express=True) == b"request:" + body
    assert gone.copies.items == []
    assert here.requests.items == [b"2", b"3"]


async def test_who_has_resigned_answers_no_copies(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    resigned, elected = Counter(), Counter()
    office = first.serve(SERVICE, resigned.handle, resigned.express)
    await attached(office)
    await attached(second.serve(SERVICE, elected.handle, elected.express))
    assert await client.request(SERVICE, b"1", PATIENCE, express=True) == b"request:1"
    await office.cancel()
    assert await client.request(SERVICE, b"2", PATIENCE, express=True) == b"request:2"
    elected.open.clear()
    assert await client.request(SERVICE, b"3", PATIENCE, express=True) == b"copy:3"
    elected.open.set()
    assert resigned.copies.items == []


async def test_after_all_connections_went_copies_find_their_way_again(brokers: Brokers) -> None:
    client, server, counter = await brokers.start(), await brokers.start(), Counter()
    await attached(server.serve(SERVICE, counter.handle, counter.express))
    await client.request(SERVICE, b"before", PATIENCE, express=True)
    await brokers.disrupt()
    assert await answered(client, b"behind") == b"request:behind"
    counter.open.clear()
    assert await answered(client, b"again") == b"copy:again"
    counter.open.set()


async def answered(client: Broker, body: bytes) -> bytes:
    """The answer, however often the connection is lost meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await client.request(SERVICE, body, 5, express=True)
            except (BrokerUnavailable, NoReply):
                await asyncio.sleep(0.02)
