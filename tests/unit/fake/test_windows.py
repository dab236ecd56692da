"""The fake's sliding windows against a recount by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.fake.config import FakeConfig
from eco2.fake.windows import RateLimits, SlidingWindow, duration, rate_headers

SPAN = 60.0
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 1.0, 7.5, 29.75, 30.0, 60.0, 61.0]), st.integers(0, 12)),
    max_size=80,
)


def within(arrivals: list[tuple[float, int]], now: float) -> int:
    return sum(cost for arrival, cost in arrivals if now - SPAN < arrival <= now)


@given(ARRIVALS, st.integers(1, 30))
def test_a_call_is_let_in_exactly_when_a_recount_has_room_for_it(
    gaps: list[tuple[float, int]], limit: int
) -> None:
    window, now, peak = SlidingWindow(limit, SPAN), 0.0, 0
    kept: list[tuple[float, int]] = []
    for gap, cost in gaps:
        now += gap
        assert window.fits(now, cost) == (within(kept, now) + cost <= limit)
        if window.fits(now, cost):
            window.add(now, cost)
            kept.append((now, cost))
            peak = max(peak, within(kept, now))
        use = window.use(now)
        assert (use.used, use.peak) == (within(kept, now), peak)
        assert use.peak <= limit


@given(ARRIVALS, st.integers(1, 30), st.integers(1, 30))
def test_the_wait_that_it_announces_is_the_shortest_that_works(
    gaps: list[tuple[float, int]], limit: int, asked: int
) -> None:
    window, now = SlidingWindow(limit, SPAN), 0.0
    kept: list[tuple[float, int]] = []
    for gap, cost in gaps:
        now += gap
        if window.fits(now, cost):
            window.add(now, cost)
            kept.append((now, cost))
    wait = window.wait(now, asked)
    if asked > limit:
        assert wait is None
        return
    assert wait is not None
    assert within(kept, now + wait) + asked <= limit
    if wait:
        just_before = math.nextafter(now + wait, 0)
        assert within(kept, just_before) + asked > limit


def test_what_arrived_exactly_a_span_ago_no_longer_counts() -> None:
    window = SlidingWindow(1, SPAN)
    window.add(10.0, 1)
    assert not window.fits(math.nextafter(70.0, 0), 1)
    assert window.fits(70.0, 1)


def test_a_refused_call_leaves_no_trace_in_either_window() -> None:
    limits = RateLimits(FakeConfig(rpm=10, tpm=100))
    limits.count(0.0, 90)
    refusal = limits.refuses(1.0, 20)
    assert refusal is not None
    assert (refusal.status, refusal.kind, refusal.code) == (429, "tokens", "rate_limit_exceeded")
    assert refusal.retry_after == 59.0
    limits.count_rejected(1.0)
    assert limits.use(1.0)["requests"].used == 1
    assert limits.refuses(1.0, 10) is None


def test_a_refused_call_costs_a_request_where_that_is_set() -> None:
    limits = RateLimits(FakeConfig(rpm=2, tpm=None, count_rejected=True))
    limits.count(0.0, 1)
    limits.count_rejected(1.0)
    refusal = limits.refuses(2.0, 1)
    assert refusal is not None
    assert refusal.kind == "requests"


def test_a_call_that_can_never_fit_is_not_told_to_wait() -> None:
    refusal = RateLimits(FakeConfig(rpm=None, tpm=100)).refuses(0.0, 101)
    assert refusal is not None
    assert refusal.retry_after is None
    assert "too large" in refusal.message


def test_headers_say_limit_rest_and_time_until_empty() -> None:
    limits = RateLimits(FakeConfig(rpm=60, tpm=150_000))
    limits.count(0.0, 16)
    headers = rate_headers(limits.use(52.5), retry_after=1.2341)
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "7.5s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "7.5s",
        "retry-after": "2",
        "retry-after-ms": "1235",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.012, "12ms"), (1, "1s"), (8.64, "8.64s"), (59.9999, "1m0s"), (360, "6m0s")],
)
def test_durations_are_written_as_in_openais_headers(seconds: float, text: str) -> None:
    assert duration(seconds) == text
