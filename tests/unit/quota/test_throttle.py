"""A 429 halves, quiet restores, Retry-After pauses."""

import math

import pytest

from eco2.quota.throttle import FLOOR, Throttle


def test_nothing_is_held_back_before_the_first_429() -> None:
    assert Throttle().at(5.0) == 1.0


def test_a_429_halves_and_each_quiet_ten_seconds_add_a_tenth() -> None:
    throttle = Throttle().pushed_back(100.0, granted=99.0, retry_after=None)
    assert [round(throttle.at(now), 3) for now in (100, 109.9, 110, 120, 149, 150, 500)] == [
        0.5, 0.5, 0.6, 0.7, 0.9, 1.0, 1.0,
    ]  # fmt: skip


def test_calls_in_flight_together_halve_once() -> None:
    throttle = Throttle()
    for late in range(20):
        throttle = throttle.pushed_back(100.0 + late / 10, granted=95.0 + late / 10, retry_after=None)
    assert throttle.at(102.0) == 0.5
    assert throttle.at(111.8) == 0.5  # the last one began the quiet time anew
    assert throttle.at(111.95) == 0.6


def test_calls_granted_since_halve_again_down_to_a_floor() -> None:
    throttle, factors = Throttle(), []
    for now in range(1, 7):
        throttle = throttle.pushed_back(float(now), granted=now - 0.5, retry_after=None)
        factors.append(throttle.at(now))
    assert factors == [0.5, 0.25, 0.125, FLOOR, FLOOR, FLOOR]


def test_what_was_regained_is_halved() -> None:
    throttle = Throttle().pushed_back(0.0, -1.0, None)
    assert throttle.pushed_back(20.0, 19.0, None).at(20.0) == 0.35


def test_retry_after_pauses_and_a_shorter_one_does_not_end_it() -> None:
    throttle = Throttle().pushed_back(100.0, 99.0, 30.0).pushed_back(101.0, 99.0, 1.0)
    assert throttle.paused == 130.0


@pytest.mark.parametrize("asked", [9999999999.0, math.inf, 1e300])
def test_one_absurd_wait_pauses_for_tens_of_seconds(asked: float) -> None:
    throttle = Throttle().pushed_back(100.0, 99.0, asked)
    assert 110.0 <= throttle.paused <= 160.0
    assert throttle.shown(throttle.paused - 1) == 0.0
    assert throttle.shown(throttle.paused) == throttle.at(throttle.paused) == 0.5
    assert throttle.at(throttle.paused + 60) == 1.0


@pytest.mark.parametrize("asked", [math.nan, -1.0, -math.inf, 0.0, None])
def test_a_wait_that_makes_no_sense_pauses_nothing(asked: float | None) -> None:
    throttle = Throttle().pushed_back(100.0, 99.0, asked)
    assert throttle.paused <= 100.0
    assert throttle.shown(100.0) == 0.5


def test_the_pause_of_a_new_term_shows_as_no_throttling() -> None:
    assert Throttle(paused=10.0).shown(5.0) == 1.0
