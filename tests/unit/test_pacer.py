"""No 60 s of arrivals exceed a limit, whatever happens; single decisions one by one."""

from dataclasses import astuple
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco2.errors import CallTooLarge
from eco2.pacer import (
    BURST_SECONDS,
    MIN_CALLS,
    MINUTE,
    SPAN,
    TRANSIT_GUARD,
    CallStats,
    Counting,
    Limits,
    Pacer,
)
from tests.support.provider_windows import Arrival, fullest

LIMITS = Limits(requests=30.0, tokens=6000.0)
LARGEST = 800.0
SECONDS = st.floats(0.0, 40.0, allow_nan=False)
SHARES = st.floats(0.0, 1.0, allow_nan=False)
CALLS = st.tuples(st.just("call"), st.floats(1.0, LARGEST), SHARES, SHARES)
"""Reserved tokens; which share of them the call takes; which share of the guard it is late."""

Step = tuple[str] | tuple[str, float] | tuple[str, float, float, float]

STEPS = st.lists(
    st.one_of(
        CALLS,
        CALLS,
        CALLS,
        st.tuples(st.sampled_from(["settle", "refund", "refund twice"]), SHARES),
        st.tuples(st.sampled_from(["pause", "burst"]), SECONDS),
        st.tuples(st.just("factor"), st.sampled_from([0.1, 0.5, 1.0])),
        st.tuples(st.just("leader")),
    ),
    min_size=20,
    max_size=150,
)


class World:
    """Calls in flight around a pacer; `counted` are those that reached the provider, with their real cost."""

    def __init__(self, counting: Counting) -> None:
        self.now = 0.0
        self.calls = 0
        self.counting = counting
        self.pacer = Pacer(LIMITS, self.now, counting, LARGEST)
        self.open: dict[str, tuple[float, float]] = {}
        self.counted: dict[str, Arrival] = {}

    def call(self, reserved: float, taken: float, late: float) -> None:
        self.now = self.pacer.when(self.now, reserved)
        assert self.pacer.when(self.now, reserved) == self.now
        self.calls += 1
        name = str(self.calls)
        self.pacer.grant(self.now, name, reserved)
        real = reserved if self.counting == "request" else reserved * taken
        self.counted[name] = (self.now + late * TRANSIT_GUARD, real)
        self.open[name] = (self.now, real)

    def end(self, kind: str, share: float) -> None:
        if not self.open:
            return
        name = list(self.open)[int(share * (len(self.open) - 1))]
        granted, real = self.open.pop(name)
        if kind == "settle":
            self.pacer.settle(name, real)
            return
        if self.now <= granted + TRANSIT_GUARD:  # later, it has arrived
            del self.counted[name]
            self.pacer.refund(name)
        if kind == "refund twice":
            self.pacer.settle(name, real)
            self.pacer.refund(name)

    def step(self, step: Step) -> None:
        match step:
            case ("call", reserved, taken, late):
                self.call(reserved, taken, late)
            case ("pause", seconds):
                self.now += seconds
            case ("burst", number):
                for _ in range(int(number)):
                    self.call(1.0, 1.0, 1.0)
            case ("factor", factor):
                self.pacer.limit(LIMITS, factor, self.now)
            case ("leader",):
                self.pacer = Pacer(LIMITS, self.now, self.counting, LARGEST)
            case (kind, share):
                self.end(kind, share)


@pytest.mark.parametrize("counting", ["request", "input"])
@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_no_minute_of_arrivals_exceeds_a_limit(counting: Counting, steps: list[Step]) -> None:
    world = World(counting)
    for step in steps:
        world.step(step)
    assert fullest(world.counted.values()) <= 6000.0 + 1e-3
    assert fullest((time, 1.0) for time, _ in world.counted.values()) <= 30.0


def fresh(limits: Limits, counting: Counting = "request") -> tuple[Pacer, float]:
    """A pacer whose window is empty again, and the time."""
    return Pacer(limits, -SPAN, counting), 0.0


def test_a_new_leader_begins_with_a_full_window_that_empties_evenly() -> None:
    pacer = Pacer(Limits(60.4, 6040.0), 0.0)
    assert astuple(pacer.used(0.0)) == pytest.approx((60.4, 6040.0))
    first = pacer.when(0.0, 100.0)
    assert BURST_SECONDS < first < BURST_SECONDS + 1.5
    assert pacer.used(SPAN / 2).requests == pytest.approx(60.4 / 2 + BURST_SECONDS, abs=0.2)
    assert pacer.used(SPAN) == Limits(0.0, 0.0)


@pytest.mark.parametrize(("largest", "kept"), [(LARGEST, True), (0.0, False)])
def test_a_large_call_just_before_a_takeover_is_allowed_for(largest: float, kept: bool) -> None:
    pacer, now = fresh(LIMITS)
    pacer.grant(now, "large", LARGEST)
    arrivals = [(now + TRANSIT_GUARD, LARGEST)]
    pacer = Pacer(LIMITS, now, "request", largest)
    while (now := pacer.when(now, 250.0)) < MINUTE:
        pacer.grant(now, str(now), 250.0)
        arrivals.append((now, 250.0))
    assert (fullest(arrivals) <= 6000.0) is kept


def test_the_answer_is_the_exact_moment() -> None:
    pacer, now = fresh(Limits(requests=2.0))
    pacer.grant(now, "a", 1)
    second = pacer.when(now, 1)
    assert second == pytest.approx(SPAN / 2)  # evenly
    pacer.grant(second, "b", 1)
    assert pacer.when(second, 1) == pytest.approx(SPAN)
    assert pacer.when(SPAN, 1) == SPAN


def test_batch_calls_come_evenly_and_leave_room_for_a_person() -> None:
    pacer, now = fresh(Limits(requests=600.0))
    times = list[float]()
    while now < SPAN:
        pacer.grant(now, f"call {len(times)}", 1)
        times.append(now)
        now = pacer.when(now, 1, batch=True)
    assert times[2] - times[0] < 0.1 < times[3] - times[0]  # a quarter of a second's worth at once
    assert pacer.used(times[-1]).requests == 597  # of 600
    assert [pacer.when(times[-1], 1, batch=batch) > times[-1] for batch in (False, True)] == [False, True]


@pytest.mark.parametrize(("limit", "reserve"), [(60.0, 0), (160.0, 1), (320.0, 2), (500.0, 3), (10_000.0, 3)])
def test_the_reserve_is_small_beside_the_limit(limit: float, reserve: int) -> None:
    pacer, now = fresh(Limits(requests=limit))
    for number in count():
        if (now := pacer.when(now, 1, batch=True)) >= SPAN:
            break
        pacer.grant(now, f"call {number}", 1)
    assert pacer.used(SPAN - 0.01).requests == limit - reserve


def test_the_scarcer_of_requests_and_tokens_decides() -> None:
    pacer, now = fresh(Limits(requests=600.0, tokens=100.0))
    pacer.grant(now, "a", 100)
    assert pacer.when(now, 1) == pytest.approx(SPAN)
    pacer, now = fresh(Limits(tokens=100.0))
    assert pacer.when(now, 100) == now
    assert Pacer(Limits(), now).when(now, 1e9) == now


def test_a_call_larger_than_a_whole_minute_is_refused_even_when_throttled() -> None:
    pacer, now = fresh(Limits(tokens=1000.0))
    pacer.limit(Limits(tokens=1000.0), 0.1, now)
    assert pacer.when(now, 1000.0) == now  # alone it may
    with pytest.raises(CallTooLarge, match="1001 tokens is more than the 1000 "):
        pacer.when(now, 1001.0)


def test_a_refund_gives_back_once_and_only_what_was_not_settled() -> None:
    pacer, now = fresh(Limits(10.0, 1000.0), "input")
    for name in ("a", "b"):
        pacer.grant(now, name, 300.0)
    pacer.refund("a")
    pacer.refund("a")
    assert pacer.used(now) == Limits(1.0, 300.0)
    pacer.settle("b", 200.0)
    pacer.refund("b")
    pacer.settle("b", 1.0)
    pacer.refund("nobody")
    assert pacer.used(now) == Limits(1.0, 200.0)


def test_where_the_request_counts_what_it_took_changes_nothing() -> None:
    pacer, now = fresh(Limits(10.0, 1000.0))
    pacer.grant(now, "a", 300.0)
    pacer.settle("a", 1.0)
    assert pacer.used(now) == Limits(1.0, 300.0)


def test_a_word_on_a_call_that_is_out_of_the_window_changes_nothing() -> None:
    pacer, now = fresh(Limits(10.0, 1000.0), "input")
    pacer.grant(now, "a", 300.0)
    pacer.grant(now + SPAN, "b", 300.0)
    pacer.settle("a", 1.0)
    pacer.refund("a")
    assert pacer.used(now + SPAN) == Limits(1.0, 300.0)


def test_a_limit_that_goes_and_comes_begins_full() -> None:
    pacer, now = fresh(Limits(10.0, 1000.0), "input")
    pacer.grant(now, "a", 300.0)
    pacer.limit(Limits(10.0), 1.0, now)
    assert pacer.used(now) == Limits(1.0, None)
    pacer.limit(Limits(10.0, 500.0), 1.0, now)
    pacer.settle("a", 0.0)
    assert astuple(pacer.used(now)) == pytest.approx((1.0, 500.0))


def test_usage_is_reserved_in_aggregate_once_a_kind_is_known() -> None:
    pacer, now = fresh(Limits(tokens=100_000.0), "usage")
    for number in range(MIN_CALLS):
        assert pacer.when(now, 1000.0, "answer") == now
        pacer.grant(now, str(number), 1000.0, "answer")
        pacer.settle(str(number), 90.0 if number % 2 else 110.0)
        now += SPAN
    for number in range(4):
        now = pacer.when(now, 1000.0, "answer")
        pacer.grant(now, f"open {number}", 1000.0, "answer")
    assert pacer.used(now).tokens == pytest.approx(400.0)
    assert pacer.used(now + SPAN).tokens == 0.0
    pacer.grant(now + SPAN, "other", 1000.0, "vision")
    assert pacer.used(now + SPAN).tokens == 1000.0


def test_the_room_for_usage_grows_with_the_root_of_the_calls_in_flight() -> None:
    pacer, now = fresh(Limits(tokens=10_000.0), "usage")
    for number in range(300):
        pacer.grant(now, str(number), 100.0)
        pacer.settle(str(number), 90.0 if number % 2 else 110.0)
    start = now = pacer.when(now + SPAN, 1000.0)
    granted = 0
    while (now := pacer.when(now, 1000.0)) < start + SPAN:
        pacer.grant(now, f"open {granted}", 1000.0)
        granted += 1
    sigma = 10.0
    assert (
        granted * 100 + 3.5 * sigma * granted**0.5
        <= 10_000
        < (granted + 1) * 100 + 3.5 * sigma * granted**0.5
    )
    for number in range(granted):
        pacer.settle(f"open {number}", 100.0)
    assert pacer.when(now, 100.0) <= now + BURST_SECONDS  # the room is given back


def test_a_kind_forgets() -> None:
    kind = CallStats()
    for _ in range(2000):
        kind = kind.with_call(100.0)
    assert (kind.mean, kind.variance) == (100.0, 0.0)
    for _ in range(2000):
        kind = kind.with_call(200.0)
    assert kind.mean == pytest.approx(200.0, abs=1)


def test_the_lower_limit_counts() -> None:
    assert Limits(500, None).lowest(Limits(300, 1000)) == Limits(300, 1000)
    assert Limits(500, 10).scaled(0.5) == Limits(250, 5)
    assert Limits().scaled(0.5) == Limits()


@pytest.mark.parametrize("real", [500.0, 60.0, 2999.0])
def test_a_lower_limit_that_is_named_costs_no_minute(real: float) -> None:
    """ECO2_RPM is 3000; the first answer says what the provider allows."""
    pacer = Pacer(Limits(3000.0), 0.0)
    first = pacer.when(0.0, 1.0)
    pacer.grant(first, "first", 1.0)
    pacer.limit(Limits(real), 1.0, first + 1.0)
    assert pacer.when(first + 1.0, 1.0) - first < 1.0 + 2 * SPAN / real + BURST_SECONDS


@settings(max_examples=50, deadline=None)
@given(
    before=st.floats(60.0, 3000.0),
    share=st.floats(0.02, 1.0),
    takeover=st.floats(0.0, 70.0),
    named=st.floats(0.0, 5.0),
)
def test_a_takeover_before_the_limit_is_known_overruns_no_minute(
    before: float, share: float, takeover: float, named: float
) -> None:
    """The predecessor kept the true limit; its successor begins with the one that it was given. Only the call
    whose answer names the true limit goes out before that is known."""
    true = Limits(requests=before * share)
    assert true.requests is not None
    arrivals: list[tuple[float, float]] = []

    def serve(pacer: Pacer, now: float, until: float) -> None:
        while (now := pacer.when(now, 1.0)) < until:
            pacer.grant(now, str(len(arrivals)), 1.0)
            arrivals.append((now, 1.0))

    predecessor = Pacer(true, -SPAN)
    serve(predecessor, 0.0, takeover)
    successor = Pacer(Limits(before), takeover)
    first = successor.when(takeover, 1.0)
    successor.grant(first, "first", 1.0)
    arrivals.append((first, 1.0))
    successor.limit(true, 1.0, first + named)
    serve(successor, first + named, takeover + 130.0)
    assert fullest(arrivals) <= true.requests + 1 + 1e-6


def test_the_factor_of_a_429_does_not_shrink_what_may_have_been_spent() -> None:
    pacer = Pacer(Limits(600.0), 0.0)
    before = pacer.assumed(0.0)
    pacer.limit(Limits(600.0), 0.5, 0.0)
    assert pacer.assumed(0.0) == before
