"""Standby and takeover: a job is left to a holder that may be at work, and resumed once it is gone."""

import asyncio

from tests.support.engine_fixtures import overtaking, queue_is_empty, rival
from tests.support.virtual_clock import VirtualClock, virtual
from tests.support.world import SILENCE, ScriptedModel, World, order, until


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
        job = (await process.submit(life=800)).job
        await process.journal.put(overtaking(job, attempt=9))
        with rival(process, job):
            await asyncio.sleep(40 * SILENCE)
            assert len(model.calls) <= 1
        silent = VirtualClock.now()
        state = await process.ended(job)
        assert VirtualClock.now() - silent >= SILENCE - 2
    assert state.attempt == 10


@virtual
async def test_nobody_is_silent_while_we_cannot_hear() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        job = (await process.submit(life=800)).job
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
            job = (await gateway.submit(life=800)).job
            await until(lambda: bool(model.in_flight))
            holder.broker.disrupt()  # type: ignore[attr-defined]
            state = await gateway.ended(job)
        assert await queue_is_empty(gateway)
    assert (state.status, state.attempt) == ("completed", 1)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]
