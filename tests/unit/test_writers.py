"""What headers show of other processes' clocks, and of the tail that reads them."""

import random

import pytest

from eco2.event import Header
from eco2.writers import DRIFT, Writers


def header(writer: str, number: int, sent: float, seen: int = -1) -> Header:
    return Header(writer, number, sent, seen)


def test_a_copy_is_found_however_late_it_comes() -> None:
    writers = Writers("me")
    assert writers.take(0, header("w", 1, 0.0), 0.0)
    assert writers.take(1, header("w", 2, 1.0), 1.0)
    assert not writers.take(2, header("w", 2, 1.0), 1.0)
    assert not writers.take(3, header("w", 1, 0.0), 90.0)
    assert writers.take(4, header("other", 1, 0.0), 90.0)


@pytest.mark.parametrize("seed", range(20))
def test_no_moment_of_another_clock_was_here_later_than_its_bound(seed: int) -> None:
    dice = random.Random(seed)
    origin, speed = dice.uniform(0.0, 1e5), 1.0 + dice.uniform(-DRIFT, DRIFT)
    writers, now, pending = Writers("me"), 0.0, []
    for number in range(1, 200):
        now += dice.expovariate(0.2)
        pending.append((now, number))
        if dice.random() < 0.3:  # the tail was behind, and catches up
            now += dice.uniform(0.0, 10.0)
            for at, each in pending:
                writers.take(each, header("w", each, origin + speed * at), now)
            pending.clear()
            moment = now - dice.uniform(0.0, 100.0)
            assert moment <= origin + speed * moment + writers.ahead("w", now) + DRIFT * 110.0
            for at, _ in pending[-1:]:
                assert at <= origin + speed * at + writers.ahead("w", now)


def test_the_bound_grows_while_nothing_is_read_and_shrinks_with_a_quick_message() -> None:
    writers = Writers("me")
    writers.take(0, header("w", 1, 100.0), 5.0)
    assert writers.ahead("w", 5.0) == pytest.approx(-95.0)
    assert writers.ahead("w", 1005.0) == pytest.approx(-94.0)
    writers.take(1, header("w", 2, 1099.0), 1005.5)
    assert writers.ahead("w", 1005.5) == pytest.approx(-93.9995)
    writers.take(2, header("w", 3, 1101.0), 1006.0)
    assert writers.ahead("w", 1006.0) == pytest.approx(-95.0)


def test_a_tail_is_current_while_it_shows_fresh_messages() -> None:
    writers = Writers("me")
    assert not writers.is_current(0.0)
    writers.take(0, header("w", 1, 0.0), 0.0)
    assert writers.is_current(2.0)
    writers.take(1, header("w", 2, 1.0), 20.0)  # 19 s late: it stood still
    assert not writers.is_current(20.0)
    writers.take(2, header("w", 3, 20.9), 21.0)
    assert writers.is_current(21.0)


def test_a_process_is_present_by_its_messages_or_beats_if_its_tail_keeps_up() -> None:
    writers = Writers("me")
    for number in range(10):
        writers.take(number, header("w", number + 1, float(number), number - 1), float(number))
        writers.note_heartbeat("me", number, float(number))
        writers.note_heartbeat("stalled", 0, float(number))
    assert writers.is_present("w", 9.0)
    assert writers.is_present("me", 9.0)
    assert not writers.is_present("stalled", 9.0)
    assert not writers.is_present("unknown", 9.0)
    writers.note_heartbeat("me", 9, 12.0)
    assert not writers.is_present("w", 12.0)
    writers.note_heartbeat("w", 9, 12.0)
    assert writers.is_present("w", 12.0)


def test_presence_says_nothing_while_the_own_beats_do_not_come_back() -> None:
    writers = Writers("me")
    writers.take(0, header("w", 1, 0.0), 0.0)
    assert writers.is_present("w", 100.0)
