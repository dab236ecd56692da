"""Request and reply: one elected process answers, and another takes over with what was not answered."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eco2.errors import BrokerUnavailable, NoReply
from tests.conformance.harness import PATIENCE, SERVICE, Brokers, Received, attached


def echo(name: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    async def handler(body: bytes) -> bytes:
        return name + b":" + body

    return handler


async def test_a_question_gets_its_answer(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    server.serve(SERVICE, echo(b"server"))
    assert await client.ask(SERVICE, b"hello", PATIENCE) == b"server:hello"
    assert await server.ask(SERVICE, b"myself", PATIENCE) == b"server:myself"


async def test_only_the_elected_process_is_asked(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    for name, server in ((b"first", first), (b"second", second)):
        await attached(server.serve(SERVICE, echo(name)))
    replies = {await client.ask(SERVICE, b"", PATIENCE) for _ in range(10)}
    assert replies == {b"first:"}


async def test_concurrent_questions_are_handled_side_by_side(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    all_here = asyncio.Barrier(20)

    async def meet(body: bytes) -> bytes:
        await all_here.wait()  # passes only when all twenty are being handled
        return body

    server.serve(SERVICE, meet)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.ask(SERVICE, b"%d" % n, PATIENCE)) for n in range(20)]
    assert [task.result() for task in asked] == [b"%d" % number for number in range(20)]


async def test_nobody_serving_means_no_reply(brokers: Brokers) -> None:
    client = await brokers.start()
    with pytest.raises(NoReply):
        await client.ask(SERVICE, b"", 0.1)


async def test_a_slow_answer_means_no_reply_and_harms_nothing(brokers: Brokers) -> None:
    client, server = await brokers.start(), await brokers.start()
    release = asyncio.Event()

    async def slow(body: bytes) -> bytes:
        if body == b"slow":
            await release.wait()
        return body

    await attached(server.serve(SERVICE, slow))
    with pytest.raises(NoReply):
        await client.ask(SERVICE, b"slow", 0.1)
    release.set()
    assert await client.ask(SERVICE, b"quick", PATIENCE) == b"quick"


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
        await client.ask(SERVICE, b"bad", 0.2)
    assert await client.ask(SERVICE, b"good", PATIENCE) == b"good"
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
    asked = [asyncio.create_task(client.ask(SERVICE, b"%d" % n, PATIENCE)) for n in range(3)]
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
        await client.ask(SERVICE, b"%d" % number, PATIENCE)
    await brokers.stop(first)
    assert await client.ask(SERVICE, b"new", PATIENCE) == b"new"
    assert asked.items == [b"new"]


async def test_when_the_elected_resigns_another_serves(brokers: Brokers) -> None:
    client, first, second = [await brokers.start() for _ in range(3)]
    office = first.serve(SERVICE, echo(b"first"))
    await attached(office)
    await attached(second.serve(SERVICE, echo(b"second")))
    assert await client.ask(SERVICE, b"", PATIENCE) == b"first:"
    await office.cancel()
    assert not office.attached
    assert await client.ask(SERVICE, b"", PATIENCE) == b"second:"


async def test_asking_without_a_connection_raises(brokers: Brokers) -> None:
    with pytest.raises(BrokerUnavailable):
        await brokers.create().ask(SERVICE, b"", 1)
