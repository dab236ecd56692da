"""What became of one job, told from its events: its runs, the times of its stages, who has it."""

from typing import Any

import pytest

from eco2.commands import tables
from eco2.errors import PermanentError
from eco2.event import Done, JobEvent, Queued, Released, RunStarted, StageChanged
from eco2.journal.state import EventId, JobState, apply, truncated_state
from eco2.operator.job_history import Event, holder, runs, stages
from eco2.operator.jobs import JobDetail, check_pipeline, job_row
from tests.support.dead_letters import state, used

QUEUED = Queued(ts=1.0, job="j", pipeline="ask", deadline=181.0, digest="d")


def run(number: int, ts: float, name: str = "", **more: Any) -> RunStarted:
    return RunStarted(ts=ts, job="j", run=name or f"r{number}", attempt=number, worker=f"w{number}", **more)


def given_back(number: int, ts: float, reason: str, *, retry: bool) -> Released:
    return Released(ts=ts, job="j", run=f"r{number}", reason=reason, retry=retry)


def stage(status: str, seq: int, ts: float, number: int = 1, **more: Any) -> StageChanged:
    changed: dict[str, Any] = {"status": status, "seq": seq, "progress": 0}
    return StageChanged(ts=ts, job="j", run=f"r{number}", stage="draft", **changed, **more)


def done(ts: float, name: str | None) -> Done:
    return Done(ts=ts, job="j", run=name, status="failed", seq=31, result={})


def told(*events: JobEvent) -> tuple[JobState, list[Event]]:
    """The job behind these events, and the events with their places."""
    history = [(EventId(offset), event) for offset, event in enumerate(events)]
    now: JobState | None = None
    for at, event in history:
        now = apply(now, at, event)
    assert now is not None
    return now, history


def test_each_run_tells_how_it_ended() -> None:
    now, history = told(
        QUEUED,
        run(1, 2.0),
        run(2, 20.0),
        given_back(2, 25.0, "drain", retry=False),
        run(3, 26.0, exclusive=True),
        given_back(3, 30.0, "no answer", retry=True),
        run(4, 40.0),
        done(50.0, "r4"),
    )
    found = runs(now, history)
    assert [(each.attempt, each.worker, each.began, each.ended, each.end) for each in found] == [
        (1, "w1", 2.0, 20.0, "silent: taken over by the next run"),
        (2, "w2", 20.0, 25.0, "released: drain"),
        (3, "w3", 26.0, 30.0, "will be retried: no answer"),
        (4, "w4", 40.0, 50.0, "failed"),
    ]
    assert [each.alone for each in found] == [False, False, True, False]


def test_void_runs_and_what_the_journal_holds_twice_are_not_told() -> None:
    now, history = told(
        QUEUED, run(1, 2.0), run(1, 2.1, "rival"), run(1, 2.0), done(3.0, "rival"), done(9.0, None)
    )
    (found,) = runs(now, history)
    assert (found.run, found.ended, found.end) == ("r1", 9.0, "failed, ended by the sweep or a gateway")


def test_a_takeover_that_is_void_is_not_told() -> None:
    (found,) = runs(
        *told(QUEUED, run(1, 2.0), stage("started", 10, 3.0), run(2, 4.0, over=1), done(9.0, "r1"))
    )
    assert (found.run, found.end) == ("r1", "failed")


def test_a_run_that_may_be_at_work_has_no_end() -> None:
    (found,) = runs(*told(QUEUED, run(1, 2.0)))
    assert (found.ended, found.end) == (None, "")


def test_of_a_job_whose_beginning_is_dropped_the_rest_is_told() -> None:
    rest: list[JobEvent] = [run(2, 5.0), done(6.0, "r2")]
    now = truncated_state("j", 1.0, EventId(0), rest[0])
    for offset, event in enumerate(rest):
        now = apply(now, EventId(offset), event)
    assert now is not None
    found = runs(now, [(EventId(offset), event) for offset, event in enumerate(rest)])
    assert [(each.attempt, each.end) for each in found] == [(2, "failed")]


def test_a_stage_lasts_from_its_first_showing_to_its_last() -> None:
    (first, second) = stages(state())
    assert (first.stage, first.status, first.seconds, first.cost.calls) == ("draft", "completed", 2.0, 1)
    assert (second.stage, second.status, second.seconds) == ("final", "failed", None)


def test_a_stage_that_a_later_run_went_on_with_began_once() -> None:
    now, _ = told(QUEUED, run(1, 2.0), stage("started", 10, 3.0), run(2, 20.0), stage("started", 10, 21.0, 2),
                  stage("completed", 11, 25.0, 2, output={"text": ""}, usage=used()))  # fmt: skip
    (found,) = stages(now)
    assert (found.began, found.seconds) == (3.0, 22.0)


@pytest.mark.parametrize(
    ("events", "answer", "says"),
    [
        ((QUEUED, run(1, 2.0)), "r1", "w1, running it"),
        ((QUEUED, run(1, 2.0)), "", "a worker that has its order and waits for its turn"),
        (
            (QUEUED, run(1, 2.0)),
            None,
            "w1 by the journal, but it does not answer: another worker will take the job over",
        ),
        ((QUEUED,), None, "none: its order waits in a queue; if no queue has it, use `eco2 jobs reissue j`"),
        (
            (QUEUED, run(1, 2.0), given_back(1, 5.0, "no answer", retry=True)),
            None,
            "none: its order waits for the retry in the queue jobs.ask.wait-5s",
        ),
        ((QUEUED, run(1, 2.0), done(3.0, "r1")), None, "none: the job has ended"),
    ],
)
def test_who_has_the_job(events: tuple[JobEvent, ...], answer: str | None, says: str) -> None:
    now, history = told(*events)
    assert holder(now, runs(now, history), answer) == says


def test_a_sheet_shows_all_of_it() -> None:
    now = state(retries=2)
    detail = JobDetail(now, runs(*told(QUEUED, run(1, 2.0))), stages(now), "none: the job has ended")
    out = tables.console()
    with out.capture() as capture:
        tables.print_detail(detail, out)
    text = capture.get()
    wanted = ["old", "its order is a dead letter", "anna", "retries", "w1", "running", "draft", "2.00", "31"]
    assert [each for each in wanted if each not in text] == []
    assert "crashes" not in text
    document = detail.document()
    assert document["holder"] == "none: the job has ended"
    assert document["retries"] == 2


def test_a_job_that_is_put_off_says_until_when_and_in_which_queue() -> None:
    events: list[JobEvent] = [QUEUED]
    for number in (1, 2, 3):
        events += [run(number, 100.0 * number), given_back(number, 100.0 * number + 5, "busy", retry=True)]
    now, untils, queues = told(QUEUED)[0], [], []
    for upto in (3, 5, 7):
        now, history = told(*events[:upto])
        untils.append(job_row(now).put_off_until)
        queues.append(holder(now, runs(now, history), None).rpartition(".")[2])
    assert untils == [110.0, 235.0, 425.0]
    assert queues == ["wait-5s", "wait-30s", "wait-120s"]
    (cell,) = tables.job_table([job_row(now)]).columns[2].cells
    assert cell == "retry at 00:07:05Z"
    assert job_row(told(*events, run(4, 430.0))[0]).put_off_until is None


def test_an_unknown_pipeline_is_said_with_those_that_exist() -> None:
    now, _ = told(QUEUED)
    check_pipeline("ask", [], [now])
    check_pipeline("scan", ["scan"], [])
    check_pipeline(None, [], [])
    with pytest.raises(PermanentError, match=r"no pipeline foo: .* have ask, scan"):
        check_pipeline("foo", ["scan"], [now])
