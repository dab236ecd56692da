"""What a replay would do, decided without doing anything."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from eco2.commands import tables
from eco2.job import id_time
from eco2.journal.state import JobState
from eco2.operator.cost import Cost
from eco2.operator.dead_jobs import DeadJob, by_job
from eco2.operator.replay_plan import (
    NotReplayable,
    ReplayPlan,
    failed_jobs,
    plan_replay,
    reusable_outputs,
)
from tests.support.dead_letters import LIFE, NOW, FakeLetter, dead_job, job, state, used
from tests.support.world import PIPELINE

PIPELINES = {"ask": PIPELINE}


def planned(**changes: Any) -> ReplayPlan:
    given: dict[str, Any] = {
        "dead": dead_job(), "state": state(), "pipelines": PIPELINES, "view": [], "now": NOW,
        "max_wait": 60.0, "timeout": LIFE,
    }  # fmt: skip
    found = plan_replay(**given | changes)
    assert isinstance(found, ReplayPlan), found
    return found


def refused(**changes: Any) -> str:
    given: dict[str, Any] = {
        "dead": dead_job(), "state": state(), "pipelines": PIPELINES, "view": [], "now": NOW,
        "max_wait": 60.0, "timeout": LIFE,
    }  # fmt: skip
    found = plan_replay(**given | changes)
    assert isinstance(found, NotReplayable), found
    return found.reason


def test_the_new_job_is_the_old_one_with_an_id_and_a_time_of_its_own_and_without_its_key() -> None:
    found = planned()
    old = job()
    assert replace_known(found) == replace_known_of(old)
    assert found.job.id != old.id
    assert id_time(found.job.id) == NOW
    assert (found.job.accepted, found.job.key) == (NOW, None)
    assert (found.job.max_wait, found.job.timeout, found.job.deadline) == (60.0, LIFE, NOW + 60.0 + LIFE)
    own = {"ask": replace(PIPELINE, max_wait=600.0, timeout=90.0)}
    slow = planned(pipelines=own)
    assert (slow.job.max_wait, slow.job.timeout) == (600.0, 90.0)


@pytest.mark.parametrize(("had", "has"), [(3000.0, 3000.0), (30.0, 60.0)])
def test_a_batch_job_has_at_least_the_time_to_wait_that_it_had(had: float, has: float) -> None:
    batch = job(priority="batch", max_wait=had)
    found = planned(dead=dead_job(batch))
    assert (found.job.priority, found.job.max_wait) == ("batch", has)


def replace_known(found: ReplayPlan) -> tuple[object, ...]:
    each = found.job
    return each.pipeline, each.input, each.owner, each.model, each.digest, each.max_usd


def replace_known_of(old: Any) -> tuple[object, ...]:
    return old.pipeline, old.input, old.owner, old.model, old.digest, old.max_usd


def test_completed_stages_are_kept_and_the_others_run() -> None:
    found = planned()
    assert found.outputs == {"draft": {"text": "a draft"}}
    assert found.runs == {"final": Cost(1, 100, 10, Decimal("0.002"))}
    assert set(found.paid) == {"draft", "final"}
    assert (found.announced, found.ended) == (False, False)


def test_others_tell_what_it_will_cost() -> None:
    other = state("other", outputs={"final": {}}, usage={"final": used("0.5")})
    assert planned(view=[other]).runs == {"final": Cost(1, 100, 10, Decimal("0.5"))}


def test_without_the_journal_everything_runs_and_no_cost_is_known() -> None:
    found = planned(state=None)
    assert (found.outputs, found.runs) == ({}, {"draft": None, "final": None})


@pytest.mark.parametrize(
    ("outputs", "left"),
    [
        ({}, []),
        ({"draft": {"text": "a"}, "final": {"text": "b"}}, ["draft", "final"]),
        ({"draft": {"text": 5}, "final": {"text": "b"}}, []),
        ({"final": {"text": "b"}}, []),
        ({"draft": {"text": "a"}, "gone": {}}, ["draft"]),
    ],
)
def test_outputs_are_kept_up_to_the_first_that_is_missing_or_does_not_fit(
    outputs: dict[str, dict[str, object]], left: list[str]
) -> None:
    assert list(reusable_outputs(PIPELINE, outputs)) == left


def test_what_cannot_be_replayed_says_why_and_what_to_do() -> None:
    (unreadable,) = by_job([FakeLetter(b"{}", "old")])
    assert "drop it" in refused(dead=unreadable)
    assert "ECO2_PIPELINES" in refused(pipelines={})
    assert "eco2 jobs reissue old" in refused(state=state(ended_at=None, status="running"))
    for status in ("completed", "cancelled", "superseded"):
        assert f"ended as {status}" in refused(state=state(status=status))
    assert "does not fit" in refused(dead=dead_job(job(input={"text": 5})))


def test_a_replay_that_did_not_come_to_its_end_is_carried_on() -> None:
    half = state(
        "half", resumes="old", ended_at=None, status="queued", key=None, accepted=950.0, max_wait=60.0
    )
    found = planned(view=[half])
    assert (found.job.id, found.announced, found.ended) == ("half", True, False)
    assert (found.job.accepted, found.job.max_wait, found.job.input) == (950.0, 60.0, {"text": "q"})
    assert found.job.key is None


@pytest.mark.parametrize(("status", "dead"), [("completed", False), ("failed", True)])
def test_a_replay_that_completed_or_left_a_letter_of_its_own_is_not_repeated(status: str, dead: bool) -> None:
    found = planned(view=[state("done", resumes="old", status=status, dead=dead)])
    assert (found.job.id, found.announced, found.ended) == ("done", True, True)


def test_of_a_replay_that_failed_the_replay_is_the_one_to_replay() -> None:
    view = [state("late", resumes="old", status="failed", dead=False)]
    found = planned(view=view)
    assert (found.job.id, found.announced, found.ended) == ("late", True, True)
    assert "eco2 jobs replay late" in refused(dead=DeadJob("old", (), job()), view=view)


def test_a_replay_that_was_cancelled_is_made_anew() -> None:
    found = planned(view=[state("stopped", resumes="old", status="cancelled", dead=False)])
    assert found.job.id != "stopped"
    assert not found.announced


def expired(job_id: str, at: float, **changes: Any) -> JobState:
    result = {"error": {"code": "EXPIRED", "message": "too late"}}
    return state(job_id, updated_at=at, result=result, dead=False, **changes)


def test_failed_jobs_are_chosen_by_time_code_and_pipeline_unless_they_were_replayed() -> None:
    view = [
        expired("early", 100.0),
        expired("late", 200.0),
        expired("other", 200.0, pipeline="other"),
        state("bug", updated_at=200.0),
        state("done", updated_at=200.0, status="completed"),
        expired("replayed", 200.0),
        state("replay", resumes="replayed", ended_at=None, status="running"),
        expired("again", 200.0),
        state("stopped", resumes="again", status="cancelled"),
    ]

    def chosen(since: float, pipeline: str | None = None, code: str | None = None) -> tuple[list[str], int]:
        found, before = failed_jobs(view, since, pipeline, code)
        return [each.job for each in found], before

    assert chosen(0.0) == (["early", "late", "other", "bug", "again"], 1)
    assert chosen(150.0) == (["late", "other", "bug", "again"], 1)
    assert chosen(150.0, "ask", "EXPIRED") == (["late", "again"], 1)
    assert chosen(150.0, "ask", "INTERNAL") == (["bug"], 0)
    assert chosen(300.0) == ([], 0)


def test_before_anything_is_done_it_says_what_was_paid_and_what_it_will_cost() -> None:
    found = planned()
    assert tables.replay_lines(found).splitlines() == [
        "old  keeps draft; runs final",
        "    paid so far  draft: 1 call, 100 + 10 tokens, $0.0100",
        "    paid so far  final: 1 call, 100 + 10 tokens, $0.0020",
        "    will cost    final: about 1 call, 100 + 10 tokens, $0.0020",
    ]
    assert tables.replay_cost([found] * 3, 2, 1000).splitlines() == [
        "3 jobs: paid so far 6 calls, 600 + 60 tokens, $0.0360; "
        "a replay will cost about 3 calls, 300 + 30 tokens, $0.0060",
        "    paid again: 3 calls, 300 + 30 tokens, $0.0060, for stages that did not complete",
        "    at 2 requests and 1,000 tokens a minute, all of them free: about 2 minutes",
    ]
    assert tables.replay_cost([found], 500, 20).endswith("about 6 minutes")
    first, last = tables.replay_cost([planned(state=None)], 500, 1000).splitlines()
    assert first.endswith("and 2 stages whose cost is not known")
    assert last.endswith("less than a minute for what is known")
    carried = replace(found, announced=True)
    assert "order is published again" in tables.replay_lines(carried)
    assert "only its letters" in tables.replay_lines(replace(carried, ended=True))
    alone = replace(carried, ended=True, dead=DeadJob("old", (), job()))
    assert tables.replay_lines(alone).endswith("which has ended: nothing is left to do")
    assert tables.replay_lines(NotReplayable("old", "why")) == "old  not replayed: why"
