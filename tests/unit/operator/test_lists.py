"""What operators see of jobs and dead letters: rows, costs, texts; nothing is asked, nothing is done."""

import json
from decimal import Decimal

import pytest
from rich.console import Console

from eco2.commands import tables
from eco2.event import Paused
from eco2.job import encode_order
from eco2.journal.state import EventId, VisibleEvent
from eco2.operator.cost import Cost, document, expected, format_usd, paid, peers, total
from eco2.operator.dead_jobs import by_job, dead_row, last_stage
from eco2.operator.jobs import count_jobs, job_row, job_rows, shortened
from tests.support.dead_letters import FakeLetter, dead_job, job, state, used

# --- letters


def test_letters_of_one_job_are_one_in_the_order_of_the_first() -> None:
    letters = [
        FakeLetter(encode_order(job(name)), when=when) for name, when in (("a", 5.0), ("b", 6.0), ("a", 9.0))
    ]
    found = by_job(letters)
    assert [(dead.id, len(dead.letters), dead.when) for dead in found] == [("a", 2, 9.0), ("b", 1, 6.0)]
    assert found[0].order == job("a")


def test_of_a_letter_that_cannot_be_read_the_job_is_known_by_what_can() -> None:
    newer = encode_order(job("new")).replace(b'"v":1', b'"v":2')
    nameless = FakeLetter(b"\xff", queue="jobs.scan.first")
    found = by_job([FakeLetter(newer, "m"), FakeLetter(b"{}", "by-message"), nameless])
    assert [dead.id for dead in found[:2]] == ["new", "by-message"]
    assert found[2].id.startswith("letter-")
    assert [dead.id for dead in by_job([nameless])] == [found[2].id]
    assert [dead.order for dead in found] == [None, None, None]
    assert "version 2" in found[0].unreadable
    assert found[2].pipeline == "scan"


def test_one_readable_letter_of_a_job_is_enough() -> None:
    (dead,) = by_job([FakeLetter(b"{}", "old"), FakeLetter(encode_order(job()))])
    assert (dead.id, dead.order, dead.unreadable) == ("old", job(), "")


# --- rows


def test_a_dead_job_is_told_by_the_journal() -> None:
    found = dead_row(dead_job(), state(), [])
    assert (found.code, found.message) == ("INTERNAL", "a bug in stage final")
    assert (found.stage, found.when, found.status) == ("final failed", 900.0, "failed")
    assert found.cost == Cost(2, 200, 20, Decimal("0.012"))
    assert json.loads(json.dumps(document(found)))["cost"]["cost_usd"] == "0.012"


def test_without_the_journal_the_broker_says_why() -> None:
    (dead,) = by_job([FakeLetter(encode_order(job()), reason="delivery_limit")])
    found = dead_row(dead, None, [])
    assert (found.code, found.status, found.stage, found.cost) == ("", "unknown", "", Cost())
    assert "too many deliveries" in found.message
    assert found.pipeline == "ask"


def test_the_latest_replay_of_a_dead_job_is_named() -> None:
    view = [state("r2", resumes="old", queued_at=9), state("r1", resumes="old", queued_at=8), state("other")]
    assert dead_row(dead_job(), state(), view).replayed == "r2"
    assert dead_row(dead_job(), state(), view[2:]).replayed is None


def test_how_far_a_job_got() -> None:
    assert last_stage(state()) == "final failed"
    assert last_stage(state(visible_events=state().visible_events[:1])) == "queued"
    cut = VisibleEvent(EventId(3, -1), "truncated", "started", 0, 800.0, 0)
    assert last_stage(state(visible_events=(cut,))) == ""


def test_jobs_are_chosen_by_status_and_pipeline() -> None:
    view = [state("a"), state("b", status="running", ended_at=None, result=None), state("c", pipeline="scan")]
    assert [each.job for each in job_rows(view, None, None)] == ["a", "b", "c"]
    assert [each.job for each in job_rows(view, "failed", "ask")] == ["a"]
    assert [each.job for each in job_rows(view, "running", None)] == ["b"]
    assert (job_row(view[0]).ended, job_row(view[0]).code) == (805.5, "INTERNAL")
    assert (job_row(view[1]).ended, job_row(view[1]).code) == (None, "")
    assert count_jobs(view) == (1, 0)


def test_long_texts_are_shortened_wherever_they_are_and_say_so() -> None:
    picture = "x" * 121
    short = f"{'x' * 60}… (121 characters)"
    assert shortened({"a": [picture, "y" * 120, 5, None]}) == {"a": [short, "y" * 120, 5, None]}


# --- costs


def test_what_was_paid_is_told_by_the_end_and_else_by_the_stages() -> None:
    assert set(paid(state())) == {"draft", "final"}
    assert set(paid(state(result=None))) == {"draft"}
    assert paid(state(usage={}, result={"usage": {"draft": "?"}})) == {"draft": Cost(usd=None)}


def test_a_sum_with_an_unknown_price_has_none() -> None:
    assert total([Cost(1, 2, 3, Decimal(1)), Cost(1, 2, 3, None)]) == Cost(2, 4, 6, None)
    assert format_usd(Cost(1, usd=None)) == "price not known"
    assert str(Cost(2, 1234, 5, Decimal("0.00125"))) == "2 calls, 1,234 + 5 tokens, $0.0012"
    assert str(Cost()) == "no calls"


def test_a_stage_is_expected_to_cost_what_it_cost_others_in_the_mean() -> None:
    others = [
        state("a", outputs={"final": {}}, usage={"final": used("0.02")}),
        state("b", outputs={"final": {}}, usage={"final": used("0.04", calls=3)}),
    ]
    assert expected("final", others, paid(state())) == Cost(2, 200, 20, Decimal("0.03"))
    assert expected("final", [], paid(state())) == Cost(1, 100, 10, Decimal("0.002"))
    assert expected("other", [], paid(state())) is None


def test_a_stage_that_calls_nothing_is_expected_to_cost_nothing() -> None:
    assert expected("final", [state("a", outputs={"final": {}}, usage={})], {}) == Cost()


def test_only_jobs_of_the_same_kind_that_ran_from_the_start_tell_what_a_stage_costs() -> None:
    view = [state("a"), state("b", model=None), state("c", pipeline="scan"), state("d", resumes="a")]
    assert [each.job for each in peers(view, "ask", "large")] == ["a"]


# --- what is printed


def printed(show: object) -> str:
    console = Console(markup=False, highlight=False, width=tables.FILE_WIDTH)
    with console.capture() as capture:
        console.print(show)
    return capture.get()


def test_a_row_is_one_line_and_shows_what_others_wrote_as_it_is() -> None:
    evil = state(result={"error": {"code": "INTERNAL", "message": "[bold]no[/] markup"}})
    lines = printed(tables.dead_table([dead_row(dead_job(), evil, [])])).splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["old", "ask"]
    assert "INTERNAL: [bold]no[/] markup" in lines[1]
    assert "1970-01-01 00:15:00Z" in lines[1]


def test_a_pause_is_told_with_its_reason() -> None:
    assert tables.pause_banner(Paused(ts=0.0, reason="a deploy")).startswith(
        "PAUSED since 1970-01-01 00:00:00Z: a deploy. "
    )
    assert tables.pause_banner(Paused(ts=0.0, reason="")).startswith("PAUSED since 1970-01-01 00:00:00Z. ")


@pytest.mark.parametrize("running", [True, False])
def test_jobs_are_a_table(running: bool) -> None:
    found = job_row(state(ended_at=None, status="running", result=None) if running else state())
    text = printed(tables.job_table([found]))
    assert ("running" in text) == running
    assert ("failed INTERNAL" in text) != running
