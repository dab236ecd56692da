"""Which jobs are suspects or poison, and which run beside each other: a suspect alone, others together."""

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from eco2.consumers.quarantine import MAX_SOLO_CRASHES, SUSPECT_AFTER, Quarantine, is_poison, is_suspect
from eco2.event import Done, JobEvent, Queued, Released, RunStarted, StageChanged, StepCompleted
from eco2.job import JSON
from eco2.journal.state import EventId, JobState, apply
from eco2.testing.clock import virtual

QUEUED = Queued(ts=1.0, job="j", pipeline="ask", deadline=181.0, digest="d")


def opened(attempt: int, alone: bool = False) -> RunStarted:
    return RunStarted(ts=2.0, job="j", run=f"r{attempt}", attempt=attempt, worker="w", exclusive=alone)


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
    assert not is_suspect(fold(opened(1), released(1), opened(2), released(2), opened(3), released(3)))


def test_a_job_is_suspect_when_it_changes_hands_for_the_third_time_without_a_word() -> None:
    runs = [opened(attempt) for attempt in range(1, SUSPECT_AFTER + 1)]
    assert not is_suspect(fold(*runs[:-1]))
    assert is_suspect(fold(*runs))


@pytest.mark.parametrize("progress", [stage(2, "completed"), saved(2)])
def test_progress_clears_of_suspicion(progress: JobEvent) -> None:
    state = fold(opened(1), opened(2), progress, opened(3))
    assert state.crashes == 1
    assert not is_suspect(state)


@pytest.mark.parametrize("nothing_new", [stage(3, "completed"), saved(3), stage(3, "started")])
def test_doing_the_same_again_is_no_progress(nothing_new: JobEvent) -> None:
    state = fold(opened(1), stage(1, "completed"), saved(1), opened(2), opened(3), nothing_new)
    assert (state.crashes, is_suspect(state)) == (2, True)


def test_a_stage_that_began_is_no_progress() -> None:
    assert fold(opened(1), stage(1, "started"), opened(2)).crashes == 1


def test_of_a_job_that_was_alone_when_its_process_fell_silent_it_is_known_that_it_did_it() -> None:
    runs = [
        opened(number, alone=number > SUSPECT_AFTER)
        for number in range(1, SUSPECT_AFTER + MAX_SOLO_CRASHES + 1)
    ]
    assert not is_poison(fold(*runs[:-1]))  # which may have been chance
    assert is_suspect(fold(*runs[:-1]))
    assert is_poison(fold(*runs))
    assert is_suspect(fold(*runs))


def test_a_job_that_was_alone_and_was_given_back_did_nothing() -> None:
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), released(4))
    assert not is_poison(state)
    assert is_suspect(state)


def test_a_job_that_got_on_alone_is_not_to_blame_for_what_comes_later() -> None:
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), stage(4, "completed"))
    assert not is_poison(state)
    assert not is_suspect(state)


def test_a_job_that_has_ended_is_not_held_any_more() -> None:
    end = Done(ts=4.0, job="j", run="r4", status="completed", seq=21, result={})
    state = fold(opened(1), opened(2), opened(3), opened(4, alone=True), end)
    assert not is_poison(state)


class Jobs:
    """Jobs that want to run. `running`: those that do, in order; `seen`: beside which each began."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.quarantine = Quarantine()
        self.running: list[str] = []
        self.seen: dict[str, list[str]] = {}
        self.downgrade: dict[str, Callable[[], None]] = {}
        self._group = group
        self._finished: dict[str, asyncio.Event] = {}

    def start(self, name: str, exclusive: bool = False) -> asyncio.Task[None]:
        self._finished[name] = asyncio.Event()
        return self._group.create_task(self._run(name, exclusive))

    def finish(self, *names: str) -> None:
        for name in names:
            self._finished[name].set()

    async def _run(self, name: str, exclusive: bool) -> None:
        await self.quarantine.acquire(exclusive)
        with self.quarantine.hold(exclusive) as self.downgrade[name]:
            self.running.append(name)
            self.seen[name] = list(self.running)
            await self._finished[name].wait()
            self.running.remove(name)


async def settled() -> None:
    await asyncio.sleep(1)


@virtual
async def test_jobs_run_beside_each_other() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        for name in "abc":
            jobs.start(name)
        await settled()
        assert jobs.running == ["a", "b", "c"]
        jobs.finish(*"abc")


@virtual
async def test_a_suspect_waits_for_all_and_keeps_others_from_beginning() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start("a")
        jobs.start("b")
        await settled()
        jobs.start("suspect", exclusive=True)
        await settled()
        jobs.start("c")
        await settled()
        assert jobs.running == ["a", "b"]
        jobs.finish("a")
        await settled()
        assert jobs.running == ["b"]
        jobs.finish("b")
        await settled()
        assert jobs.running == ["suspect"]
        jobs.finish("suspect")
        await settled()
        assert jobs.running == ["c"]
        jobs.finish("c")
    assert jobs.seen["suspect"] == ["suspect"]


@virtual
async def test_several_suspects_run_one_after_the_other_and_then_all_others() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start("s1", exclusive=True)
        jobs.start("s2", exclusive=True)
        jobs.start("a")
        jobs.start("b")
        for suspect in ("s1", "s2"):
            await settled()
            assert jobs.running == [suspect]
            jobs.finish(suspect)
        await settled()
        assert jobs.running == ["a", "b"]
        jobs.finish("a", "b")


@virtual
async def test_a_suspect_that_gives_up_waiting_keeps_nobody_any_more() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start("a")
        await settled()
        waiting = jobs.start("suspect", exclusive=True)
        await settled()
        jobs.start("b")
        await settled()
        assert jobs.running == ["a"]
        waiting.cancel()
        await settled()
        assert jobs.running == ["a", "b"]
        jobs.finish("a", "b")


@virtual
async def test_a_suspect_that_is_cancelled_while_it_runs_frees_the_process() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        running = jobs.start("suspect", exclusive=True)
        await settled()
        jobs.start("a")
        await settled()
        assert jobs.running == ["suspect"]
        running.cancel()
        await settled()
        jobs.running.remove("suspect")
        assert jobs.running == ["a"]
        jobs.finish("a")


@virtual
async def test_a_job_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start("s1", exclusive=True)
        await settled()
        jobs.start("a").cancel()
        await settled()
        jobs.finish("s1")
        jobs.start("s2", exclusive=True)
        await settled()
        assert jobs.running == ["s2"]
        jobs.finish("s2")


@virtual
async def test_beside_a_suspect_that_made_progress_others_may_begin() -> None:
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start("suspect", exclusive=True)
        await settled()
        jobs.start("a")
        await settled()
        assert jobs.running == ["suspect"]
        jobs.downgrade["suspect"]()
        await settled()
        assert jobs.running == ["suspect", "a"]
        jobs.finish("suspect")
        await settled()
        jobs.start("b")
        await settled()
        assert jobs.running == ["a", "b"]
        jobs.finish("a", "b")
