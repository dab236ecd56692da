"""The fold: fencing by attempt, the first end stands, nothing is shown twice or backwards."""

from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from eco2.event import (
    CallCompleted,
    Done,
    JobEvent,
    Queued,
    Released,
    RunStarted,
    StageChanged,
    StepCompleted,
    Superseded,
    queued,
)
from eco2.job import Job
from eco2.journal.state import EventId, JobState, PutOff, apply

QUEUED = Queued(ts=1.0, job="j", pipeline="scan", deadline=181.0, digest="d")


def started(run: str, attempt: int, over: int | None = None) -> RunStarted:
    return RunStarted(ts=2.0, job="j", run=run, attempt=attempt, worker="w", over=over)


def stage(run: str, seq: int, output: str = "") -> StageChanged:
    done = seq % 10 == 1
    return StageChanged(
        ts=3.0,
        job="j",
        run=run,
        stage=f"s{seq // 10}",
        status="completed" if done else "started",
        seq=seq,
        progress=0,
        output={"by": run + output} if done else None,
    )


def done(run: str | None, status: Literal["completed", "failed"] = "completed") -> Done:
    return Done(ts=4.0, job="j", run=run, status=status, seq=51, result={"by": run})


def fold(*events: JobEvent) -> JobState:
    state: JobState | None = None
    for offset, event in enumerate(events):
        state = apply(state, EventId(offset), event)
    assert state is not None
    return state


def seqs(state: JobState) -> list[int]:
    return [shown.seq for shown in state.visible_events]


def test_the_journal_keeps_every_field_of_a_job_but_its_input() -> None:
    job = Job(
        id="j",
        pipeline="scan",
        input={"text": "t"},
        accepted=1.0,
        max_wait=60.0,
        timeout=180.0,
        max_usd=0.5,
        digest="d",
        owner="o",
        key="k",
        model="m",
    )
    assert None not in (getattr(job, field) for field in job.__struct_fields__)
    assert fold(queued(job)).as_job(job.input) == job


def test_a_scan_from_queued_to_done() -> None:
    state = fold(QUEUED, started("r", 1), stage("r", 10), stage("r", 11), done("r"))
    assert (state.status, state.ended_at, state.result) == ("completed", 4, {"by": "r"})
    assert state.outputs == {"s1": {"by": "r"}}
    assert seqs(state) == [0, 10, 11, 51]
    assert [str(shown.id) for shown in state.visible_events] == ["0", "2", "3", "4"]


def test_events_of_an_unknown_job_are_nothing() -> None:
    assert apply(None, EventId(0), started("r", 1)) is None


def test_events_of_a_run_that_lost_are_void() -> None:
    state = fold(QUEUED, started("old", 1), started("new", 2), stage("old", 11), done("old"))
    assert (state.run, state.ended, state.outputs) == ("new", False, {})


def test_of_two_runs_with_one_number_the_first_in_the_log_holds() -> None:
    assert fold(QUEUED, started("first", 1), started("second", 1)).run == "first"


def test_what_a_run_wrote_before_it_gave_the_job_back_counts_once_though_it_comes_again() -> None:
    saved = StepCompleted(ts=2.0, job="j", run="r", stage="s1", key="step/half/0", value={})
    put_off = Released(ts=3.0, job="j", run="r", reason="503", retry=True)
    once = fold(QUEUED, started("r", 1), saved, put_off)
    assert once.retries == 1
    assert fold(QUEUED, started("r", 1), saved, put_off, put_off) == once
    assert fold(QUEUED, started("r", 1), saved, put_off, saved) == once


def test_a_job_that_is_put_off_knows_its_stage_and_time_until_it_runs_again() -> None:
    put_off = Released(ts=3.0, job="j", run="r", reason="503", retry=True, stage="s2", delay=30)
    state = fold(QUEUED, started("r", 1), put_off)
    assert (state.retrying, state.retries) == (PutOff("s2", 3.0, 30), 1)
    assert state.retrying is not None
    assert state.retrying.until == 33.0
    again = fold(QUEUED, started("r", 1), put_off, started("s", 2))
    assert (again.retrying, again.retries) == (None, 1)
    assert fold(QUEUED, started("r", 1), put_off, done(None)).retrying is None


def test_the_delay_that_release_0_1_did_not_write_is_that_of_its_fixed_ones() -> None:
    events: list[JobEvent] = [QUEUED]
    delays = []
    for number in range(1, 5):
        run = f"r{number}"
        events += [started(run, number), Released(ts=3.0, job="j", run=run, reason="503", retry=True)]
        put_off = fold(*events).retrying
        assert put_off is not None
        delays.append((put_off.stage, put_off.delay))
    assert delays == [("queued", 5), ("queued", 30), ("queued", 120), ("queued", 120)]


def test_a_run_that_comes_again_late_does_not_come_back() -> None:
    assert fold(QUEUED, started("a", 1), started("b", 2), started("a", 1)).run == "b"


def test_the_first_end_stands() -> None:
    assert fold(QUEUED, started("r", 1), done("r", "failed"), done("r")).status == "failed"


def test_an_end_without_a_run_needs_no_holder() -> None:
    assert fold(QUEUED, started("r", 1), done(None, "failed")).status == "failed"


def test_a_stage_that_starts_again_is_shown_once_and_its_output_kept() -> None:
    state = fold(
        QUEUED,
        started("a", 1),
        stage("a", 10),
        stage("a", 11),
        started("b", 2),
        stage("b", 10),
        stage("b", 11),
    )
    assert seqs(state) == [0, 10, 11]
    assert state.outputs == {"s1": {"by": "a"}}


def test_a_stage_whose_first_run_only_started_it_completes_in_the_second() -> None:
    state = fold(QUEUED, started("a", 1), stage("a", 10), started("b", 2), stage("b", 10), stage("b", 11))
    assert seqs(state) == [0, 10, 11]
    assert state.outputs == {"s1": {"by": "b"}}


def test_a_released_job_is_free_until_the_next_run() -> None:
    released = Released(ts=3.0, job="j", run="a", reason="drain")
    assert fold(QUEUED, started("a", 1), released).released
    assert not fold(QUEUED, started("a", 1), released, started("b", 2)).released


def paid(run: str, key: str = "k", value: str = "x") -> CallCompleted:
    return CallCompleted(ts=3.0, job="j", run=run, stage="s1", key=key, digest="d", reply={"value": value})


def values(state: JobState) -> dict[str, object]:
    return {key: record.value for key, record in state.recorded.items()}


def test_recorded_calls_are_kept_across_runs_and_until_their_stage_is_completed() -> None:
    state = fold(QUEUED, started("a", 1), paid("a"), started("b", 2))
    assert values(state) == {"s1/k": {"value": "x"}}
    assert fold(QUEUED, started("a", 1), paid("a"), stage("a", 11)).recorded == {}
    assert fold(QUEUED, started("a", 1), paid("a"), done("a")).recorded == {}


def test_what_a_void_run_paid_for_counts_but_is_no_progress() -> None:
    state = fold(QUEUED, started("a", 1), started("b", 2), paid("a"))
    assert (values(state), state.crashes) == ({"s1/k": {"value": "x"}}, 1)
    assert fold(QUEUED, started("a", 1), started("b", 2), stage("b", 11), paid("a")).recorded == {}


def test_the_reply_that_the_current_run_used_stands() -> None:
    first, own = paid("a", value="void"), paid("b", value="own")
    runs = (QUEUED, started("a", 1), started("b", 2))
    assert values(fold(*runs, first, own)) == values(fold(*runs, own, first)) == {"s1/k": {"value": "own"}}
    assert values(fold(*runs, own, paid("b", value="again"))) == {"s1/k": {"value": "own"}}


def test_who_takes_over_before_the_holder_opens_a_stage_makes_that_void() -> None:
    state = fold(QUEUED, started("a", 1), started("b", 2, over=1), stage("a", 10))
    assert (state.run, state.attempt, state.crashes, seqs(state)) == ("b", 2, 1, [0])


def test_who_takes_over_behind_a_stage_that_it_did_not_know_is_void() -> None:
    held = (QUEUED, started("a", 1), stage("a", 10))
    state = fold(*held, started("b", 2, over=1))
    assert state == replace(fold(*held), attempt=2)
    state = fold(*held, started("b", 2, over=1), stage("b", 11), stage("a", 11))
    assert state.outputs == {"s1": {"by": "a"}}
    assert fold(*held, started("b", 2, over=2)).run == "b"  # it did know


def test_who_takes_over_behind_a_record_that_it_did_not_know_is_void() -> None:
    held = (QUEUED, started("a", 1), stage("a", 10), started("b", 2), paid("b"))
    assert fold(*held, started("c", 3, over=3)).run == "b"
    assert fold(*held, started("c", 3, over=4)).run == "c"
    assert fold(*held, paid("a", key="late"), started("c", 3, over=4)).run == "c"  # nobody's run by now


def test_the_next_attempt_after_a_void_takeover_is_the_one_after_it() -> None:
    held = (QUEUED, started("a", 1), stage("a", 10), started("b", 2, over=1))
    assert fold(*held, started("c", 2)).run == "a"
    assert fold(*held, started("c", 3)).run == "c"


def test_a_stage_is_open_from_its_start_to_its_completion() -> None:
    events: list[JobEvent] = [
        QUEUED,
        started("a", 1),
        stage("a", 10),
        stage("a", 11),
        started("b", 2),
        stage("b", 20),
    ]
    found = [fold(*events[: end + 1]).is_open for end in range(len(events))]
    assert found == [False, False, True, False, False, True]
    failed = StageChanged(
        ts=3.0, job="j", run="b", stage="s2", status="failed", seq=21, progress=0, error={"code": "X"}
    )
    assert fold(*events, failed, started("c", 3)).is_open  # that it starts again is not shown


@given(st.data(), st.integers(0, 6))
def test_a_job_is_taken_over_early_only_if_nothing_was_begun_meanwhile(
    data: st.DataObject, begun: int
) -> None:
    """The holder works on, while a taker reads so far, decides, and writes later."""
    work = [stage("a", seq) for seq in (10, 11, 20, 21, 30, 31)][:begun]
    decided = data.draw(st.integers(0, len(work)))
    written = data.draw(st.integers(decided, len(work)))
    assume(not fold(QUEUED, started("a", 1), *work[:decided]).is_open)
    taken = started("b", 2, over=1 + decided)
    state = fold(QUEUED, started("a", 1), *work[:written], taken, *work[written:])
    assert (state.run == "b") == (decided == written)
    shown = written if decided == written else len(work)
    assert seqs(state) == [0, *(each.seq for each in work[:shown])]


def test_a_superseded_job_ends_and_names_the_winner() -> None:
    state = fold(QUEUED, Superseded(ts=2.0, job="j", by="winner"))
    assert (state.status, state.superseded_by, state.ended) == ("superseded", "winner", True)


def test_an_event_that_changes_nothing_returns_the_same_object() -> None:
    state = fold(QUEUED, started("a", 1), stage("a", 11))
    assert apply(state, EventId(9), stage("a", 11)) is state
    assert apply(state, EventId(9), stage("other", 20)) is state


ANY = st.sampled_from(
    [
        QUEUED,
        *(started(run, attempt) for run, attempt in (("a", 1), ("b", 2), ("c", 2))),
        started("b", 2, over=3),
        *(stage(run, seq) for run in "abc" for seq in (10, 11, 20, 21)),
        *(done(run) for run in ("a", "b", "c", None)),
        Released(ts=3.0, job="j", run="a", reason="drain"),
        Superseded(ts=2.0, job="j", by="w"),
    ]
)


@given(st.lists(ANY, max_size=40))
def test_whatever_the_log_holds_clients_see_growing_seqs_and_one_end(events: list[JobEvent]) -> None:
    state = fold(QUEUED, *events)
    assert seqs(state) == sorted(set(seqs(state)))
    assert sum(shown.stage == "done" for shown in state.visible_events) == (
        state.ended and state.superseded_by is None
    )


@given(st.lists(ANY, max_size=20), st.data())
def test_a_message_sent_twice_takes_nothing_back(events: list[JobEvent], data: st.DataObject) -> None:
    """The outbox may send a whole batch again, and its ghost may come later still."""
    start = data.draw(st.integers(0, len(events)))
    again = [*events, *events[start:]]
    once, twice = fold(QUEUED, *events), fold(QUEUED, *again)
    if once.ended:
        assert twice == once
    assert seqs(twice)[: len(once.visible_events)] == seqs(once)


@pytest.mark.parametrize("at", [EventId(0), EventId(7), EventId(7, 3)])
def test_ids_are_read_back(at: EventId) -> None:
    assert EventId.parse(str(at)) == at


@pytest.mark.parametrize("text", ["", "x", "-1", "1.", "1.x", ".1", "1.2.3", "1e3", "١"])
def test_what_is_no_event_id_is_none(text: str) -> None:
    assert EventId.parse(text) is None


SHORT = Queued(ts=1.0, job="j", pipeline="scan", max_wait=20.0, timeout=100.0, digest="d")
EXPIRED = Done(ts=4.0, job="j", run=None, status="failed", seq=11, result={}, if_unstarted=True)


def at(ts: float, event: JobEvent) -> JobEvent:
    return replace(event, ts=ts)


def granted(ts: float, run: str = "r") -> JobEvent:
    return replace(stage(run, 10), ts=ts, granted=True)


def put_off(ts: float, run: str = "r") -> Released:
    return Released(ts=ts, job="j", run=run, reason="503", retry=True)


def test_a_job_of_release_01_has_the_time_to_its_deadline_for_both() -> None:
    state = fold(QUEUED)
    assert (state.max_wait, state.timeout, state.deadline) == (180.0, 180.0, 181.0)


def test_until_it_starts_a_job_has_its_max_wait_and_a_run_that_has_it_its_timeout_more() -> None:
    run, drained = started("r", 1), Released(ts=9.0, job="j", run="r", reason="drain")
    assert [fold(*events).deadline for events in ((SHORT,), (SHORT, run), (SHORT, run, drained))] == [
        *(21.0, 121.0, 21.0)
    ]


def test_the_first_grant_starts_a_job_and_other_work_has_started_with_the_first_run() -> None:
    run = at(5.0, started("r", 1))
    assert fold(SHORT, run).started_at is None
    assert fold(SHORT, run, granted(15.0)).deadline == 115.0
    assert fold(SHORT, run, at(15.0, stage("r", 10))).deadline == 105.0
    step = StepCompleted(ts=15.0, job="j", run="r", stage="s1", key="step/a/0", value={})
    assert fold(SHORT, run, step).deadline == 105.0
    assert fold(SHORT, run, granted(15.0), at(18.0, stage("r", 21)), granted(30.0)).started_at == 15.0


def test_what_a_void_run_was_granted_starts_nothing() -> None:
    assert fold(SHORT, started("r", 1), started("s", 2), granted(15.0)).started_at is None


def test_the_outputs_that_a_replay_begins_with_do_not_start_it() -> None:
    again = replace(SHORT, resumes="old", outputs={"s1": {"by": "old"}})
    shown = fold(again, started("r", 1), stage("r", 11))
    assert (seqs(shown), shown.started_at) == ([0, 11], None)
    assert fold(again, started("r", 1), stage("r", 11), stage("r", 20)).started_at is not None


def test_being_put_off_is_added_up_until_the_next_run() -> None:
    begun = (SHORT, at(5.0, started("r", 1)), granted(10.0))
    off = fold(*begun, put_off(20.0))
    assert (off.retrying is not None, off.put_off) == (True, 0.0)
    assert off.deadline == 110.0 + 5 + 20.0  # the delay, and `max_wait` for a run
    assert fold(*begun, replace(put_off(20.0), delay=120)).deadline == 110.0 + 120 + 20.0  # the stage's own
    again = (*begun, put_off(20.0), at(28.0, started("s", 2)))
    assert (fold(*again).put_off, fold(*again).deadline) == (8.0, 118.0)
    twice = fold(*again, put_off(30.0, "s"), at(61.0, started("t", 3)))
    assert (twice.put_off, twice.retrying, twice.deadline) == (39.0, None, 149.0)
    drained = Released(ts=20.0, job="j", run="r", reason="drain")
    assert fold(*begun, drained, at(28.0, started("s", 2))).deadline == 110.0


def test_being_put_off_before_the_first_grant_is_not_counted_again() -> None:
    before = (SHORT, at(2.0, started("r", 1)), put_off(3.0), at(8.0, started("s", 2)))
    assert fold(*before, granted(10.0, "s")).deadline == 110.0
    assert fold(*before, at(10.0, stage("s", 10))).deadline == 2.0 + 100.0 + 5.0


def test_a_clock_that_goes_back_takes_no_time_from_a_job() -> None:
    begun = (SHORT, at(5.0, started("r", 1)), granted(10.0), put_off(20.0), at(18.0, started("s", 2)))
    assert fold(*begun).put_off == 0.0


def test_a_job_expires_from_outside_only_before_its_first_grant() -> None:
    run = started("r", 1)
    assert fold(SHORT, run, EXPIRED, granted(3.0)).status == "failed"
    late = fold(SHORT, run, granted(3.0), EXPIRED)
    assert (late.status, late.ended) == ("running", False)
    assert fold(SHORT, run, granted(3.0), EXPIRED, done("r")).status == "completed"
    assert fold(SHORT, run, granted(3.0), replace(EXPIRED, if_unstarted=False)).status == "failed"
    assert fold(SHORT, run, started("s", 2), granted(3.0), EXPIRED).status == "failed"  # the grant was void
