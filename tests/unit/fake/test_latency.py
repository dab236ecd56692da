"""Latencies of the fake: the right distribution, and the same draw for the same job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.errors import ConfigurationError
from eco2.fake.latency import due_times, from_mean_and_p99, uniform


@pytest.mark.parametrize(("mean", "p99"), [(12.25, 37.91), (14.13, 46.63), (5.38, 15.11), (2.0, 2.5)])
def test_many_draws_have_the_mean_and_the_p99_asked_for(mean: float, p99: float) -> None:
    distribution = from_mean_and_p99(mean, p99)
    draws = sorted(distribution.at(uniform(1, f"job {index}", "vision")) for index in range(40_000))
    assert sum(draws) / len(draws) == pytest.approx(mean, rel=0.02)
    assert draws[int(0.99 * len(draws))] == pytest.approx(p99, rel=0.05)


@given(st.integers(), st.text(), st.sampled_from(["vision", "answer"]))
def test_a_draw_depends_on_seed_job_and_kind_alone(seed: int, job: str, kind: str) -> None:
    drawn = uniform(seed, job, kind)
    assert 0 < drawn < 1
    assert drawn == uniform(seed, job, kind)
    assert (
        len({drawn, uniform(seed + 1, job, kind), uniform(seed, job + "x", kind), uniform(seed, job, "z")})
        == 4
    )


def test_equal_mean_and_p99_is_a_constant() -> None:
    constant = from_mean_and_p99(3.0, 3.0)
    assert constant.at(0.01) == pytest.approx(3.0)
    assert constant.at(0.99) == pytest.approx(3.0)


@pytest.mark.parametrize(("mean", "p99"), [(0, 1), (-1, 1), (2, 1), (1, 15.1)])
def test_impossible_figures_fail_at_start(mean: float, p99: float) -> None:
    with pytest.raises(ConfigurationError, match="latency"):
        from_mean_and_p99(mean, p99)


@given(st.floats(0, 100), st.floats(0, 1), st.integers(1, 100))
def test_pieces_come_in_order_and_the_last_at_the_total(total: float, first: float, pieces: int) -> None:
    due = due_times(total, first, pieces)
    assert len(due) == pieces
    assert list(due) == sorted(due)
    assert due[-1] == pytest.approx(total)
    if pieces > 1:
        assert due[0] == pytest.approx(total * first)
