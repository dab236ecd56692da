"""The ledger against a plain list that is looked through from end to end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.ledger import Ledger

SPAN, BURST_SECONDS = 60.0, 2.0
PAUSES = st.integers(0, 640).map(lambda ticks: ticks / 64)
COSTS = st.integers(0, 40).map(float)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PAUSES, COSTS),
        st.tuples(st.just("correct"), st.integers(0, 400), COSTS),
        st.tuples(st.just("relimit"), st.sampled_from([30.0, 60.0, 120.0]), st.none()),
    ),
    max_size=200,
)


class Reference:
    """The definition, in O(n)."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.entries: list[tuple[float, float]] = []

    def live(self, now: float) -> list[tuple[float, float]]:
        return [(time, cost) for time, cost in self.entries if time + SPAN > now]

    def level(self, now: float) -> float:
        """What the last entries cost more than the rate allowed for their time, at the worst."""
        rate, live = self.limit / SPAN, self.live(now)
        behind = (sum(cost for _, cost in live[place:]) for place in range(len(live)))
        return max(
            (total - rate * (now - time) for total, (time, _) in zip(behind, live, strict=True)),
            default=-math.inf,
        )

    def admits(self, now: float, cost: float) -> bool:
        used = sum(spent for _, spent in self.live(now))
        burst = max(self.limit / SPAN * BURST_SECONDS, cost)
        fits = used + cost <= max(self.limit, cost) + 1e-9
        return fits and self.level(now) + cost <= burst + 1e-6


@given(STEPS, COSTS)
def test_it_says_what_the_definition_says(steps: list[tuple[str, float, float]], asked: float) -> None:
    now, ledger, reference = 1000.0, Ledger(60.0, SPAN, BURST_SECONDS), Reference(60.0)
    keys: list[int] = []
    for step, number, cost in steps:
        if step == "add":
            now += number
            keys.append(ledger.add(now, cost))
            reference.entries.append((now, cost))
        elif step == "relimit":
            ledger.relimit(number)
            reference.limit = number
        elif keys:
            place = int(number) % len(keys)
            ledger.correct(keys[place], cost)
            reference.entries[place] = (reference.entries[place][0], cost)
        assert ledger.used(now) == sum(spent for _, spent in reference.live(now))
    moment = ledger.earliest(now, asked)
    assert moment >= now
    assert reference.admits(moment, asked)
    assert moment == now or not reference.admits(moment - 1e-3, asked)
    assert ledger.earliest(moment, asked) == moment


def test_room_for_a_margin_must_be_left_but_is_not_spent() -> None:
    ledger = Ledger(100.0, SPAN, SPAN)
    ledger.add(0.0, 50.0)
    assert ledger.earliest(1.0, 40.0, 10.0) == 1.0
    assert ledger.earliest(1.0, 40.0, 11.0) == SPAN
    assert ledger.used(1.0) == 50.0


def test_what_may_go_less_far_ahead_of_the_rate_waits_until_the_rest_has_fallen_back() -> None:
    ledger = Ledger(60.0, 60.0, 2.0)
    for _ in range(2):
        assert ledger.earliest(0.0, 1.0) == 0.0
        ledger.add(0.0, 1.0)
    assert ledger.earliest(0.0, 1.0) == 1.0
    assert ledger.earliest(0.0, 1.0, slack=0.25) == 2.0
    assert ledger.earliest(0.0, 1.0, slack=99.0) == 1.0


def test_what_is_larger_than_the_limit_has_an_empty_window_to_itself() -> None:
    ledger = Ledger(100.0, SPAN, SPAN)
    ledger.add(5.0, 1.0)
    assert ledger.earliest(6.0, 150.0) == 5.0 + SPAN


def test_thousands_of_entries_are_corrected_and_dropped() -> None:
    ledger = Ledger(10_000.0, SPAN, SPAN)
    keys = [ledger.add(number / 100, 1.0) for number in range(5000)]
    for key in keys[::2]:
        ledger.correct(key, 0.0)
    assert ledger.used(50.0) == 2500.0
    assert ledger.used(85.0) == 1250.0
    ledger.correct(keys[0], 99.0)
    assert ledger.used(85.0) == 1250.0


@pytest.mark.parametrize("limit", [1.0, 7.0, 300.0, 200_000.0])
@pytest.mark.parametrize("largest", [0.0, 5.0])
def test_a_spent_window_is_full_and_no_emptier_than_any_that_kept_the_rules(
    limit: float, largest: float
) -> None:
    now, rate = 500.0, limit / SPAN
    ledger = Ledger.spent(limit, SPAN, BURST_SECONDS, now, largest)
    assert ledger.used(now) == pytest.approx(limit)
    for tenths in range(600):
        left = ledger.used(now + tenths / 10)
        assert left >= min(limit, rate * (SPAN - tenths / 10) + max(rate * BURST_SECONDS, largest)) - 1e-6
    assert ledger.used(now + SPAN) == 0


@pytest.mark.parametrize("largest", [0.0, 5.0, 500.0])
@pytest.mark.parametrize("lower", [0.02, 1 / 6, 0.9])
def test_a_spent_window_of_a_lower_limit_is_full_and_no_emptier_than_any_that_kept_it(
    largest: float, lower: float
) -> None:
    now, limit = 500.0, 3000.0
    ledger = Ledger.spent(limit, SPAN, BURST_SECONDS, now, largest)
    ledger.assume(lower)
    ledger.relimit(limit * lower)
    rate = limit * lower / SPAN
    for tenths in range(600):
        left = ledger.used(now + tenths / 10)
        assert (
            left
            >= min(limit * lower, rate * (SPAN - tenths / 10) + max(rate * BURST_SECONDS, largest)) - 1e-6
        )


def test_only_what_was_assumed_follows_the_limit_down_and_up() -> None:
    ledger = Ledger.spent(600.0, SPAN, BURST_SECONDS, 0.0)
    ledger.add(1.0, 7.0)
    known = ledger.used(1.0) - ledger.assumed(1.0)
    assert known == pytest.approx(7.0)
    ledger.assume(0.1)
    assert ledger.used(1.0) - ledger.assumed(1.0) == pytest.approx(7.0)
    assert ledger.assumed(1.0) == pytest.approx(59.5, abs=1.0)
    ledger.relimit(60.0)
    ledger.assume(10.0)
    assert ledger.assumed(1.0) == pytest.approx(595.0, abs=10.0)
    assert ledger.assumed(SPAN + 0.5) == 0.0
    assert ledger.used(SPAN + 0.5) == 7.0
