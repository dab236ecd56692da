"""A stage that would call a model while it cleans up: once its run must end, nothing is begun any more."""

import asyncio

from eco2.event import Done
from eco2.pipeline import Call, Context
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import single
from tests.support.world import Draft, Question, ScriptedModel, World


async def tidying(context: Context[Question]) -> Draft:
    try:
        await asyncio.sleep(1000)
    finally:
        await context.call(Call("tidy", "", "", str, 10))
    return Draft(text="")


@virtual
async def test_a_drain_does_not_wait_for_what_a_clean_up_would_begin() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        async with world.process(model, single(tidying)) as leaving:
            job = (await gateway.submit()).job
            await asyncio.sleep(1)
            began = VirtualClock.now()
            leaving.stop.set()
        state = gateway.journal.view.get(job)
        assert state is not None
        assert (VirtualClock.now() - began, state.released) == (0.0, True)
    assert model.calls == []


@virtual
async def test_no_call_begins_behind_the_deadline() -> None:
    model = ScriptedModel(seconds=30)
    async with World().process(model, single(tidying)) as process:
        state = await process.ended((await process.submit(max_wait=20)).job)
        assert VirtualClock.now() - state.accepted < 21
    assert model.calls == []


@virtual
async def test_a_run_that_is_fenced_off_frees_its_slot() -> None:
    model = ScriptedModel()
    async with World().process(model, single(tidying), prefetch=1) as process:
        job = (await process.submit(max_wait=60)).job
        await asyncio.sleep(1)
        end = Done(ts=VirtualClock.now(), job=job, run=None, status="cancelled", seq=31, result={})
        await process.journal.put(end)
        following = await process.submit(max_wait=300)
        state = await process.journal.view.change(following.job, following)
        assert state.attempt == 1
    assert model.calls == []
