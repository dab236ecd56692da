"""The arithmetic of the seed's benchmark: figures from scans, calls and samples, and how they are judged."""

from pathlib import Path
from typing import Any

import pytest

from bench.quick import FIGURES
from bench.seed import report, seen
from bench.seed.figures import figures, in_flight, quantile
from bench.seed.run import Measured, Sample
from bench.seed.scenario import RPM, Scenario
from bench.seed.verdict import Check, checks

LOOK, SAY = 10.0, 15.0
"""Seconds of the two calls of a scan."""
USERS = 4


def call(number: int, arrived: float, seconds: float, status: int = 200) -> dict[str, Any]:
    return {
        "job": str(number),
        "arrived_at": arrived,
        "ended_at": arrived + seconds,
        "status": status,
        "counted": status == 200,
        "charged_tokens": 1000,
    }


def sample(time: float) -> Sample:
    roles = ("front", "worker", "broker", "provider")
    return Sample(
        time, dict.fromkeys(roles, 80.0), dict.fromkeys(roles, time / 100), dict.fromkeys(roles, 1), 6
    )


def measured(name: str = "eco2-100", overhead: float = 0.0, lost: int = 0) -> Measured:
    """A closed loop of four users for 1,000 s, of which 100 are not judged: one scan after another, each with
    two calls, and `overhead` seconds besides. `lost`: scans that fail on top of it."""
    cycle, scans, calls = LOOK + SAY + overhead, list[dict[str, Any]](), list[dict[str, Any]]()
    for user in range(USERS):
        for place in range(int(1000 / cycle)):
            number, begin = 1000 * user + place, place * cycle + user
            calls += [call(number, begin, LOOK), call(number, begin + LOOK, SAY)]
            scans.append(
                {
                    "number": number,
                    "sent": begin,
                    "accepted": begin,
                    "opened": begin + 0.001,
                    "first": begin + 0.010,
                    "done": begin + cycle,
                    "status": "completed",
                }
            )
    scans += [{"number": -1, "sent": 1.0, "error": "lost"}] * lost
    samples = [sample(float(time)) for time in range(0, 1001, 5)]
    scenario = Scenario(name, "", "eco2", USERS)
    return Measured(scenario, 1.0, 0.0, 100.0, 1000.0, scans, calls, samples, {})


def test_a_system_that_never_waits_is_at_its_ceiling() -> None:
    found = figures(measured())
    assert found["ceiling"] == pytest.approx(USERS / found["provider_seconds"])
    assert found["of_ceiling"] == pytest.approx(1.0, abs=0.03)  # the last scans end before the load does
    assert found["paired"]["ratio"] == pytest.approx(1.0)
    assert found["success"] == 1.0


def test_what_a_system_adds_is_missing_at_the_ceiling() -> None:
    ideal, slow = figures(measured()), figures(measured(overhead=5.0))
    assert slow["of_ceiling"] / ideal["of_ceiling"] == pytest.approx(25 / 30, abs=0.02)
    assert slow["paired"]["ratio"] == pytest.approx(30 / 25)


def test_requests_bind_where_there_are_users_enough() -> None:
    found = figures(measured())
    assert found["limits"]["requests_at_two_calls"] == RPM / 120
    assert found["limits"]["requests"] == pytest.approx(RPM / 120, rel=0.03)


def test_calls_at_the_edges_count_with_the_part_that_is_judged() -> None:
    one = Measured(
        Scenario("eco2-100", "", "eco2", 1), 1.0, 0.0, 100.0, 200.0,
        [dict.fromkeys(("sent", "accepted", "opened", "first"), 90.0)
         | {"number": 1, "done": 130.0, "status": "completed"}],
        [call(1, 90.0, 20.0), call(1, 110.0, 20.0), call(2, 190.0, 50.0), call(3, 250.0, 5.0)],
        [sample(100.0), sample(200.0)],
        {},
    )  # fmt: skip
    assert figures(one)["provider_seconds"] == 10.0 + 20.0 + 10.0


def test_scans_that_fail_are_no_success() -> None:
    found = figures(measured(lost=3))
    assert found["lost"] == 3
    assert found["success"] == pytest.approx(1 - 3 / (found["scans"] + 3))


def test_cpu_is_that_of_the_judged_time() -> None:
    found = figures(measured())
    assert found["cpu_ms_per_scan"]["worker"] == pytest.approx(9000 / found["scans"])
    assert found["cpu_ms_per_scan"]["all"] == pytest.approx(18000 / found["scans"])


def test_in_flight_counts_what_is_answered_and_not_what_was_refused() -> None:
    calls = [call(1, 0.0, 10.0), call(2, 5.0, 10.0), call(3, 5.0, 10.0, status=429)]
    assert [in_flight(calls, moment) for moment in (1.0, 6.0, 12.0, 20.0)] == [1, 2, 1, 0]


def test_what_was_seen_can_be_read_again(tmp_path: Path) -> None:
    seen.write(measured(overhead=1.0, lost=1), tmp_path)
    assert seen.read(tmp_path) == measured(overhead=1.0, lost=1)


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert quantile([], 0.5) is None


def judged(**scenarios: dict[str, Any]) -> dict[str, Check]:
    named = {name.replace("_", "-"): facts for name, facts in scenarios.items()}
    return {check.what: check for check in checks({"scenarios": named})}


def test_each_system_is_held_to_its_own_targets() -> None:
    kept = judged(eco2_100=figures(measured(overhead=0.3)))
    assert kept["eco2-100: chain ÷ provider time"].kept
    assert kept["eco2-100: scans that failed"].kept
    missed = judged(eco2_100=figures(measured(overhead=1.0, lost=1)))
    assert not missed["eco2-100: chain ÷ provider time"].kept
    assert not missed["eco2-100: scans that failed"].kept


def test_memory_that_was_never_seen_at_the_load_in_question_keeps_no_promise() -> None:
    found = judged(eco2_150=figures(measured("eco2-150")))
    assert not next(check for what, check in found.items() if "PSS" in what).kept


def test_processes_are_compared_by_what_they_could_do_at_the_best() -> None:
    ours = figures(measured())
    theirs = ours | {"scans_per_second": ours["scans_per_second"] / 10, "slots_ceiling": ours["ceiling"] / 10}
    assert judged(eco2_100=ours, prefork_9=theirs)["eco2-100 ÷ prefork-9, scans/s"].kept
    better = theirs | {"scans_per_second": ours["scans_per_second"] / 5}
    assert not judged(eco2_100=ours, prefork_9=better)["eco2-100 ÷ prefork-9, scans/s"].kept


def test_half_of_the_cpu_of_gevent_is_the_most() -> None:
    ours = figures(measured())
    for factor, kept in ((2.1, True), (1.9, False)):
        theirs = ours | {"cpu_ms_per_scan": {"all": factor * ours["cpu_ms_per_scan"]["all"]}}
        assert judged(eco2_100=ours, gevent_100=theirs)["eco2-100 ÷ gevent-100, CPU a scan"].kept is kept


def test_every_figure_is_on_the_page() -> None:
    facts = figures(measured()) | {
        "parameters": {
            "title": "t", "users": 4, "slots": 0, "system": "eco2", "seconds": 1000, "warm": 100, "scale": 1,
        },
        "surroundings": {
            "commit": "abc", "changed_files": 0, "versions": {},
            "machine": {"system": "s", "cores": 2, "memory_gb": 4, "load_1_5_15_min": [0.5, 0.4, 0.3]},
        },
    }  # fmt: skip
    page = report.figures({"scenarios": {"eco2-100": facts}})
    assert f"{facts['scans_per_second']:.3f}" in page
    assert "chain ÷ provider time" in page


def test_the_quick_comparison_tells_worse_from_better() -> None:
    before = figures(measured())
    worse = figures(measured(overhead=5.0, lost=1))
    fits = {figure.what: figure.fits(figure.of(worse), figure.of(before)) for figure in FIGURES}
    assert not fits["scans/s ÷ ceiling"]
    assert not fits["chain ÷ provider time"]
    assert not fits["scans that failed"]
    assert fits["worker, MB"]
    assert all(figure.fits(figure.of(before), figure.of(before)) for figure in FIGURES)
