"""An operator halts the intake: what runs goes on, nothing more is taken, and no worker forgets it."""

import asyncio

from eco2.event import Paused, Resumed, decode_events
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import at_rest
from tests.support.world import KEEP, Process, ScriptedModel, World, until


async def pause(process: Process) -> None:
    await process.journal.put(Paused(ts=VirtualClock.now(), reason="the provider's bill"))


async def resume(process: Process) -> None:
    await process.journal.put(Resumed(ts=VirtualClock.now()))


def pauses(world: World) -> list[Paused]:
    records = world.server.logs[world.topology.stream].after(0)
    return [event for record in records for event in decode_events(record.body) if isinstance(event, Paused)]


@virtual
async def test_what_runs_goes_on_and_nothing_more_is_taken_until_it_is_resumed() -> None:
    world, model = World(), ScriptedModel(seconds=10)
    async with world.process() as gateway, world.process(model):
        running = (await gateway.submit()).job
        await until(lambda: bool(model.in_flight))
        await pause(gateway)
        await asyncio.sleep(1)
        waiting = (await gateway.submit(max_wait=800)).job
        await gateway.broker.publish("jobs.ask.first", b"no order", "what goes first waits, too")
        assert (await gateway.ended(running)).status == "completed"
        await asyncio.sleep(300)
        assert {job for _, job in model.calls} == {running}
        assert len(world.server.queues[world.topology.queue("jobs.ask.first")]) == 1
        await resume(gateway)
        began = VirtualClock.now()
        assert (await gateway.ended(waiting)).status == "completed"
        assert VirtualClock.now() - began < 25


@virtual
async def test_pausing_twice_and_resuming_twice_is_pausing_and_resuming() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model):
        for _ in range(2):
            await pause(gateway)
        job = (await gateway.submit()).job
        await asyncio.sleep(10)
        assert model.calls == []
        for _ in range(2):
            await resume(gateway)
        assert (await gateway.ended(job)).status == "completed"
        await at_rest(world)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]


@virtual
async def test_a_pause_outlives_what_views_hold_and_workers_that_come_and_go() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        await pause(gateway)
        for _ in range(4):
            async with world.process(model):
                await asyncio.sleep(0.6 * KEEP)
        job = (await gateway.submit(max_wait=800)).job
        async with world.process(model):
            await asyncio.sleep(100)
            assert model.calls == []
            await resume(gateway)
            assert (await gateway.ended(job)).status == "completed"
            written = len(pauses(world))
            await asyncio.sleep(2 * KEEP)
        assert len(pauses(world)) == written  # nobody renews what is over
    assert {pause.reason for pause in pauses(world)} == {"the provider's bill"}
    assert written <= 1 + 4 * 0.6 * 3 + 1


@virtual
async def test_a_paused_worker_stops_at_once() -> None:
    world = World()
    async with world.process() as gateway:
        await pause(gateway)
        async with world.process(ScriptedModel()):
            await asyncio.sleep(10)
            began = VirtualClock.now()
        assert VirtualClock.now() - began < 1


@virtual
async def test_a_pause_that_is_over_does_not_come_back_with_a_message_that_comes_late() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model):
        over = Paused(ts=VirtualClock.now(), reason="the provider's bill")
        await gateway.journal.put(over)
        await asyncio.sleep(5)
        await resume(gateway)
        await gateway.journal.put(over)  # sent twice, since its confirm did not come
        assert (await gateway.ended((await gateway.submit()).job)).status == "completed"


@virtual
async def test_a_pause_that_is_renewed_while_it_ends_has_ended() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model):
        await pause(gateway)
        await resume(gateway)
        now = VirtualClock.now()
        await gateway.journal.put(Paused(ts=now, reason="the provider's bill", renewed=True))
        assert (await gateway.ended((await gateway.submit()).job)).status == "completed"
        await pause(gateway)
        job = (await gateway.submit()).job
        await gateway.journal.put(Paused(ts=now + 1, reason="the provider's bill", renewed=True))
        await asyncio.sleep(10)
        assert job not in {called for _, called in model.calls}
        await resume(gateway)
        assert (await gateway.ended(job)).status == "completed"
