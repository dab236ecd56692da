"""The life of a job: `max_wait` until its first grant, then `timeout`; being put off does not count."""

import asyncio

import pytest

from eco2.consumers.sweep import OVERDUE
from eco2.errors import ProviderError
from eco2.event import Done, Released, StageChanged, decode_events
from eco2.journal.state import JobState
from eco2.operator.actions import replay, stored_job
from eco2.operator.dead_jobs import DeadJob
from eco2.operator.replay_plan import NotReplayable, ReplayPlan, plan_replay
from eco2.pacer import Limits
from eco2.pipeline import Call, Context
from eco2.ports import DELAYS
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import Held, at_rest, overtaking, rival, single
from tests.support.world import (
    PIPELINE,
    Draft,
    Process,
    Question,
    Remote,
    ScriptedModel,
    World,
    running,
    skewed,
    until,
)

SOON = 5.0
"""Seconds within which a check for overdue jobs comes."""


def end(state: JobState) -> object:
    """The code of the job's error, or its status."""
    assert state.result is not None
    error = state.result["error"]
    return error["code"] if isinstance(error, dict) else state.status


async def one_call(context: Context[Question]) -> Draft:
    return Draft(text=(await context.call(Call("draft", "", context.input.text, str, 10))).value)


def passed(state: JobState) -> float:
    """Seconds since the job was accepted."""
    return VirtualClock.now() - state.accepted


def remote(model: ScriptedModel) -> Remote:
    """A provider that grants one call a minute."""
    return Remote("p", model, Limits(requests=1))


@virtual
async def test_a_job_that_waits_for_its_grant_expires_at_its_worker_and_leaves_no_request() -> None:
    model = ScriptedModel(seconds=50)
    async with World().process(remotes=[remote(model)], pipeline=single(one_call)) as process:
        first = await process.submit()
        await until(lambda: bool(model.in_flight))
        state = await process.ended((await process.submit(max_wait=20)).job)
        assert (end(state), state.attempt, state.started_at) == ("EXPIRED", 1, None)
        assert passed(state) == pytest.approx(20, abs=0.1)
        await until(lambda: not process.members["p"].budget.waiting)
        assert end(await process.ended(first.job)) == "completed"
    assert len(model.calls) == 1


@virtual
async def test_a_job_that_waits_for_a_slot_expires_at_its_worker() -> None:
    model = ScriptedModel(seconds=50)
    async with World().process(model, concurrency=1, pipeline=single(one_call)) as process:
        first = await process.submit(max_wait=10, timeout=180)
        await until(lambda: bool(model.in_flight))
        state = await process.ended((await process.submit(max_wait=20)).job)
        assert (end(state), state.started_at) == ("EXPIRED", None)
        assert passed(state) == pytest.approx(20, abs=0.1)
        assert end(await process.ended(first.job)) == "completed"  # it had begun, and took longer than 10 s


@virtual
async def test_the_wait_for_the_first_grant_is_not_counted_as_work() -> None:
    model = ScriptedModel(seconds=15)
    async with World().process(remotes=[remote(model)], pipeline=single(one_call)) as process:
        await process.submit()
        await until(lambda: bool(model.in_flight))
        state = await process.ended((await process.submit(max_wait=100, timeout=20)).job)
        assert end(state) == "completed"
        assert passed(state) > 60
        assert state.started_at == pytest.approx(VirtualClock.now() - 15, abs=1)


@virtual
async def test_a_job_ends_in_a_call_when_its_time_is_over_and_not_before() -> None:
    model = ScriptedModel(seconds=15)
    async with World().process(remotes=[remote(model)], pipeline=single(one_call)) as process:
        await process.submit()
        await until(lambda: bool(model.in_flight))
        state = await process.ended((await process.submit(max_wait=100, timeout=10)).job)
        assert end(state) == "TIMEOUT"
        assert state.started_at is not None
        assert VirtualClock.now() - state.started_at == pytest.approx(10, abs=0.1)


@virtual
async def test_being_put_off_is_not_counted() -> None:
    failures = 3 + 1 + 1

    def script(kind: str, job: str) -> None:
        if len(model.calls) <= failures:
            raise ProviderError("503")

    model = ScriptedModel(script=script)
    async with World().process(model, single(one_call)) as process:
        state = await process.ended((await process.submit(max_wait=10, timeout=40)).job)
        assert end(state) == "completed"
        assert passed(state) > sum(DELAYS) - 10
        assert sum(DELAYS) - 10 < state.put_off < sum(DELAYS) + 10


@virtual
async def test_work_before_and_after_being_put_off_is_added_up() -> None:
    def script(kind: str, job: str) -> None:
        if len(model.calls) <= 3:
            raise ProviderError("503")

    model = ScriptedModel(seconds=14, script=script)
    async with World().process(model, single(one_call)) as process:
        job = (await process.submit(max_wait=10, timeout=60)).job
        await until(lambda: bool((state := process.journal.view.get(job)) and state.retrying))
        model.seconds = 50
        state = await process.ended(job)
        assert end(state) == "TIMEOUT"
        assert passed(state) == pytest.approx(60 + state.put_off, abs=1)
        assert state.put_off == pytest.approx(5, abs=1)


@pytest.mark.parametrize(("timeout", "code"), [(180.0, "completed"), (60.0, "TIMEOUT")])
def test_a_stage_that_works_without_a_call_does_not_expire(timeout: float, code: str) -> None:
    async def slow(context: Context[Question]) -> Draft:
        await asyncio.sleep(100)
        return Draft(text="")

    @virtual
    async def check() -> None:
        world = World()
        workers = [world.process(ScriptedModel(), single(slow)) for _ in range(2)]
        async with world.process() as gateway, workers[0], workers[1]:
            state = await gateway.ended((await gateway.submit(max_wait=10, timeout=timeout)).job)
        assert (end(state), state.attempt) == (code, 1)
        assert passed(state) == pytest.approx(min(100, timeout), abs=1)

    check()


@virtual
async def test_work_without_a_call_counts_as_work_of_the_job() -> None:
    async def slow(context: Context[Question]) -> Draft:
        await asyncio.sleep(50)
        context.emit("shown")
        await asyncio.sleep(50)
        return Draft(text="")

    async with World().process(ScriptedModel(), single(slow)) as process:
        state = await process.ended((await process.submit(max_wait=60, timeout=80)).job)
        assert end(state) == "TIMEOUT"
        assert passed(state) == pytest.approx(80, abs=1)


@virtual
async def test_a_stage_sees_its_deadline_move_with_the_first_grant() -> None:
    seen: list[float] = []

    async def looks(context: Context[Question]) -> Draft:
        seen.append(context.deadline - VirtualClock.now())
        await context.call(Call("draft", "", "", str, 10))
        seen.append(context.deadline - VirtualClock.now())
        return Draft(text="")

    async with World().process(ScriptedModel(seconds=20), single(looks)) as process:
        await process.ended((await process.submit(max_wait=10, timeout=100)).job)
    assert seen == [pytest.approx(100, abs=0.1), pytest.approx(80, abs=0.1)]


@virtual
async def test_a_held_job_that_has_not_started_is_ended_from_outside_only_after_both_times() -> None:
    world = World()
    async with world.process() as gateway:
        job = await gateway.submit(max_wait=20, timeout=30)
        await gateway.journal.put(overtaking(job.job, attempt=1))
        with rival(gateway, job.job):
            async with world.process(ScriptedModel()):
                state = await gateway.ended(job.job)
        assert end(state) == "EXPIRED"
        assert passed(state) == pytest.approx(50, abs=1)


@virtual
async def test_an_end_as_expired_that_comes_after_the_start_is_void_and_the_job_goes_on() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit(max_wait=20, timeout=30)).job
        now = VirtualClock.now()
        await gateway.journal.put(overtaking(job, attempt=1))
        with rival(gateway, job):
            async with world.process(model) as worker:
                await asyncio.sleep(45)
                held = Held(worker)
                await asyncio.sleep(20)  # its `done` is on its way
                started = StageChanged(
                    ts=now + 45,
                    job=job,
                    run="other",
                    stage="draft",
                    status="started",
                    seq=10,
                    progress=0,
                    granted=True,
                )
                await gateway.journal.put(started)
                held.release()
                await asyncio.sleep(5)
                assert expired_ends(world) > 0
                state = gateway.journal.view.get(job)
                assert state is not None
                assert not state.ended
                await gateway.journal.put(Released(ts=now + 70, job=job, run="other", reason="drain"))
                assert end(await gateway.ended(job)) == "completed"
                await at_rest(world)


def first_grant(job: str, ts: float) -> StageChanged:
    """The event of the other worker's run that its first call was granted."""
    return StageChanged(
        ts=ts, job=job, run="other", stage="draft", status="started", seq=10, progress=0, granted=True
    )


def expired_ends(world: World) -> int:
    records = world.server.logs[world.topology.stream].after(0)
    events = [event for record in records for event in decode_events(record.body)]
    return sum(isinstance(event, Done) and event.if_unstarted for event in events)


@virtual
async def test_after_a_void_end_from_outside_the_next_one_counts() -> None:
    world = World()
    async with world.process() as other, running(skewed(world, 0.0, "gateway")) as (gateway,):
        job = (await gateway.submit(max_wait=20, timeout=30)).job
        await other.journal.put(overtaking(job, attempt=1))
        await asyncio.sleep(45)
        held = Held(gateway)
        await asyncio.sleep(30)
        ts = VirtualClock.now()
        granted = first_grant(job, ts)
        await other.journal.put(granted)
        held.release()
        state = await other.ended(job)
        assert expired_ends(world) == 1
        assert end(state) == "TIMEOUT"
        assert VirtualClock.now() - ts > 30


@virtual
async def test_a_started_job_without_a_worker_ends_after_its_timeout_also_for_who_starts_later() -> None:
    world, model = World(), ScriptedModel(seconds=100)
    async with world.process() as gateway:
        worker = await world.start(model)
        job = await gateway.submit(max_wait=500, timeout=60)
        await until(lambda: bool(model.in_flight))
        await worker.kill()
        await asyncio.sleep(30)
        async with world.process(ScriptedModel(), single(one_call), name="a") as leader:
            leader.broker.consume = lambda *_: Idle()  # type: ignore[assignment,method-assign]
            state = await gateway.ended(job.job)
        assert end(state) == "TIMEOUT"
        assert 60 <= passed(state) <= 60 + OVERDUE + SOON


class Idle:
    async def cancel(self) -> None: ...


@virtual
async def test_a_job_that_is_put_off_and_that_nobody_tries_again_ends() -> None:
    def script(kind: str, job: str) -> None:
        raise ProviderError("503")

    world = World()
    async with world.process() as gateway:
        async with world.process(ScriptedModel(script=script), single(one_call)):
            job = await gateway.submit(max_wait=20, timeout=60)
            await until(lambda: bool((state := gateway.journal.view.get(job.job)) and state.retrying))
        state = gateway.journal.view.get(job.job)
        assert state is not None
        assert state.retrying is not None
        assert state.started_at is not None
        left = 60 - (state.retrying.since - state.started_at)
        assert gateway.journal.view.remaining(state) == pytest.approx(left + DELAYS[0] + 20, abs=1)


@virtual
async def test_a_job_that_expired_is_replayed_from_its_stored_order() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit("q", max_wait=20, timeout=70)).job
        async with world.process(model, PIPELINE) as worker:
            worker.stop.set()
        async with world.process(ScriptedModel(), PIPELINE, prefetch=1) as worker:
            await world_without_orders(world)
            state = await gateway.ended(job)
            assert end(state) == "EXPIRED"
            plan = await planned(gateway, state)
            assert (plan.job.max_wait, plan.job.timeout, plan.job.key) == (100, 70, None)
            again = await replay(plan, gateway.broker, gateway.journal)
            assert end(await worker.ended(again)) == "completed"
            done = await gateway.ended(again)
            ended = await stored_job(again, done, gateway.broker, 1)
            assert isinstance(ended, NotReplayable)
            assert "ended as completed" in ended.reason


async def world_without_orders(world: World) -> None:
    """Loses the orders in all queues."""
    for queue in world.server.queues.values():
        queue._ready.clear()


async def planned(gateway: Process, state: JobState) -> ReplayPlan:
    dead = await stored_job(state.job, state, gateway.broker, 1)
    assert isinstance(dead, DeadJob)
    assert dead.letters == ()
    found = plan_replay(
        dead, state, {"ask": PIPELINE}, gateway.journal.view.recent(), VirtualClock.now(), 100, 70
    )
    assert isinstance(found, ReplayPlan), found
    return found
