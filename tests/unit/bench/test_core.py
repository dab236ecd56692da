"""The arithmetic of bench/core: what its targets are judged by, and what its contenders are given."""

import os
from pathlib import Path
from typing import Any

import pytest
from pamqp.commands import Basic

from bench.core import filling, marks, plot, quick, report
from bench.core.contender import BARE, CONSUMING, CONTENDERS, ENGINE
from bench.core.filling import Message
from bench.core.marks import Marks
from bench.core.rounds import Plan, rotated
from bench.core.verdict import best, by_round, checks, spread

RATES = {
    CONSUMING: 9000.0,
    ENGINE: 4800.0,
    BARE: 8000.0,
    "aiormq": 9000.0,
    "dramatiq": 5900.0,
    "taskiq": 3000.0,
}
STORING = {"celery-results": 700.0, "faststream-results": 1500.0}


def rows(rates: dict[str, float], rounds: int = 3, slow: float = 1.04) -> list[dict[str, Any]]:
    """Every contender with its rate, a little faster in each round; and jobs that sleep, so much too slow."""
    found = [
        row(number, name, workers, 0.0, rate * (1 + number / 10))
        for number in range(rounds)
        for name, rate in rates.items()
        for workers in (1, 2)
    ]
    return found + [
        row(number, name, 1, 0.4, 1000 / (4 * slow))
        for number in range(rounds)
        for name in (CONSUMING, ENGINE)
    ]


def row(number: int, name: str, workers: int, sleep: float, rate: float) -> dict[str, Any]:
    costs = {"cpu": 0.1, "broker_cpu": 0.05, "memory": 40.0, "ideal": 4.0 if sleep else 0.0}
    return {
        "round": number, "contender": name, "workers": workers, "sleep": sleep, "rate": rate, "jobs": 1000,
        "seconds": 1000 / rate, **costs,
    }  # fmt: skip


def test_targets_are_kept_to_the_ratio_within_each_round() -> None:
    found = checks(rows(RATES | STORING))
    assert [check.kept for check in found] == [True] * 10
    assert found[0].value == pytest.approx(9000 / 5900)
    assert (found[0].against, found[1].against, found[3].against) == ("dramatiq", BARE, "faststream-results")


@pytest.mark.parametrize(
    ("slower", "missed"),
    [
        ({CONSUMING: 8000.0}, {"deliver → handler → settle ÷ the best peer"}),
        ({BARE: 12000.0}, {"deliver → handler → settle ÷ bare aio-pika"}),
        ({ENGINE: 4500.0}, {"with `done` confirmed ÷ the best peer that stores nothing"}),
        ({"celery-results": 2500.0}, {"with `done` confirmed ÷ the best that stores"}),
    ],
)
def test_each_target_can_be_missed(slower: dict[str, float], missed: set[str]) -> None:
    found = checks(rows(RATES | STORING | slower))
    assert {check.what.partition(": ")[2] for check in found if not check.kept} == missed


def test_sleepers_are_judged_by_their_ideal() -> None:
    slow = [check for check in checks(rows(RATES | STORING, slow=1.06)) if not check.kept]
    assert [check.what for check in slow] == [
        f"0.4 s, 1,000 jobs on 100 slots: {name} ÷ ideal" for name in (CONSUMING, ENGINE)
    ]


def test_what_was_not_measured_is_missed() -> None:
    assert not any(check.kept for check in checks([]))


def test_the_best_is_the_one_with_the_highest_median_not_with_the_luckiest_round() -> None:
    found = rows({"taskiq": 3000.0, "faststream": 2900.0})
    found.append(row(2, "faststream", 1, 0.0, 9000.0))
    assert best(found, "peer", 1) == "taskiq"
    assert best(found, "stores", 1) == ""


def test_spread_of_one_round_is_that_round() -> None:
    assert spread([5.0]) == spread([5.0, 5.0, 5.0])


def test_every_round_has_all_trials_and_begins_one_further() -> None:
    plan = Plan()
    trials = list(plan)
    assert len(trials) == len(plan) == 11 * (5 * 2 + 3)
    first = next(trial.contender for number, trial in trials if number == 1)
    assert first is CONTENDERS[1]
    assert sorted(each.name for each in rotated(CONTENDERS, 4)) == sorted(each.name for each in CONTENDERS)


def test_a_thousand_jobs_sleep_on_a_hundred_slots() -> None:
    of = {trial.contender.name: trial.jobs for _, trial in Plan() if trial.seconds}
    assert of.pop("celery-prefork") == 240
    assert set(of.values()) == {1000}


def test_copies_differ_in_their_id_and_in_nothing_else() -> None:
    old = "0123456789abcdef0123456789abcdef"
    properties = Basic.Properties(delivery_mode=2, headers={"task_id": old, "retries": 0}, reply_to="queue")
    one, other = filling.copies(Message(f'{{"id":"{old}","args":[0.4]}}'.encode(), properties), 2)
    assert one.body != other.body
    fresh = str((one.properties.headers or {})["task_id"])
    assert fresh != old
    assert one.body == f'{{"id":"{fresh}","args":[0.4]}}'.encode()
    assert one.properties.headers == {"task_id": fresh, "retries": 0}
    assert (one.properties.delivery_mode, one.properties.reply_to) == (2, "queue")


def test_marks_of_all_processes_add_up(tmp_path: Path) -> None:
    counted = Marks(tmp_path)
    child = os.fork()
    if not child:
        counted.begin()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(2):
        counted.begin()
        counted.end()
    tally = marks.read(tmp_path)
    assert (tally.processes, tally.begun, tally.ended) == (2, 3, 2)
    assert 0 < tally.first <= tally.last


def test_quick_notices_what_became_clearly_slower_or_dearer() -> None:
    before = rows(RATES)
    assert all(each.fits for each in quick.compare(rows(RATES), before))
    slower = [each.what for each in quick.compare(rows(RATES | {ENGINE: 3000.0}), before) if not each.fits]
    assert slower == [f"{ENGINE} ÷ {BARE}, jobs/s"]
    dearer = [{**each, "cpu": each["cpu"] * (1 if each["contender"] == BARE else 1.4)} for each in before]
    assert sum(not each.fits for each in quick.compare(dearer, before)) == 2


def test_page_and_picture_are_made_of_the_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"words\n{report.BEGIN}\nold\n{report.END}\nmore words\n", encoding="utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    where = {
        "date": "2026-11-26T12:00:00+00:00", "commit": "abc", "changed_files": 0,
        "versions": {"rabbitmq": "3"},
        "machine": {"system": "Linux", "cores": 2, "memory_gb": 4}, "minutes": 17.0,
    }  # fmt: skip
    found = rows(RATES | STORING)
    report.write({"trials": found, "surroundings": where})
    text = page.read_text(encoding="utf-8")
    assert text.startswith("words\n")
    assert text.endswith("more words\n")
    assert "old" not in text
    assert "| dramatiq, 8 threads | **6,490** (" in text  # the second of three rounds
    plot.draw(found, tmp_path / "core.png")
    assert (tmp_path / "core.png").stat().st_size > 1000
    assert by_round(found, ENGINE, 2) == {0: 4800.0, 1: pytest.approx(5280.0), 2: pytest.approx(5760.0)}
