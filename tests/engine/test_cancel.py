"""Jobs that are cancelled: wherever they are, they end once, nothing runs on, and no order is left."""

import asyncio

import pytest

from eco2.consumers.quarantine import SUSPECT_AFTER
from eco2.errors import PermanentError, ProviderError
from eco2.event import CallReleased, decode_events
from eco2.journal.state import JobState, cancelled
from eco2.pacer import Limits
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import at_rest, overtaking, rival
from tests.support.metric_value import metric_value
from tests.support.world import Remote, ScriptedModel, World, until

FAILED = 'eco2_jobs_ended_total{code="INTERNAL",pipeline="ask",status="failed"}'


def is_cancelled(state: JobState) -> bool:
    last = state.visible_events[-1]
    assert state.result is not None
    return (state.status, last.stage, last.status, state.result["error"]) == (
        "cancelled",
        "done",
        "cancelled",
        {"code": "CANCELLED", "message": "cancelled on request"},
    )


@virtual
async def test_a_job_in_a_queue_is_cancelled_without_a_worker_and_never_runs() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        assert is_cancelled(await gateway.cancel(job))
        async with world.process(model):
            await at_rest(world)
    assert model.calls == []


@virtual
async def test_a_call_in_flight_is_broken_off() -> None:
    world, model = World(), ScriptedModel(seconds=100)
    async with world.process() as gateway, world.process(model) as worker:
        job = (await gateway.submit()).job
        await until(lambda: model.in_flight == 1)
        began = VirtualClock.now()
        assert is_cancelled(await gateway.cancel(job))
        await until(lambda: model.in_flight == 0)
        await at_rest(world)
        assert VirtualClock.now() - began < 1
        assert is_cancelled(await worker.ended(job))
    assert [kind for kind, _ in model.calls] == ["draft"]


@virtual
async def test_a_job_that_waits_for_a_slot_leaves_it_to_others() -> None:
    world, model = World(), ScriptedModel(seconds=10)
    async with world.process(model, concurrency=1) as process:
        jobs = [(await process.submit(str(number))).job for number in range(2)]
        await until(lambda: model.in_flight == 1)
        assert is_cancelled(await process.cancel(jobs[1]))
        assert (await process.ended(jobs[0])).status == "completed"
        await at_rest(world)
    assert {job for _, job in model.calls} == {jobs[0]}


@virtual
async def test_a_request_that_waits_for_its_grant_is_withdrawn() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(remotes=[Remote("p", model, Limits(requests=1))]) as process:
        job = (await process.submit()).job
        await until(lambda: bool(process.members["p"].budget.waiting))
        assert is_cancelled(await process.cancel(job))
        await until(lambda: not process.members["p"].budget.waiting)
        await at_rest(world)
    records = world.server.logs[world.topology.stream].after(0)
    events = [event for record in records for event in decode_events(record.body)]
    assert any(isinstance(event, CallReleased) for event in events)
    assert model.calls == []


@virtual
async def test_a_job_that_is_put_off_does_not_come_back() -> None:
    def script(kind: str, job: str) -> None:
        raise ProviderError("503")

    world, model = World(), ScriptedModel(script=script)
    async with world.process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool((state := process.journal.view.get(job)) and state.retrying))
        tried = len(model.calls)
        assert is_cancelled(await process.cancel(job))
        await at_rest(world)
    assert len(model.calls) == tried


@virtual
async def test_a_delivery_on_standby_for_another_holder_is_settled() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        await gateway.journal.put(overtaking(job, attempt=1))
        with rival(gateway, job):
            async with world.process(model):
                await asyncio.sleep(30)
                assert is_cancelled(await gateway.cancel(job))
                await at_rest(world)
    assert model.calls == []


@virtual
async def test_the_first_end_stands_and_a_second_cancel_has_the_same_answer() -> None:
    async with World().process(ScriptedModel()) as process:
        job = (await process.submit()).job
        first, second = await asyncio.gather(process.cancel(job), process.cancel(job))
        assert first.result == second.result == (await process.cancel(job)).result
        done = (await process.submit("other")).job
        await process.ended(done)
        with pytest.raises(PermanentError, match="has ended as completed"):
            await process.cancel(done)


@virtual
async def test_a_job_that_is_cancelled_before_its_worker_has_failed_it_leaves_no_dead_letter() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        job = (await process.submit()).job

        def script(kind: str, _: str) -> None:
            state = process.journal.view.get(job)
            assert state is not None
            process.journal.put(cancelled(state, VirtualClock.now()))
            raise ZeroDivisionError

        model.script = script
        assert is_cancelled(await process.ended(job))
        await at_rest(world)
        assert metric_value(process.metrics, FAILED) == 0
    assert not len(world.server.queues[world.topology.queue("dead")])


@virtual
async def test_the_end_comes_after_all_stages_that_a_run_shows_meanwhile() -> None:
    """Clients drop what has no higher `seq` than the event before: a job would never end for them."""
    async with World().process(ScriptedModel()) as process:
        job = (await process.submit()).job
        early = process.journal.view.get(job)
        assert early is not None
        late = early
        while late.visible_events[-1].stage != "final":
            late = await process.journal.view.change(job, late)
        process.journal.put(cancelled(early, VirtualClock.now()))
        shown = [event.seq for event in (await process.ended(job)).visible_events]
        assert shown == sorted(set(shown))


@virtual
async def test_a_suspect_that_waits_until_it_is_alone_is_not_waited_for() -> None:
    world, model = World(), ScriptedModel(seconds=40)
    async with world.process() as gateway:
        suspect = (await gateway.submit("suspect")).job
        for attempt in range(1, SUSPECT_AFTER + 1):
            await gateway.journal.put(overtaking(suspect, attempt=attempt))
        async with world.process(model) as worker:
            other = (await gateway.submit("other")).job
            await until(lambda: model.in_flight == 1)
            await asyncio.sleep(10)
            third = (await gateway.submit("third")).job
            await asyncio.sleep(10)
            assert {job for _, job in model.calls} == {other}
            assert is_cancelled(await gateway.cancel(suspect))
            await until(lambda: model.in_flight == 2)
            assert {job for _, job in model.calls} == {other, third}
            for job in (other, third):
                assert (await worker.ended(job)).status == "completed"
