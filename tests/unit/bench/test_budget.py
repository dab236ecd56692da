"""The benchmark of the budget judges right: windows, what became of jobs, and what is a breach."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.budget import burner, verdict
from bench.budget.case import CASES, UNLOADED, Case, batches
from bench.budget.incidents import Note
from bench.budget.jobs import JobStory, stories
from bench.budget.load import Offered
from bench.budget.run import Measured
from bench.budget.windows import Amount, Arrival, fullest, per_second, sliding, total
from eco2.event import Done, Event, Queued, Released, RunStarted, StageChanged
from eco2.metrics.series import all_series

CASE = Case("requests", "requests bind", rpm=60, tpm=600_000)
WALL = 1_000_000.0
"""Unix seconds at the monotonic zero of these tests."""


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(1, 50)), max_size=40))
def test_the_fullest_minute_is_that_of_a_plain_count(drawn: list[tuple[float, int]]) -> None:
    arrivals = [Arrival(time, tokens) for time, tokens in sorted(drawn)]
    held = [
        [other.tokens for other in arrivals if one.time - 60 < other.time <= one.time] for one in arrivals
    ]
    most = Amount(max(map(len, held), default=0), max(map(sum, held), default=0))
    found = fullest(arrivals)
    assert found.requests == pytest.approx(most.requests)
    assert found == most


def test_seconds_add_up_to_sliding_minutes() -> None:
    arrivals = [Arrival(second + 0.5, 10) for second in range(90)]
    series = per_second(arrivals, 0.0, 90.0)
    assert series == [Amount(1, 10)] * 90
    assert sliding(series)[9] == Amount(10, 100)
    assert sliding(series)[89] == Amount(60, 600)
    assert total(arrivals, 60.0, 90.0) == Amount(30, 300)


def stage(run: str, ts: float, status: str = "started") -> Event:
    return StageChanged(ts=ts, job="j", run=run, stage="vision", status=status, seq=10, progress=0)  # type: ignore[arg-type]


def done(run: str, ts: float) -> Event:
    return Done(ts=ts, job="j", run=run, status="completed", seq=51, result={})


def test_a_job_begins_with_its_first_call_and_ends_with_the_end_that_stands() -> None:
    events: list[Event | None] = [
        Queued(ts=1, job="j", pipeline="scan", deadline=900, digest="", key="scan-7"),
        RunStarted(ts=2, job="j", run="a", attempt=1, worker="w1"),
        stage("a", 3.0),
        RunStarted(ts=20, job="j", run="b", attempt=2, worker="node-2-77-0f"),
        done("a", 21.0),  # overtaken: void
        stage("b", 22.0),
        None,
        done("b", 30.0),
        done("b", 31.0),
    ]
    assert stories(enumerate(events)) == {
        "scan-7": JobStory("scan-7", 1, 2, "b", 77, began=3.0, ended=30.0, status="completed")
    }


def test_a_job_that_is_given_back_has_not_ended() -> None:
    events: list[Event | None] = [
        Queued(ts=1, job="j", pipeline="scan", deadline=900, digest=""),
        RunStarted(ts=2, job="j", run="a", attempt=1, worker="w1"),
        Released(ts=3, job="j", run="a", reason="drained"),
    ]
    assert stories(enumerate(events))["j"].ended is None


@pytest.mark.parametrize(("over", "ended"), [(1, 21.0), (2, 30.0)])
def test_a_run_that_did_not_know_of_a_stage_is_void(over: int, ended: float) -> None:
    events: list[Event | None] = [
        Queued(ts=1, job="j", pipeline="scan", deadline=900, digest=""),
        RunStarted(ts=2, job="j", run="a", attempt=1, worker="w1"),
        stage("a", 3.0),
        RunStarted(ts=20, job="j", run="b", attempt=2, worker="w2", over=over),
        done("a", 21.0),
        done("b", 30.0),
    ]
    assert stories(enumerate(events))["j"].ended == ended


def call(number: int, at: float, **changes: Any) -> dict[str, Any]:
    kind = ("vision", "answer")[number % 2]
    plain = {"job": str(number // 2), "kind": kind, "arrived_at": at, "wall": WALL + at, "counted": True}
    return {**plain, "charged_tokens": 900, "status": 200, **changes}


def measured(case: Case = CASE, every: float = 1.0, slow: float = 1.0) -> Measured:
    """Four minutes of calls, one `every` so many seconds, whose jobs take `slow` times ten seconds."""
    calls = [call(number, number * every) for number in range(int(240 / every))]
    jobs = [
        JobStory(f"scan-{n}", WALL, 1, "r", 9, WALL + 2 * n, WALL + 2 * n + 10 * slow, "completed")
        for n in range(120)
    ]
    offered = Offered([2.0 * number / 1.25 for number in range(150)], 150)
    return Measured(case, 0.0, 60.0, 240.0, offered, calls, {job.key: job for job in jobs}, [Note(70.0, "x")])


UNLOADED_SECONDS = {f"scan-{number}": 10.0 for number in range(120)}


def missed(what: Measured) -> list[str]:
    checks = verdict.figures(what, UNLOADED_SECONDS)["checks"]
    assert isinstance(checks, list)
    return [check["what"] for check in checks if not check["kept"]]


def test_all_is_kept_where_a_call_a_second_of_sixty_a_minute_is_made() -> None:
    assert missed(measured()) == []


@pytest.mark.parametrize(
    ("what", "breach"),
    [
        (measured(every=0.98), "fullest minute, requests"),
        (measured(every=1.05), "used of the requests"),
        (measured(slow=1.25), "p95 of first grant to done ÷ unloaded"),
        (replace(measured(), offered=Offered([0.0] * 60, 60)), "offered"),
        (replace(measured(), calls=[*measured().calls, call(0, 240.0, status=429)]), "429 answers"),
        (measured(replace(CASE, tpm=50_000)), "fullest minute, tokens"),
    ],
)  # fmt: skip
def test_a_breach_is_named(what: Measured, breach: str) -> None:
    assert breach in missed(what)


def test_what_there_was_nothing_to_compare_with_is_not_kept() -> None:
    figures = verdict.figures(measured(), {})["checks"]
    assert isinstance(figures, list)
    assert [check["what"] for check in figures if not check["kept"]] == [
        "p95 of first grant to done ÷ unloaded"
    ]


def test_a_job_that_changed_hands_or_began_too_late_is_not_compared() -> None:
    what = measured()
    what.stories["scan-50"].runs = 2
    compared = verdict.durations(what).keys()
    assert "scan-50" not in compared
    assert {int(key.removeprefix("scan-")) for key in compared} == set(range(30, 103)) - {50}


def test_a_job_whose_worker_died_is_not_compared_even_if_no_other_has_got_to_it() -> None:
    what = replace(measured(), killed=frozenset({7}))
    what.stories["scan-50"].pid = what.stories["scan-60"].pid = 7
    what.stories["scan-50"].ended = None
    compared = verdict.durations(what).keys()
    assert ("scan-50" in compared, "scan-60" in compared) == (False, True)
    jobs = verdict.figures(what, UNLOADED_SECONDS)["jobs"]
    assert isinstance(jobs, dict)
    assert (jobs["changed_hands"], jobs["not_done"]) == (1, 1)


def test_a_job_that_has_not_ended_counts_with_its_time_so_far() -> None:
    what = measured()
    what.stories["scan-40"].ended = None
    assert verdict.durations(what)["scan-40"] == pytest.approx(240 - 80)


@pytest.mark.parametrize(("half_within", "kept"), [(0.025, True), (0.05, False)])
def test_grants_are_judged_by_the_bounds_of_their_histogram(half_within: float, kept: bool) -> None:
    case = replace(CASE, load=0.5, utilisation=None, grants=True)
    bounds = (0.01, 0.025, 0.05)
    grants = {bound: 50.0 if bound >= half_within else 0.0 for bound in bounds} | {
        0.15: 99.0,
        math.inf: 100.0,
    }
    assert ("grant, p50 up to (s)" not in missed(replace(measured(case), grants=grants))) is kept
    assert "grant, p99 up to (s)" not in missed(replace(measured(case), grants=grants))


def test_the_targets_of_grants_are_bounds_of_the_workers_histogram() -> None:
    assert {verdict.GRANT_P50, verdict.GRANT_P99} <= set(all_series()["eco2_grant_seconds"].bounds)


def test_cases_have_names_of_their_own_and_what_they_are_compared_with_comes_first() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert CASES[0] is UNLOADED
    assert {name for case in CASES for name in case.pipelines} <= set(UNLOADED.pipelines)


def test_each_case_runs_once_and_a_busy_one_beside_no_other() -> None:
    planned = batches(CASES, 3)
    assert sorted(case.name for batch in planned for case in batch) == sorted(case.name for case in CASES)
    assert all(len(batch) == 1 for batch in planned if any(case.busy for case in batch))
    assert any(case.busy for case in CASES)


class Core:
    """Time on a core; each look at it takes a tenth of a millisecond. `slept`: seconds."""

    def __init__(self) -> None:
        self.now = self.slept = 0.0

    def monotonic(self) -> float:
        self.now += 0.0001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def test_the_other_load_works_half_of_the_time_and_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    monkeypatch.setattr(burner, "time", core)
    monkeypatch.setattr(burner, "HOUR", 60.0)
    burner.main(1)
    assert 60 <= core.now < 61
    assert 0.45 < core.slept / core.now < 0.55
