"""Standby and takeover: a job is left to a holder that may be at work, and resumed once it is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from eco2.event import RunStarted, StageChanged, decode_events
from eco2.journal.state import JobState
from eco2.pipeline import JSON, AnyPipeline, Context
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import Held, overtaking, queue_is_empty, rival, single
from tests.support.world import (
    PIPELINE,
    SILENCE,
    Draft,
    Process,
    Question,
    ScriptedModel,
    World,
    order,
    until,
)

SOON = 3.0
"""Seconds in which a job is taken over of which nothing can be in flight."""


@virtual
async def test_an_order_that_comes_twice_to_two_workers_runs_once() -> None:
    world, first, second = World(), ScriptedModel(seconds=50), ScriptedModel(seconds=50)
    async with world.process() as gateway:
        async with world.process(first, name="a"), world.process(second, name="b"):
            job = await gateway.submit()
            await until(lambda: bool(first.in_flight or second.in_flight))
            for _ in range(2):  # one for each of the two
                await gateway.order(order(job.job, "q", job.accepted))
            state = await gateway.ended(job.job)
        assert await queue_is_empty(gateway)
    assert (state.status, state.attempt) == ("completed", 1)
    assert [kind for kind, _ in first.calls + second.calls] == ["draft", "final"]


@virtual
async def test_a_holder_that_lost_its_connection_goes_on_and_pays_nothing_twice() -> None:
    world, first, second = World(), ScriptedModel(seconds=40), ScriptedModel()
    async with world.process() as gateway:
        async with world.process(first) as holder:
            job = (await gateway.submit()).job
            await until(lambda: bool(first.in_flight))
            async with world.process(second):
                holder.broker.disrupt()  # type: ignore[attr-defined]
                state = await gateway.ended(job)
        assert await queue_is_empty(gateway)
    assert (state.status, state.attempt) == ("completed", 1)
    assert second.calls == []


@virtual
async def test_a_holder_that_vanished_is_waited_for_and_then_replaced() -> None:
    world, first, second = World(), ScriptedModel(seconds=50), ScriptedModel()

    async def work() -> None:
        async with world.process(first):
            await asyncio.get_running_loop().create_future()

    async with world.process() as gateway:
        job = (await gateway.submit()).job
        vanishing = asyncio.create_task(work())
        await until(lambda: bool(first.in_flight))
        async with world.process(second):
            vanishing.cancel()
            await asyncio.wait({vanishing})
            gone = VirtualClock.now()
            await until(lambda: bool(second.calls))
            assert SILENCE <= VirtualClock.now() - gone <= SILENCE + 5
            state = await gateway.ended(job)
    assert (state.status, state.attempt, state.crashes) == ("completed", 2, 0)


@virtual
async def test_a_holder_that_answers_is_never_taken_over() -> None:
    model = ScriptedModel()
    async with World().process(model) as process:
        job = (await process.submit(max_wait=800)).job
        await until(lambda: bool(model.in_flight))
        await process.journal.put(overtaking(job, attempt=9))
        with rival(process, job):
            await asyncio.sleep(40 * SILENCE)
            assert len(model.calls) == 1
        silent = VirtualClock.now()
        state = await process.ended(job)
        assert VirtualClock.now() - silent >= SILENCE - 2
    assert state.attempt == 10


@virtual
async def test_nobody_is_silent_while_we_cannot_hear() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        job = (await process.submit(max_wait=800)).job
        await until(lambda: bool(model.in_flight))
        await process.journal.put(overtaking(job, attempt=9))
        await asyncio.sleep(SILENCE / 2)
        calls = len(model.calls)
        world.server.block("low on memory")
        await asyncio.sleep(10 * SILENCE)
        assert len(model.calls) == calls
        world.server.unblock()
        heard_from = VirtualClock.now()
        await until(lambda: len(model.calls) > calls)
        assert VirtualClock.now() - heard_from >= SILENCE - 2
        await process.ended(job)


@virtual
async def test_a_worker_that_gets_its_own_job_again_goes_on_with_it() -> None:
    world, model = World(), ScriptedModel(seconds=3 * SILENCE)
    async with world.process() as gateway:
        async with world.process(model) as holder:
            job = (await gateway.submit(max_wait=800)).job
            await until(lambda: bool(model.in_flight))
            holder.broker.disrupt()  # type: ignore[attr-defined]
            state = await gateway.ended(job)
        assert await queue_is_empty(gateway)
    assert (state.status, state.attempt) == ("completed", 1)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]


async def in_queue(context: Context[Question]) -> Draft:
    """Has not begun a call, however long it takes."""
    await asyncio.sleep(50)
    return Draft(text="")


async def in_a_step(context: Context[Question]) -> Draft:
    async def work(_: str) -> JSON:
        await asyncio.sleep(50)
        return {}

    await context.step("slow", work)
    return Draft(text="")


@asynccontextmanager
async def vanished(
    pipeline: AnyPipeline, reached: Callable[[JobState], bool]
) -> AsyncIterator[tuple[Process, str, float]]:
    """A worker was killed once its job had `reached` a state; yields the next one, the job, and when."""
    world = World()

    async def work() -> None:
        async with world.process(ScriptedModel(), pipeline, name="first"):
            await asyncio.get_running_loop().create_future()

    async with world.process(pipeline=pipeline) as gateway:
        job = (await gateway.submit(max_wait=800)).job
        vanishing = asyncio.create_task(work())
        await until(lambda: (state := gateway.journal.view.get(job)) is not None and reached(state))
        async with world.process(ScriptedModel(), pipeline, name="second") as second:
            vanishing.cancel()
            await asyncio.wait({vanishing})
            yield second, job, VirtualClock.now()


async def taken_over(process: Process, job: str, attempt: int = 2) -> JobState:
    await until(lambda: (state := process.journal.view.get(job)) is not None and state.attempt >= attempt)
    state = process.journal.view.get(job)
    assert state is not None
    return state


@virtual
async def test_a_job_of_which_nothing_was_begun_is_taken_over_soon() -> None:
    async with vanished(single(in_queue), lambda state: state.is_held) as (second, job, gone):
        state = await taken_over(second, job)
        assert 0.5 <= VirtualClock.now() - gone <= SOON
        assert (state.attempt, state.crashes) == (2, 1)
        assert (await second.ended(job)).status == "completed"


@virtual
async def test_a_job_with_a_step_in_flight_is_not_taken_over_soon() -> None:
    async with vanished(single(in_a_step), lambda state: state.is_open) as (second, job, gone):
        await taken_over(second, job)
        assert SILENCE <= VirtualClock.now() - gone <= SILENCE + SOON


@virtual
async def test_a_holder_that_answers_keeps_a_job_of_which_nothing_was_begun() -> None:
    async with World().process(ScriptedModel(), single(in_queue)) as process:
        job = (await process.submit(max_wait=800)).job
        await process.journal.put(overtaking(job, attempt=9))
        with rival(process, job):
            await asyncio.sleep(10 * SILENCE)
            state = process.journal.view.get(job)
            assert state is not None
            assert (state.run, state.attempt) == ("other", 9)
        silent = VirtualClock.now()
        await taken_over(process, job, attempt=10)
        assert VirtualClock.now() - silent <= SOON


def opening(job: str) -> StageChanged:
    """The rival opens a stage."""
    now = VirtualClock.now()
    return StageChanged(ts=now, job=job, run="other", stage="draft", status="started", seq=10, progress=0)


@virtual
async def test_a_stage_that_is_opened_while_we_wait_is_waited_for() -> None:
    async with World().process(ScriptedModel(), single(in_queue)) as process:
        job = (await process.submit(max_wait=800)).job
        await process.journal.put(overtaking(job, attempt=9))
        await asyncio.sleep(0.5)
        await process.journal.put(opening(job))
        opened = VirtualClock.now()
        await taken_over(process, job, attempt=10)
        assert SILENCE <= VirtualClock.now() - opened <= SILENCE + SOON


@virtual
async def test_a_stage_that_is_opened_before_our_run_makes_it_void_and_is_waited_for() -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel(), PIPELINE) as process:
        job = (await gateway.submit(max_wait=800)).job
        await gateway.journal.put(overtaking(job, attempt=9))
        held = Held(process)
        await asyncio.sleep(SOON)  # by now it has decided
        await gateway.journal.put(opening(job))
        held.release()
        opened = VirtualClock.now()
        state = await taken_over(process, job, attempt=10)
        assert (state.run, state.crashes) == ("other", 0)
        state = await taken_over(process, job, attempt=11)
        assert SILENCE <= VirtualClock.now() - opened <= SILENCE + SOON
        assert (state.run == "other", state.crashes) == (False, 1)
        await gateway.ended(job)
    written = [
        event
        for record in world.server.logs[world.topology.stream].after(0)
        for event in decode_events(record.body)
        if isinstance(event, RunStarted)
    ]
    assert [each.over is not None for each in written if each.attempt >= 9] == [False, True, False]
