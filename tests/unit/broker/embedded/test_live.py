"""Live messages in memory: slow listeners lose the oldest, and patterns count words."""

import pytest

from eco2.broker.embedded.chaos import Dice
from eco2.broker.embedded.live import MAX_WAITING, Exchange, Listener
from eco2.broker.topic import matches
from eco2.testing.clock import virtual
from tests.support.embedded import only, quiet


@virtual
async def test_a_slow_listener_loses_the_oldest_messages() -> None:
    exchange, heard = Exchange(Dice()), list[bytes]()
    Listener(exchange, "#", lambda _, body: heard.append(body))
    for number in range(MAX_WAITING + 500):  # the listener gets no turn of the loop meanwhile
        exchange.publish("a", b"%d" % number)
    await quiet()
    assert heard == [b"%d" % number for number in range(500, MAX_WAITING + 500)]


@virtual
async def test_after_cancel_not_even_waiting_messages_are_heard() -> None:
    exchange, heard = Exchange(Dice()), list[bytes]()
    listener = Listener(exchange, "#", lambda _, body: heard.append(body))
    exchange.publish("a", b"1")
    listener.cancel()
    await quiet()
    assert heard == []


@virtual
async def test_a_message_cast_by_a_listener_comes_after_those_that_wait() -> None:
    exchange, heard = Exchange(Dice()), list[bytes]()

    def hear(_: str, body: bytes) -> None:
        heard.append(body)
        if body == b"1":
            exchange.publish("a", b"3")

    Listener(exchange, "a", hear)
    exchange.publish("a", b"1")
    exchange.publish("a", b"2")
    await quiet()
    assert heard == [b"1", b"2", b"3"]


@virtual
async def test_a_callback_that_raises_loses_only_its_own_message() -> None:
    exchange, heard = Exchange(Dice()), list[bytes]()

    def hear(_: str, body: bytes) -> None:
        heard.append(body)
        if body == b"1":
            raise ValueError("a defect of the callback")

    Listener(exchange, "a", hear)
    exchange.publish("a", b"1")
    exchange.publish("a", b"2")
    await quiet()
    assert heard == [b"1", b"2"]


@virtual
async def test_under_chaos_some_messages_reach_nobody() -> None:
    exchange, heard = Exchange(Dice(only(lost_live=0.1))), list[bytes]()
    Listener(exchange, "#", lambda _, body: heard.append(body))
    for number in range(500):
        exchange.publish("a", b"%d" % number)
    await quiet()
    assert 400 < len(heard) < 490


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.*", "a", False),
        ("a.*", "a.b", True),
        ("*.*", "a.b.c", False),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("a.#.c", "a.b.b", False),
        ("#.b.#", "a.b.c", True),
        ("#.*", "a", True),
    ],
)
def test_a_pattern_matches_words(pattern: str, topic: str, fits: bool) -> None:
    assert matches(pattern, topic) is fits
