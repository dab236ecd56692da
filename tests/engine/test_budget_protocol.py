"""The budget that processes share by the journal: a thousand schedules, and each rule left out.

Simulated time, by seed. No schedule may exceed the limit in any minute at the provider. A rule that is left
out must break a bound that the whole protocol keeps in the same weather, or it would not be worth its lines.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from unittest.mock import patch

import pytest

from eco2.event import CallsGranted
from eco2.quota.budget import Budget
from eco2.writers import Writers
from tests.support.budget_world import Outcome, Process, Weather, simulate

CALM = Weather()
ROUGH = Weather(stall_every=30.0, freeze_every=45.0, kill_every=75.0, unconfirmed=0.02)
KILLS = Weather(kill_every=25.0)
STALLS = Weather(stall_every=60.0, stall=(0.5, 30.0))
FREEZES = Weather(freeze_every=40.0, freeze=(0.2, 40.0))
UNCONFIRMED = Weather(unconfirmed=0.15)
DRIFTING = replace(ROUGH, drift=5e-4)
RESTARTS = Weather(processes=1, slots=10, kill_every=80.0, seconds=400.0)
LARGE = replace(ROUGH, limit=120, slots=16, seconds=150.0)
WEATHERS = {
    "rough": (ROUGH, 400),
    "drifting": (DRIFTING, 200),
    "kills": (KILLS, 100),
    "stalls": (STALLS, 100),
    "freezes": (FREEZES, 100),
    "unconfirmed": (UNCONFIRMED, 80),
    "large": (LARGE, 20),
}
CHUNK = 20
SCHEDULES = [(name, first) for name, (_, count) in WEATHERS.items() for first in range(0, count, CHUNK)]


def test_a_thousand_schedules_are_tried() -> None:
    assert len(SCHEDULES) * CHUNK == 1000


@pytest.mark.parametrize(("name", "first"), SCHEDULES, ids=[f"{name}-{first}" for name, first in SCHEDULES])
def test_no_minute_at_the_provider_exceeds_the_limit(name: str, first: int) -> None:
    weather, _ = WEATHERS[name]
    for seed in range(first, first + CHUNK):
        outcome = simulate(weather, seed)
        assert outcome.fullest <= weather.limit, seed
        assert outcome.granted > outcome.expired, seed


def test_on_a_calm_day_one_leader_uses_the_budget_and_no_grant_expires() -> None:
    for seed in range(3):
        outcome = simulate(replace(CALM, limit=120, slots=16), seed)
        assert outcome.used >= 0.98
        assert (outcome.epochs, outcome.void_candidacies, outcome.expired) == (1, 0, 0)


def test_four_processes_that_are_killed_in_turn_every_20_s_use_nearly_all() -> None:
    weather = Weather(limit=120, processes=4, slots=15, kill_every=80.0, seconds=300.0)
    assert fmean(simulate(weather, seed).used for seed in range(4)) >= 0.95


def test_one_process_that_restarts_every_80_s_uses_nearly_all() -> None:
    assert fmean(simulate(RESTARTS, seed).used for seed in range(12)) >= 0.91


Check = Callable[[list[Outcome]], bool]


def within_limit(limit: int) -> Check:
    return lambda outcomes: all(outcome.fullest <= limit for outcome in outcomes)


def used(share: float) -> Check:
    return lambda outcomes: fmean(outcome.used for outcome in outcomes) >= share


def expired(share: float) -> Check:
    return lambda outcomes: (
        sum(outcome.expired for outcome in outcomes) <= share * sum(outcome.granted for outcome in outcomes)
    )


def epochs(most: int) -> Check:
    return lambda outcomes: all(outcome.epochs <= most for outcome in outcomes)


_spending = Budget.spending
_decide = Budget.decide


def counted_when_read(budget: Budget, now: float) -> object:
    return [(now, call) for _, call in _spending(budget, now)]


def counted_by_the_clock_alone(budget: Budget, now: float) -> object:
    """Without the next leader's record, which proves that the epoch before it is older."""
    found = [
        (min(now, call.at + budget._writers.ahead(epoch.writer, now)), call)
        for epoch in budget._epochs
        for call in epoch.calls.values()
    ]
    return sorted(found, key=lambda each: each[0])


def undecided(budget: Budget, *args: object, **kwargs: object) -> CallsGranted | None:
    """What was decided counts only once it was read, as other processes' grants do."""
    record = _decide(budget, *args, **kwargs)  # type: ignore[arg-type]
    if record is not None:
        budget.withdraw(record)
        budget._issued |= {call.id for call in record.calls}
        budget._pacer = None  # made again of what was read
    return record


LEFT_OUT: dict[str, tuple[type, str, object, Weather, Check]] = {
    "an expired grant is not used": (Budget, "may_send", lambda *_: True, LARGE, within_limit(120)),
    "issued grants count": (Budget, "decide", undecided, CALM, within_limit(20)),
    "a grant counts from when its leader made it": (Budget, "spending", counted_when_read, KILLS, used(0.8)),
    "an epoch is older than the next": (Budget, "spending", counted_by_the_clock_alone, RESTARTS, used(0.9)),
    "absent processes are granted nothing": (Writers, "is_present", lambda *_: True, KILLS, used(0.8)),
    "a leader that waits gives a sign": (Budget, "leads", lambda *_: None, CALM, epochs(1)),
    "a leader with a stalled tail is silent": (
        Writers,
        "is_current",
        lambda *_: True,
        STALLS,
        expired(0.06),
    ),
    "a late decision is withdrawn": (Process, "is_stale", lambda *_: False, UNCONFIRMED, expired(0.08)),
}


@pytest.mark.parametrize("rule", LEFT_OUT)
def test_each_rule_is_needed(rule: str) -> None:
    owner, name, instead, weather, keeps = LEFT_OUT[rule]
    assert keeps([simulate(weather, seed) for seed in range(12)])
    with patch.object(owner, name, instead):
        assert not keeps([simulate(weather, seed) for seed in range(12)])


def test_a_clock_must_not_stand_still_while_its_machine_is_suspended() -> None:
    """The price of a clock that does: the adapter has to use the kind that goes on."""
    assert not within_limit(120)([simulate(replace(LARGE, suspends=True), seed) for seed in range(12)])
