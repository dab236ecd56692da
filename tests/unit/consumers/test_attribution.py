"""Who crashed the process: what is counted as a crash, and what makes a job a suspect or the culprit."""

from typing import Literal

import pytest

from eco2.consumers.attribution import ALONE, SUSPECT_AFTER, crashed_alone, suspect
from eco2.event import Done, JobEvent, Queued, Released, RunStarted, StageChanged, StepCompleted
from eco2.job import JSON
from eco2.journal.state import EventId, JobState, apply

QUEUED = Queued(ts=1.0, job="j", pipeline="ask", deadline=181.0, digest="d")


def opened(attempt: int, alone: bool = False) -> RunStarted:
    return RunStarted(ts=2.0, job="j", run=f"r{attempt}", attempt=attempt, worker="w", alone=alone)


def released(attempt: int, retry: bool = False) -> Released:
    return Released(ts=3.0, job="j", run=f"r{attempt}", reason="", retry=retry)


def stage(attempt: int, status: Literal["started", "completed"]) -> StageChanged:
    seq = 11 if status == "completed" else 10
    output: JSON | None = {} if status == "completed" else None
    return StageChanged(
        ts=3.0, job="j", run=f"r{attempt}", stage="s", status=status, seq=seq, progress=0, output=output
    )


def saved(attempt: int) -> StepCompleted:
    return StepCompleted(ts=3.0, job="j", run=f"r{attempt}", stage="s", key="step/half/0", value={})


def fold(*events: JobEvent) -> JobState:
    state: JobState | None = None
    for offset, event in enumerate((QUEUED, *events)):
        state = apply(state, EventId(offset), event)
    assert state is not None
    return state


def test_a_run_that_ends_without_a_word_is_a_crash_once_the_next_is_opened() -> None:
    assert fold(opened(1)).crashes == 0
    assert fold(opened(1), opened(2)).crashes == 1
    assert fold(opened(1), opened(2), opened(3)).crashes == 2


@pytest.mark.parametrize("retry", [True, False])
def test_a_job_that_was_given_back_has_not_crashed(retry: bool) -> None:
    state = fold(opened(1), released(1, retry), opened(2), released(2, retry), opened(3))
    assert state.crashes == 0
    assert not suspect(fold(opened(1), released(1), opened(2), released(2), opened(3), released(3)))


def test_a_job_is_suspect_when_it_changes_hands_for_the_third_time_without_a_word() -> None:
    runs = [opened(attempt) for attempt in range(1, SUSPECT_AFTER + 1)]
    assert not suspect(fold(*runs[:-1]))
    assert suspect(fold(*runs))


@pytest.mark.parametrize("progress", [stage(2, "completed"), saved(2)])
def test_progress_clears_of_suspicion(progress: JobEvent) -> None:
    state = fold(opened(1), opened(2), progress, opened(3))
    assert state.crashes == 1
    assert not suspect(state)


@pytest.mark.parametrize("nothing_new", [stage(3, "completed"), saved(3), stage(3, "started")])
def test_doing_the_same_again_is_no_progress(nothing_new: JobEvent) -> None:
    state = fold(opened(1), stage(1, "completed"), saved(1), opened(2), opened(3), nothing_new)
    assert (state.crashes, suspect(state)) == (2, True)


def test_a_stage_that_began_is_no_progress() -> None:
    assert fold(opened(1), stage(1, "started"), opened(2)).crashes == 1


def test_of_a_job_that_was_alone_when_its_process_fell_silent_it_is_known_that_it_did_it() -> None:
    runs = [opened(number, alone=number > SUSPECT_AFTER) for number in range(1, SUSPECT_AFTER + ALONE + 1)]
    assert not crashed_alone(fold(*runs[:-1]))  # which may have been chance
    assert suspect(fold(*runs[:-1]))
    assert crashed_alone(fold(*runs))
    assert suspect(fold(*runs))


def test_a_job_that_was_alone_and_was_given_back_did_nothing() -> None:
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), released(4))
    assert not crashed_alone(state)
    assert suspect(state)


def test_a_job_that_got_on_alone_is_not_to_blame_for_what_comes_later() -> None:
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), stage(4, "completed"))
    assert not crashed_alone(state)
    assert not suspect(state)


def test_a_job_that_has_ended_is_not_held_any_more() -> None:
    end = Done(ts=4.0, job="j", run="r4", status="completed", seq=21, result={})
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), end)
    assert not crashed_alone(state)
