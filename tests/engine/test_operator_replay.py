"""A replay and its neighbours against the engine, in virtual time, also when the command dies midway."""

import asyncio

import pytest
from msgspec.structs import replace

from eco2.consumers.liveness import query_holder
from eco2.errors import BrokerUnavailable, InputRefused, PermanentError
from eco2.event import Marker, Paused, Queued, Resumed
from eco2.job import new_id
from eco2.journal.state import JobState
from eco2.operator import actions
from eco2.operator.actions import reissue, replay, stored_job, wait_for_capacity
from eco2.operator.dead_jobs import DeadJob, by_job
from eco2.operator.replay_plan import NotReplayable, ReplayPlan, plan_replay
from eco2.ports import DEAD, Delivery, retry_queue
from eco2.testing.clock import VirtualClock, virtual
from tests.support.dead_letters import LIFE, FakeLetter
from tests.support.engine_fixtures import Held, rival
from tests.support.world import PIPELINE, Process, ScriptedModel, World, until

ALL = [0, 10, 11, 20, 21, 31]


class Bug:
    """Breaks every answer to `final` until it is mended."""

    mended = False

    def __call__(self, kind: str, job: str) -> None:
        if kind == "final" and not self.mended:
            raise LookupError("a bug that a test put here")


async def buried(process: Process) -> tuple[JobState, DeadJob, FakeLetter]:
    """A job that failed by the bug, and its dead letter in our hands."""
    state = await process.ended((await process.submit()).job)
    came: list[Delivery] = []
    subscription = process.broker.consume(DEAD, 1, came.append)
    await until(lambda: bool(came))
    await came[0].ack()
    await subscription.cancel()
    letter = FakeLetter(came[0].body, came[0].message_id)
    (dead,) = by_job([letter])
    return state, dead, letter


def planned(process: Process, dead: DeadJob, state: JobState) -> ReplayPlan:
    found = plan_replay(
        dead, state, {"ask": PIPELINE}, process.journal.view.recent(), VirtualClock.now(), LIFE, LIFE
    )
    assert isinstance(found, ReplayPlan), found
    return found


class Dying:
    """A broker whose publish never comes back; what it stores it stores."""

    blocked = None

    def __init__(self, process: Process) -> None:
        self.append_order = process.broker.append_order
        self.read_orders = process.broker.read_orders
        self.consume = process.broker.consume
        self.depth = process.broker.depth

    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        raise asyncio.CancelledError


@virtual
async def test_a_replay_runs_only_the_stages_that_are_left_and_its_client_sees_all() -> None:
    bug = Bug()
    model = ScriptedModel(script=bug)
    async with World().process(model) as process:
        old, dead, letter = await buried(process)
        bug.mended = True
        model.calls.clear()
        new = await replay(planned(process, dead, old), process.broker, process.journal)
        assert letter.dropped == [True]
        state = await process.ended(new)
        assert process.journal.view.get(old.job) == old
    assert [shown.seq for shown in state.visible_events] == ALL
    assert state.visible_events[2].result == {"text": "draft(q)"}
    assert (state.status, state.resumes) == ("completed", old.job)
    assert model.calls == [("final", new)]


@virtual
async def test_of_a_replay_that_died_behind_queued_the_sweep_takes_care_and_the_letter_stays() -> None:
    bug = Bug()
    model = ScriptedModel(script=bug)
    async with World().process(model) as process:
        old, dead, letter = await buried(process)
        bug.mended = True
        model.calls.clear()
        half = planned(process, dead, old)
        with pytest.raises(asyncio.CancelledError):
            await replay(half, Dying(process), process.journal)
        state = await process.ended(half.job.id)
        assert letter.dropped == []
        again = planned(process, dead, old)
        assert (again.job.id, again.ended) == (half.job.id, True)
        await replay(again, process.broker, process.journal)
    assert letter.dropped == [True]
    assert [shown.seq for shown in state.visible_events] == ALL
    assert model.calls == [("final", half.job.id)]


@virtual
async def test_a_replay_again_carries_on_the_one_that_died_at_once_and_pays_once() -> None:
    bug = Bug()
    model = ScriptedModel(script=bug)
    async with World().process(model) as process:
        old, dead, letter = await buried(process)
        bug.mended = True
        model.calls.clear()
        half = planned(process, dead, old)
        with pytest.raises(asyncio.CancelledError):
            await replay(half, Dying(process), process.journal)
        began = VirtualClock.now()
        assert await replay(planned(process, dead, old), process.broker, process.journal) == half.job.id
        state = await process.ended(half.job.id)
        assert VirtualClock.now() - began < 10
    assert letter.dropped == [True]
    assert state.status == "completed"
    assert model.calls == [("final", half.job.id)]


@virtual
async def test_a_replay_that_the_journal_does_not_confirm_says_so_and_leaves_the_letter() -> None:
    bug = Bug()
    async with World().process(ScriptedModel(script=bug)) as process:
        old, dead, letter = await buried(process)
        held = Held(process)
        began = VirtualClock.now()
        with pytest.raises(BrokerUnavailable, match="run the command again"):
            await replay(planned(process, dead, old), process.broker, process.journal)
        assert VirtualClock.now() - began == pytest.approx(20.0, abs=1)
        held.release()
    assert letter.dropped == []


@virtual
async def test_a_broker_that_takes_nothing_is_asked_for_nothing() -> None:
    bug = Bug()
    async with World().process(ScriptedModel(script=bug)) as process:
        old, dead, letter = await buried(process)
        blocked = Dying(process)
        blocked.blocked = "memory alarm"  # type: ignore[assignment]
        with pytest.raises(BrokerUnavailable, match="memory alarm"):
            await replay(planned(process, dead, old), blocked, process.journal)
        assert len(process.journal.view.recent()) == 1
    assert letter.dropped == []


@virtual
async def test_a_replay_waits_while_too_many_are_unfinished() -> None:
    async with World().process(ScriptedModel(seconds=10), concurrency=1) as process:
        begun = [(await process.submit(str(number))).job for number in range(2)]
        began = VirtualClock.now()
        await wait_for_capacity(process.journal, begun, limit=3)
        assert VirtualClock.now() == began
        await wait_for_capacity(process.journal, begun, limit=2)
        states = [process.journal.view.get(job) for job in begun]
        assert [state.ended for state in states if state].count(True) == 1
        await wait_for_capacity(process.journal, begun, limit=1)
        assert all(state.ended for job in begun if (state := process.journal.view.get(job)))


# --- who has a job


@virtual
async def test_the_run_that_is_at_work_answers_and_nobody_answers_for_a_job_that_nobody_has() -> None:
    world = World()
    async with world.process() as operator, world.process(ScriptedModel(seconds=30)) as process:
        job = (await process.submit()).job
        await until(lambda: bool((state := operator.journal.view.get(job)) and state.run))
        state = operator.journal.view.get(job)
        assert state is not None
        assert await query_holder(operator.broker, job, 2.0) == state.run
        began = VirtualClock.now()
        assert await query_holder(operator.broker, "unknown", 2.0) is None
        assert VirtualClock.now() - began == pytest.approx(2.0, abs=0.1)


@virtual
async def test_who_only_keeps_an_order_is_not_taken_for_the_one_at_work() -> None:
    world = World()
    async with world.process() as operator, world.process() as parked:
        with rival(parked, "job", run=""):
            began = VirtualClock.now()
            assert await query_holder(operator.broker, "job", 2.0) == ""
            assert VirtualClock.now() - began == pytest.approx(2.0, abs=0.1)


# --- orders again, and the intake


@virtual
async def test_an_order_is_issued_again_only_for_a_job_that_has_not_ended() -> None:
    world = World()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        lost: list[Delivery] = []
        subscription = gateway.broker.consume("jobs.ask", 1, lost.append)
        await until(lambda: bool(lost))
        await lost[0].ack()
        await subscription.cancel()
        waiting = gateway.journal.view.get(job)
        assert waiting is not None
        await reissue(waiting, gateway.broker)
        model = ScriptedModel()
        async with world.process(model) as process:
            ended = await process.ended(job)
        assert model.calls == [("draft", job), ("final", job)]
        with pytest.raises(PermanentError, match="has ended as completed; the client may"):
            await reissue(ended, gateway.broker)


@virtual
async def test_of_a_failed_job_without_a_letter_the_order_is_found_or_it_is_said_why_not() -> None:
    world = World()
    async with world.process(ScriptedModel(script=refuse)) as process:
        state = await process.ended((await process.submit()).job)
        assert (state.status, state.dead) == ("failed", False)
        found = await stored_job(state.job, state, process.broker, 1)
        assert isinstance(found, DeadJob)
        assert found.order is not None
        assert (found.order.id, found.letters) == (state.job, ())
        assert "does not have it" in await why_not(process, None)
        assert "letter was dropped" in await why_not(process, replace(state, dead=True))
        assert "ended as completed" in await why_not(process, replace(state, status="completed"))
        world.server.logs[world.topology.inputs]._records.clear()
        assert "orders are kept for 1 h" in await why_not(process, state)


def refuse(kind: str, job: str) -> None:
    raise InputRefused("the model refuses")


async def why_not(process: Process, state: JobState | None) -> str:
    found = await stored_job("job" if state is None else state.job, state, process.broker, 1)
    assert isinstance(found, NotReplayable)
    return found.reason


@virtual
async def test_an_order_that_the_store_does_not_have_is_not_made_up() -> None:
    async with World().process() as gateway:
        now = VirtualClock.now()
        queued = Queued(ts=now, job=new_id(now), pipeline="ask", deadline=now + LIFE, digest="d")
        state = await gateway.journal.announce(queued)
        with pytest.raises(PermanentError, match="the order store does not have"):
            await reissue(state, gateway.broker)
        assert await gateway.broker.depth(retry_queue("ask")) == 0


async def pause(process: Process, reason: str) -> Paused | None:
    return await actions.set_intake(process.journal, Paused(ts=VirtualClock.now(), reason=reason))


async def resume(process: Process) -> Paused | None:
    return await actions.set_intake(process.journal, Resumed(ts=VirtualClock.now()))


def reason(event: Paused | None) -> str | None:
    return None if event is None else event.reason


@virtual
async def test_a_pause_is_in_the_journal_when_it_returns_and_tells_what_was_before() -> None:
    world = World()
    async with world.process() as operator, world.process() as other:
        assert reason(await pause(operator, "first")) is None
        assert reason(operator.journal.view.paused) == "first"
        await other.journal.barrier()
        assert reason(other.journal.view.paused) == "first"
        assert reason(await pause(operator, "second")) == "first"
        assert reason(await resume(operator)) == "second"
        assert reason(operator.journal.view.paused) is None
        assert reason(await resume(operator)) is None


@virtual
async def test_a_pause_returns_only_when_the_own_tail_has_shown_it() -> None:
    world = World()
    async with world.process() as operator:
        log = world.server.logs[world.topology.stream]
        watchers, log._watchers = log._watchers, {}
        pausing = asyncio.ensure_future(pause(operator, "later"))
        await asyncio.sleep(1)
        assert not pausing.done()
        log._watchers |= watchers
        await operator.journal.put(Marker(ts=0.0, id="wakes the tail"))
        await pausing
        assert reason(operator.journal.view.paused) == "later"
