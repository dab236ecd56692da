"""The sweep: what nobody will ever end by himself is ended, and an order that was lost comes again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace

from eco2.broker.embedded.queues import Queue
from eco2.broker.topology import Topology
from eco2.consumers.sweep import INTERVAL, LOST_AFTER, OVERDUE, leads, may_lack_order, overdue
from eco2.event import Done, Queued, decode_events
from eco2.job import Priority, new_id
from eco2.journal.journal import Journal
from eco2.journal.presence import Heartbeat, Peer
from eco2.journal.state import JobState
from eco2.pipeline import Pipeline
from eco2.ports import Record, Start
from eco2.service import run
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import at_rest
from tests.support.freeze import FreezableLoop, Freezing
from tests.support.metric_value import metric_value
from tests.support.world import SILENCE, Process, Question, ScriptedModel, World, running, until

SOON = 3 * INTERVAL
"""Seconds within which a sweep that is due has come."""
JOB = JobState(
    "j", "ask", accepted=0.0, max_wait=100.0, timeout=50.0, digest="d", queued_at=0, updated_at=10.0
)
ENDED = replace(JOB, ended_at=5)


def queue(world: World, name: str = "jobs.ask") -> Queue:
    return world.server.queues[world.topology.queue(name)]


def purge(world: World, name: str = "jobs.ask") -> None:
    """As an operator does by mistake."""
    queue(world, name)._ready.clear()


async def announce(gateway: Process, life: float) -> JobState:
    """A job whose order and input never reached the broker."""
    now = VirtualClock.now()
    return await gateway.journal.announce(
        Queued(ts=now, job=new_id(now), pipeline="ask", deadline=now + life, digest="d")
    )


def ends(world: World) -> list[str]:
    """The jobs of all terminal events in the journal, in order."""
    records = world.server.logs[world.topology.stream].after(0)
    events = [event for record in records for event in decode_events(record.body)]
    return [event.job for event in events if isinstance(event, Done)]


def code(state: JobState) -> object:
    assert state.result is not None
    error = state.result["error"]
    return error["code"] if isinstance(error, dict) else None


class Orders:
    """Counts what is published to the queue that goes first."""

    def __init__(self, world: World) -> None:
        self.again: list[float] = []
        first = queue(world, "jobs.ask.first")
        put = first.put

        def counted(message: object) -> None:
            self.again.append(VirtualClock.now())
            put(message)  # type: ignore[arg-type]

        first.put = counted  # type: ignore[method-assign]


def heard(name: str, seconds_ago: float = 1.0, can_sweep: bool = True) -> Peer:
    """Another process at the time 100."""
    heartbeat = Heartbeat(process=name, role="worker", now=0.0, can_sweep=can_sweep)
    return Peer(heartbeat, 100.0 - seconds_ago, ())


@pytest.mark.parametrize(
    ("peers", "is_leader"),
    [
        ([], True),
        ([heard("a")], False),
        ([heard("c"), heard("d")], True),
        ([heard("c"), heard("a")], False),
        ([heard("a", can_sweep=False)], True),
        ([heard("a", can_sweep=False), heard("aa")], False),
        ([heard("a", seconds_ago=4.0)], False),
        ([heard("a", seconds_ago=10.0)], True),
    ],
)
def test_of_those_that_are_heard_and_can_sweep_the_one_with_the_lowest_name_leads(
    peers: list[Peer], is_leader: bool
) -> None:
    assert leads("b", peers, 100.0) is is_leader


def test_a_worker_that_says_nothing_about_the_sweep_is_passed_over() -> None:
    """As one of a version whose leader was chosen by the broker."""
    old = b'{"process":"a","role":"worker","now":1.5,"pipelines":["scan"]}'
    heartbeat = msgspec.json.decode(old, type=Heartbeat)
    assert leads("b", [Peer(heartbeat, 100.0, ())], 100.0)


@pytest.mark.parametrize(
    ("job", "now", "is_overdue"),
    [(JOB, 100.0 + OVERDUE, False), (JOB, 100.1 + OVERDUE, True), (ENDED, 1000.0, False)],
)
def test_a_job_is_overdue_behind_its_deadline_and_the_time_that_its_worker_has(
    job: JobState, now: float, is_overdue: bool
) -> None:
    assert list(overdue([job], lambda one: one.deadline - now)) == [job] * is_overdue


@pytest.mark.parametrize(
    ("job", "now", "empty_since", "is_quiet"),
    [
        (JOB, 10.0 + LOST_AFTER, {("ask", "interactive"): 0.0}, True),
        (JOB, 9.9 + LOST_AFTER, {("ask", "interactive"): 0.0}, False),
        (JOB, 20.0 + LOST_AFTER, {("ask", "interactive"): 20.0}, True),
        (JOB, 19.0 + LOST_AFTER, {("ask", "interactive"): 20.0}, False),
        (JOB, 1000.0, {}, False),
        (JOB, 1000.0, {("other", "interactive"): 0.0}, False),
        (JOB, 1000.0, {("ask", "batch"): 0.0}, False),
        (ENDED, 1000.0, {("ask", "interactive"): 0.0}, False),
    ],
)
def test_a_job_is_quiet_when_nothing_happened_for_long_and_nothing_waits(
    job: JobState, now: float, empty_since: dict[tuple[str, Priority], float], is_quiet: bool
) -> None:
    assert list(may_lack_order([job], now, empty_since)) == [job] * is_quiet


@virtual
async def test_a_job_whose_order_and_input_are_lost_ends_at_its_deadline() -> None:
    world = World()
    async with world.process() as gateway:
        job = await announce(gateway, life=180)
        async with world.process(ScriptedModel()):
            state = await gateway.ended(job.job)
            assert job.deadline + OVERDUE <= VirtualClock.now() <= job.deadline + OVERDUE + SOON
            await asyncio.sleep(60)
    assert (state.status, state.dead, code(state)) == ("failed", False, "EXPIRED")
    assert ends(world) == [job.job]


@virtual
async def test_an_order_that_was_purged_comes_again() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        purge(world)
        async with world.process(model), world.process(model):
            began = VirtualClock.now()
            orders = Orders(world)
            state = await gateway.ended(job)
            assert LOST_AFTER <= orders.again[0] - began <= LOST_AFTER + 2 * SILENCE + SOON
            await at_rest(world)
            await asyncio.sleep(5 * LOST_AFTER)
    assert (state.status, len(orders.again)) == ("completed", 1)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]


@virtual
async def test_an_order_comes_again_although_the_leaders_tail_is_away_now_and_then() -> None:
    def is_current(journal: Journal) -> bool:
        return VirtualClock.now() % 30 > 2 * INTERVAL

    world = World()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        purge(world)
        async with world.process(ScriptedModel()) as worker:
            began = VirtualClock.now()
            worker.journal.__class__ = type("Flapping", (Journal,), {"current": property(is_current)})
            orders = Orders(world)
            assert (await gateway.ended(job)).status == "completed"
    assert orders.again[0] - began <= LOST_AFTER + 2 * SILENCE + 3 * SOON


@asynccontextmanager
async def another_pool(world: World, name: str) -> AsyncIterator[Process]:
    """A worker that knows another pipeline only, and no queue of `ask`."""
    known, world.topology = world.topology, Topology(pipelines=("other",))
    started = world.process(ScriptedModel(), Pipeline("other", Question, (), lambda _: {}), name=name)
    async with started as process:
        world.topology = known
        yield process


@virtual
async def test_a_leader_without_the_pipeline_ends_its_jobs_at_their_deadline() -> None:
    world = World()
    async with world.process() as gateway, another_pool(world, "w"):
        job = await gateway.submit(max_wait=180)
        state = await gateway.ended(job.job)
        assert job.deadline + OVERDUE <= VirtualClock.now() <= job.deadline + OVERDUE + SOON
    assert (state.status, code(state), ends(world)) == ("failed", "EXPIRED", [job.job])


@virtual
async def test_a_leader_without_the_pipeline_publishes_its_lost_orders_again() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit(max_wait=1800)).job
        purge(world)
        async with another_pool(world, "a") as leader:
            orders = Orders(world)
            await until(lambda: bool(orders.again))
            again = 'eco2_jobs_swept_total{pipeline="ask",what="ordered again"}'
            await until(lambda: metric_value(leader.metrics, again) == 1)
            async with world.process(model, name="b") as other:
                assert (await gateway.ended(job)).status == "completed"
                assert metric_value(other.metrics, again) == 0
    assert [kind for kind, _ in model.calls] == ["draft", "final"]


@virtual
async def test_an_order_that_is_lost_after_hours_comes_again() -> None:
    world = World(snapshots=True)
    world.topology = Topology(pipelines=("ask",), inputs_hours=24)
    async with world.process() as gateway:
        job = (await gateway.submit(max_wait=86_400)).job
        for _ in range(200):
            await asyncio.sleep(60)
            await gateway.broker.append_order(b"of another job", new_id(VirtualClock.now()))
        purge(world)
        async with world.process(ScriptedModel()):
            assert (await gateway.ended(job)).status == "completed"


@virtual
async def test_a_job_that_somebody_has_is_not_ordered_again() -> None:
    world, model = World(), ScriptedModel(seconds=55)
    async with world.process() as gateway, world.process(model, concurrency=1):
        orders = Orders(world)
        jobs = [(await gateway.submit(max_wait=800)).job for _ in range(4)]  # they wait for the one slot
        for job in jobs:
            await gateway.ended(job)
    assert orders.again == []


@virtual
async def test_while_an_order_waits_in_a_queue_none_is_lost() -> None:
    world, model = World(), ScriptedModel(seconds=50)
    async with world.process() as gateway, world.process(model, prefetch=1):
        orders = Orders(world)
        jobs = [(await gateway.submit(max_wait=800)).job for _ in range(6)]
        await until(lambda: len(queue(world)) < 6)
        await asyncio.sleep(2 * LOST_AFTER)
        assert len(queue(world)) > 0
        assert orders.again == []
        for job in jobs:
            await gateway.ended(job)
    assert orders.again == []


@virtual
async def test_a_dead_letter_that_the_broker_made_does_not_leave_its_job_without_an_end() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = await gateway.submit()
        orders = queue(world)
        orders.dead_letter(orders._ready.popleft())
        assert len(queue(world, "dead")) == 1
        async with world.process(model):
            state = await gateway.ended(job.job)
    assert state.status == "completed"
    assert VirtualClock.now() < job.deadline
    assert ends(world) == [job.job]


@virtual
async def test_one_of_many_workers_sweeps() -> None:
    world = World()
    async with world.process() as gateway:
        jobs = [(await announce(gateway, life=20)).job for _ in range(5)]
        async with (
            world.process(ScriptedModel()),
            world.process(ScriptedModel()),
            world.process(ScriptedModel()),
        ):
            for job in jobs:
                await gateway.ended(job)
            await asyncio.sleep(60)
    assert sorted(ends(world)) == sorted(jobs)


@virtual
async def test_when_the_one_that_sweeps_vanishes_the_next_goes_on() -> None:
    world = World()

    def hire() -> tuple[Process, asyncio.Task[None]]:
        process, components = world.components(ScriptedModel())
        return process, asyncio.create_task(run(components, process.stop))

    async with world.process() as gateway:
        first, living = hire()
        await first.journal.filled.wait()
        await asyncio.sleep(SOON)
        second, next_living = hire()
        await second.journal.filled.wait()
        job = await announce(gateway, life=30)
        living.cancel()
        await asyncio.wait({living})
        state = await gateway.ended(job.job)
        assert VirtualClock.now() <= job.deadline + OVERDUE + SOON
        second.stop.set()
        await next_living
    assert code(state) == "EXPIRED"


async def fall_behind(process: Process) -> None:
    """From now on its view does not follow the journal."""
    process.journal.__class__ = type("Behind", (Journal,), {"current": False})


async def fall_silent(process: Process) -> None:
    """From now on no other process hears it."""
    process.broker.broadcast = lambda *_: None  # type: ignore[method-assign]


@pytest.mark.parametrize("fail", [fall_behind, fall_silent, Process.leave, Process.kill])
def test_a_leader_that_fails_or_drains_is_passed_over_within_seconds(
    fail: Callable[[Process], Awaitable[None]],
) -> None:
    @virtual
    async def check() -> None:
        world, model = World(), ScriptedModel(seconds=50)
        async with world.process() as gateway:
            leader = await world.start(model)
            await gateway.submit()
            await until(lambda: model.in_flight == 1)  # it drains for as long as this call takes
            successor = await world.start(ScriptedModel())
            await asyncio.sleep(SOON)
            async with asyncio.TaskGroup() as group:
                group.create_task(as_coroutine(fail(leader)))
                await ends_in_time(gateway)
            if not leader.stop.is_set() and leader.task is not None and not leader.task.done():
                await leader.leave()
            await successor.leave()

    check()


async def as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


async def ends_in_time(gateway: Process) -> None:
    job = await announce(gateway, life=1)
    async with asyncio.timeout(13):
        assert code(await gateway.ended(job.job)) == "EXPIRED"


async def _freeze_the_leader() -> None:
    world = Freezing()
    async with world.process() as gateway:
        first, second = await world.start(ScriptedModel()), await world.start(ScriptedModel())
        await asyncio.sleep(SOON)
        freezing = asyncio.ensure_future(world.freeze(first, 40.0))
        await ends_in_time(gateway)
        await freezing
        await ends_in_time(gateway)
        await first.leave()
        await second.leave()


def test_a_leader_that_stands_still_is_passed_over_and_harms_nothing_when_it_goes_on() -> None:
    with asyncio.Runner(loop_factory=FreezableLoop) as runner:
        runner.run(_freeze_the_leader())


@pytest.mark.parametrize("first", [True, False])
def test_a_worker_that_hears_nobody_sweeps_as_well_and_keeps_nobody_from_it(first: bool) -> None:
    @virtual
    async def check() -> None:
        world = World()
        workers = [world.components(ScriptedModel()) for _ in range(2)]
        deaf, _ = workers[0 if first else 1]
        assert deaf.journal.presence is not None
        deaf.journal.presence._on_heartbeat = lambda *_: None  # type: ignore[method-assign]
        async with world.process() as gateway, running(*workers):
            await asyncio.sleep(SOON)
            job = await announce(gateway, life=1)
            state = await gateway.ended(job.job)
            await asyncio.sleep(60)
            assert gateway.journal.view.get(job.job) == state
            assert len(ends(world)) == (1 if first else 2)

    check()


@virtual
async def test_a_sweep_that_fails_by_a_bug_ends_neither_its_worker_nor_later_sweeps() -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel()) as worker:
        depth, asked = worker.broker.depth, list[str]()

        async def fail_once(queue: str) -> int:
            asked.append(queue)
            if len(asked) == 1:
                raise ZeroDivisionError
            return await depth(queue)

        worker.broker.depth = fail_once  # type: ignore[method-assign]
        await until(lambda: "eco2_queue_messages{" in worker.metrics.render().decode())
        assert asked[:2] == ["dead", "dead"]
        assert (await gateway.ended((await gateway.submit()).job)).status == "completed"


@virtual
async def test_the_sweep_goes_on_after_the_broker_was_away() -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel()):
        world.server.block("low on memory")
        await asyncio.sleep(60)
        world.server.unblock()
        world.server.disrupt()
        await until(lambda: gateway.broker.ready)
        job = await announce(gateway, life=20)
        await gateway.ended(job.job)
        assert VirtualClock.now() <= job.deadline + OVERDUE + SOON


@virtual
async def _stop_while_it_looks_for_orders() -> None:
    world, model = World(), ScriptedModel(seconds=55)
    async with world.process() as gateway:
        async with world.process(model) as leaving:
            for _ in range(2):
                await announce(gateway, life=800)
            searches: list[float] = []
            read_orders = leaving.broker.read_orders

            def counted(start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
                searches.append(VirtualClock.now())
                return read_orders(start)

            leaving.broker.read_orders = counted  # type: ignore[method-assign]
            await asyncio.sleep(LOST_AFTER + 10)  # they are asked for, and the search is not begun
            await gateway.submit()  # its call keeps the process alive while it drains
            world.server.logs[world.topology.inputs]._records.clear()
            world.server.logs[world.topology.inputs]._times.clear()
            await until(lambda: bool(searches))
            leaving.stop.set()
        assert VirtualClock.now() - searches[0] > 6  # longer than one search


def test_a_sweep_that_is_under_way_when_its_process_stops_does_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _stop_while_it_looks_for_orders()
    assert "its handler failed" not in caplog.text
