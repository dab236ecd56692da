"""What the estimates rest upon: ratios by least squares, and a quantile of the last calls."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.tokens.estimate import Quantile, Regression


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 20), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_quantile_is_the_nearest_rank_of_the_last_values(
    values: list[int], memory: int, share: float
) -> None:
    quantile = Quantile(share, memory, min_samples=1)
    for value in values:
        quantile.learn(value)
    last = sorted(values[-memory:])
    assert quantile.value == (last[math.ceil(share * len(last)) - 1] if last else None)


def test_before_enough_is_known_there_is_no_quantile() -> None:
    quantile = Quantile(0.99, memory=10, min_samples=3)
    for value, known in ((7, None), (8, None), (9, 9)):
        quantile.learn(value)
        assert quantile.value == known


def test_untaught_ratios_are_the_guess() -> None:
    assert Regression(3, 10).predict((100, 20, 3)) == 123


@pytest.mark.parametrize("true", [(0.75, 0.7, 0.85), (1.0, 1.0, 1.0), (0.2, 3.0, 0.5)])
def test_the_parts_of_a_sum_are_told_apart(true: tuple[float, float, float]) -> None:
    dice, ratios = random.Random(1), Regression(3, 300)
    for _ in range(100):
        parts = (800, dice.randint(50, 500), dice.randint(0, 400))
        ratios.learn(parts, round(sum(ratio * part for ratio, part in zip(true, parts, strict=True))))
    for parts in ((800, 500, 0), (800, 50, 400)):
        wanted = sum(ratio * part for ratio, part in zip(true, parts, strict=True))
        assert ratios.predict(parts) == pytest.approx(wanted, rel=0.02)


def test_a_part_that_never_came_keeps_its_guess() -> None:
    ratios = Regression(2, 300)
    for _ in range(1000):
        ratios.learn((100, 0), 50)
    assert ratios.predict((0, 100)) == pytest.approx(100)


def test_what_was_forgotten_leaves_nothing_behind() -> None:
    dice, old, new = random.Random(1), Regression(3, 20), Regression(3, 20)
    for _ in range(500):
        old.learn((dice.randint(1, 10**5), dice.randint(1, 10**5), 7), dice.randint(1, 10**6))
    for number in range(20):
        for ratios in (old, new):
            ratios.learn((1000 + number, 3 * number, number % 4), 700)
    assert old.samples == new.samples == 20
    assert old.predict((1000, 10, 1)) == pytest.approx(new.predict((1000, 10, 1)))
