"""Runs: who holds a job, and what becomes of deliveries whose run was overtaken."""

import asyncio

import pytest

from eco2.event import Done, Queued, Released, StageChanged, Status, Superseded
from eco2.job import new_id
from eco2.pipeline import JSON, Context
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import Held, at_rest, overtaking, queue_is_empty, rival, single, used
from tests.support.world import (
    Draft,
    Question,
    ScriptedModel,
    World,
    order,
    until,
)


async def _work_until_cancelled(world: World, model: ScriptedModel) -> None:
    async with world.process(model):
        await asyncio.get_running_loop().create_future()


def _by_other(job: str, seq: int, status: Status) -> StageChanged:
    output: JSON | None = {"text": "by the other"} if status == "completed" else None
    now = VirtualClock.now()
    return StageChanged(
        ts=now, job=job, run="other", stage="draft", status=status, seq=seq, progress=0, output=output
    )


@virtual
async def test_a_job_of_a_worker_that_vanished_goes_on_behind_its_last_completed_stage() -> None:
    world, first, second = World(), ScriptedModel(seconds=10), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        vanishing = asyncio.create_task(_work_until_cancelled(world, first))
        await until(lambda: [kind for kind, _ in first.calls] == ["draft", "final"])
        vanishing.cancel()
        await asyncio.wait({vanishing})
        async with world.process(second):
            state = await gateway.ended(job)
    assert [kind for kind, _ in second.calls] == ["final"]
    assert (state.status, state.attempt) == ("completed", 2)


@virtual
async def test_an_order_that_comes_twice_to_one_worker_runs_once() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as other:
        async with world.process(model) as process:
            state = await process.submit()
            now = VirtualClock.now()
            again = order(state.job, "q", now)
            await process.order(again)
            await process.ended(state.job)
            await process.order(again)
            await process.ended((await process.submit("the next")).job)
        assert await queue_is_empty(other)
    assert [kind for kind, job in model.calls if job == state.job] == ["draft", "final"]


@virtual
async def test_a_run_that_the_journal_fences_off_stops_and_changes_nothing() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        end = Done(
            ts=VirtualClock.now(), job=job, run=None, status="cancelled", seq=31, result={"by": "someone"}
        )
        await process.journal.put(end)
        state = await process.ended(job)
        await until(lambda: not model.in_flight)
    assert [kind for kind, _ in model.calls] == ["draft"]
    assert (state.status, state.result) == ("cancelled", {"by": "someone"})


@virtual
async def test_a_run_that_is_overtaken_stops_and_goes_on_where_the_other_leaves_off() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        now = VirtualClock.now()
        await process.journal.put(overtaking(job))
        await until(lambda: not model.in_flight)
        assert VirtualClock.now() - now < 1
        await process.journal.put(_by_other(job, 10, "started"))
        await asyncio.sleep(5)
        await process.journal.put(_by_other(job, 11, "completed"))
        await asyncio.sleep(0.5)
        assert len(model.calls) == 1
        await process.journal.put(Released(ts=now, job=job, run="other", reason="drain"))
        state = await process.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]
    assert (state.status, state.attempt) == ("completed", 3)
    assert state.result is not None
    assert state.result["answer"] == "final(by the other)"


@virtual
async def test_a_run_that_stands_by_ends_the_job_at_its_deadline() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        accepted = await process.submit()
        await until(lambda: bool(model.in_flight))
        await process.journal.put(overtaking(accepted.job))
        with rival(process, accepted.job):
            state = await process.ended(accepted.job)
        assert VirtualClock.now() == pytest.approx(accepted.deadline, abs=0.5)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "TIMEOUT"


@virtual
async def test_an_end_that_came_too_late_is_void_and_the_job_goes_on() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model) as process:
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 2)
        held = Held(process)
        await until(lambda: not model.in_flight)
        await gateway.journal.put(overtaking(job))
        held.release()
        await process.journal.barrier()
        seen = gateway.journal.view.get(job)
        assert seen is not None
        assert not seen.ended
        now = VirtualClock.now()
        await gateway.journal.put(Released(ts=now, job=job, run="other", reason="drain"))
        state = await gateway.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]  # what the void run paid for is used
    assert (state.status, state.attempt) == ("completed", 3)


@virtual
async def test_of_two_workers_that_open_a_run_at_once_the_later_one_opens_the_next() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model) as process:
        held = Held(process)
        job = (await gateway.submit()).job
        await gateway.journal.put(overtaking(job, attempt=1))
        held.release()
        state = await gateway.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]
    assert (state.status, state.attempt) == ("completed", 2)


@virtual
async def test_a_run_that_is_interrupted_twice_does_no_harm() -> None:
    async def slow_to_leave(context: Context[Question]) -> Draft:
        try:
            await asyncio.sleep(10)
        finally:
            if context.input.text == "first":
                await asyncio.sleep(5)
        return Draft(text="")

    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    async with World().process(ScriptedModel(), single(slow_to_leave)) as process:
        first = (await process.submit("first")).job
        second = (await process.submit("second")).job
        await asyncio.sleep(1)
        now = VirtualClock.now()
        await process.journal.put(overtaking(first))
        await asyncio.sleep(1)
        await process.journal.put(
            Done(ts=now, job=first, run="other", status="completed", seq=21, result={"by": "the other"})
        )
        assert (await process.ended(first)).result == {"by": "the other"}
        assert (await process.ended(second)).status == "completed"
    assert unseen == []


@virtual
async def test_a_job_that_replays_another_shows_the_stages_that_it_did_not_run() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        now = VirtualClock.now()
        again = order(new_id(now), "q", now)
        await process.journal.put(
            Queued(
                ts=now,
                job=again.id,
                pipeline="ask",
                deadline=again.deadline,
                digest="q",
                resumes="old",
                outputs={"draft": {"text": "drafted before"}},
            )
        )
        await process.order(again)
        state = await process.ended(again.id)
    assert [kind for kind, _ in model.calls] == ["final"]
    assert (state.status, state.resumes) == ("completed", "old")
    assert [(shown.stage, shown.status, shown.seq, shown.progress) for shown in state.visible_events] == [
        ("queued", "started", 0, 0),
        ("draft", "started", 10, 0),
        ("draft", "completed", 11, 50),
        ("final", "started", 20, 50),
        ("final", "completed", 21, 100),
        ("done", "completed", 31, 100),
    ]
    assert state.visible_events[2].result == {"text": "drafted before"}
    assert state.result is not None
    assert state.result["answer"] == "final(drafted before)"
    assert state.result["usage"] == {"final": used(calls=1)}


@virtual
async def test_a_job_that_its_gateway_withdraws_stops_at_once_and_is_paid_for_no_more() -> None:
    world, model = World(), ScriptedModel(seconds=10)
    async with world.process() as gateway, world.process(model):
        job = (await gateway.submit()).job
        await until(lambda: bool(model.in_flight))
        await gateway.journal.put(Superseded(ts=VirtualClock.now(), job=job, by=""))
        await until(lambda: not model.in_flight)
        await at_rest(world)
        late = (await gateway.submit()).job
        assert (await gateway.ended(late)).status == "completed"
    assert [kind for kind, called in model.calls if called == job] == ["draft"]
