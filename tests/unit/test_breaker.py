"""The breaker of a provider: opens by failures in a row, lets one call go ahead, closes when it succeeds."""

import pytest

from eco2.consumers.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker

NOW = 100.0


def failing(times: int, breaker: Breaker | None = None, now: float = NOW) -> Breaker:
    breaker = breaker or Breaker()
    for _ in range(times):
        breaker = breaker.began().failed(now)
    return breaker


def test_it_opens_by_failures_in_a_row_and_not_before() -> None:
    assert failing(FAILURES - 1).closed
    assert failing(FAILURES - 1).wait(NOW) == 0
    opened = failing(FAILURES)
    assert not opened.closed
    assert opened.wait(NOW) == FIRST_PAUSE
    assert opened.wait(NOW + 0.5) == FIRST_PAUSE - 0.5


def test_a_call_that_succeeds_ends_the_row() -> None:
    assert failing(FAILURES - 1, failing(FAILURES - 1).succeeded()).closed


def test_a_call_that_tells_nothing_neither_ends_the_row_nor_counts() -> None:
    breaker = failing(FAILURES - 1).abandoned()
    assert breaker.closed
    assert not failing(1, breaker).closed


def test_behind_the_pause_one_call_goes_ahead_and_the_others_wait() -> None:
    half_open = failing(FAILURES)
    later = NOW + FIRST_PAUSE
    assert half_open.wait(later) == 0
    probing = half_open.began()
    assert probing.wait(later) > 0
    assert probing.wait(later + 1000) > 0
    assert probing.succeeded() == Breaker()


def test_a_call_ahead_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = failing(FAILURES), NOW, []
    for _ in range(5):
        pauses.append(breaker.wait(now))
        now += pauses[-1]
        assert breaker.wait(now) == 0
        breaker = breaker.began().failed(now)
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_call_ahead_that_tells_nothing_lets_the_next_go_ahead() -> None:
    later = NOW + FIRST_PAUSE
    breaker = failing(FAILURES).began().abandoned()
    assert not breaker.closed
    assert breaker.wait(later) == 0


def test_after_it_closed_the_pause_is_the_first_again() -> None:
    breaker = failing(FAILURES).began().failed(NOW + FIRST_PAUSE).began().succeeded()
    assert failing(FAILURES, breaker).wait(NOW) == FIRST_PAUSE


@pytest.mark.parametrize("late", range(1, 4))
def test_failures_of_calls_sent_before_it_opened_change_nothing(late: int) -> None:
    opened = failing(FAILURES)
    breaker = opened
    for _ in range(late):
        breaker = breaker.failed(NOW + 1.5)
    assert breaker.wait(NOW + FIRST_PAUSE) == 0
    assert breaker.began().failed(NOW + FIRST_PAUSE).pause == 2 * FIRST_PAUSE


def test_a_late_success_says_that_the_provider_is_back() -> None:
    assert failing(FAILURES).succeeded().closed


def test_a_provider_that_serves_us_no_more_opens_it_at_once() -> None:
    breaker = Breaker().began().shut(NOW)
    assert not breaker.closed
    assert breaker.wait(NOW) == FIRST_PAUSE
    assert breaker.began().shut(NOW + FIRST_PAUSE).wait(NOW + FIRST_PAUSE) == 2 * FIRST_PAUSE
