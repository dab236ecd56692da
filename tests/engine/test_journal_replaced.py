"""A journal that was deleted, wiped or cut short, and a tail that falls silent: noticed, and read anew."""

import asyncio
from contextlib import AsyncExitStack
from decimal import Decimal

import pytest

from eco2.broker.embedded.stream import Log, Tail
from eco2.errors import BrokerUnavailable
from eco2.event import StepCompleted, decode_events
from eco2.gateway.health import readiness
from eco2.journal.spending import day_of
from eco2.pacer import Limits
from eco2.ports import FromStart, GrantRequest, Record
from eco2.testing.clock import VirtualClock, virtual
from tests.support.world import KEEP, Process, Remote, ScriptedModel, World, order, until


def log(world: World) -> Log:
    return world.server.logs[world.topology.stream]


def ready(process: Process) -> bool:
    return all(holds() for holds in readiness(process.broker, process.journal, process.stop).values())


async def noticed(*processes: Process) -> None:
    await until(lambda: all(each.journal.view.resets == 1 and ready(each) for each in processes))


@virtual
async def test_a_wiped_broker_is_noticed_and_every_process_serves_again() -> None:
    world = World()
    async with world.process() as one, world.process() as other, world.process(ScriptedModel()) as worker:
        old = [(await one.submit(str(n))).job for n in range(20)]
        for job in old:
            await one.ended(job)
        world.server.wipe()
        await noticed(one, other, worker)
        for each in (one, other, worker):
            assert [await each.journal.find(job) for job in old] == [None] * len(old)
        job = (await one.submit("again")).job
        states = [await each.ended(job) for each in (one, other)]
        assert [state.status for state in states] == ["completed", "completed"]
        assert states[0] == states[1]


@virtual
async def test_until_the_new_journal_is_read_a_process_is_not_ready() -> None:
    world = World()
    async with world.process() as gateway:
        for n in range(20):
            await gateway.submit(str(n))
        world.server.wipe()
        await until(lambda: gateway.broker.links[0].reconnects == 1)
        while gateway.journal.view.resets == 0:
            assert not ready(gateway)
            await asyncio.sleep(0.01)
        await noticed(gateway)


@virtual
async def test_a_journal_that_has_outgrown_the_old_one_is_not_taken_for_it() -> None:
    """The offset at which the tail stands exists again when it comes back."""
    world = World()
    async with world.process() as gateway:
        job = (await gateway.submit("old")).job
        world.server.delete(world.topology.stream)
        world.server.declare(world.topology)
        for n in range(500):
            log(world).append(b'{"v":1,"events":[{"type":"marker","ts":1.0,"id":"%d"}]}' % n)
        await noticed(gateway)
        assert gateway.journal.view.get(job) is None
        assert gateway.journal.view.offset >= 500


@virtual
async def test_who_waits_for_the_old_journal_is_told_and_does_not_hang() -> None:
    world = World()
    async with world.process() as gateway:
        state = await gateway.submit()
        await asyncio.sleep(1)
        log(world).append = lambda body: None  # type: ignore[method-assign]  # what is confirmed is lost
        waiting = [
            asyncio.ensure_future(gateway.journal.barrier()),
            asyncio.ensure_future(gateway.journal.view.change(state.job, state)),
            asyncio.ensure_future(gateway.submit("new")),
        ]
        await asyncio.sleep(1)
        world.server.wipe()
        async with asyncio.timeout(60):
            await asyncio.wait(waiting)
        for each in waiting:
            assert isinstance(each.exception(), BrokerUnavailable)


@virtual
async def test_calls_that_wait_for_the_budget_go_on_in_the_new_journal() -> None:
    world, model = World(), ScriptedModel()
    remotes = [Remote("p", model, Limits(requests=60.0))]
    async with world.process() as gateway, world.process(remotes=remotes) as worker:
        for n in range(20):
            await gateway.submit(str(n))
        quota = worker.members["p"]
        waiting = [
            asyncio.create_task(quota.acquire(GrantRequest(f"job {n}", "run", n, False, "answer", 1.0)))
            for n in range(5)
        ]
        await until(lambda: worker.members["p"].budget.leading)
        world.server.wipe()
        await noticed(gateway, worker)
        for grant in await asyncio.wait_for(asyncio.gather(*waiting), 60):
            grant.release()


@virtual
async def test_a_run_in_flight_ends_with_its_journal_and_its_worker_goes_on() -> None:
    world, model = World(), ScriptedModel(seconds=100)
    async with world.process() as gateway, world.process(model) as worker:
        old = (await gateway.submit("old")).job
        await until(lambda: model.in_flight == 1)
        world.server.wipe()
        await noticed(gateway, worker)
        await until(lambda: model.in_flight == 0)
        model.seconds = 1
        state = await gateway.ended((await gateway.submit("new")).job)
        assert state.status == "completed"
        assert await gateway.journal.find(old) is None


@virtual
async def test_orders_that_outlive_the_journal_are_dead_letters() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit("old")).job
        world.server.delete(world.topology.stream)
        await noticed(gateway)
        async with world.process(model):
            dead = world.server.queues[world.topology.queue("dead")]
            await until(lambda: len(dead) == 1)
            assert dead._ready[0].id == job
    assert model.calls == []


@virtual
async def test_what_was_paid_today_is_still_known_in_the_next_journal() -> None:
    world, model = World(spending=True, snapshots=True), ScriptedModel(cost=Decimal("0.25"))
    async with world.process() as gateway, world.process(model) as worker:
        await gateway.ended((await gateway.submit("one")).job)
        world.server.wipe()
        await noticed(gateway, worker)
        await gateway.ended((await gateway.submit("two")).job)
        await asyncio.sleep(200)  # a snapshot has the sum
        await gateway.journal.barrier()
        day = day_of(VirtualClock.now())
        totals = {each.journal.view.spending.total(day) for each in (gateway, worker)}
        assert totals == {Decimal("1.00")}
        async with world.process() as newcomer:
            assert newcomer.journal.view.spending.total(day) == Decimal("1.00")


def silence(world: World) -> None:
    """Every tail that is attached now shows nothing any more; new ones work."""
    for watcher in list(log(world)._watchers):
        if isinstance(tail := getattr(watcher, "__self__", None), Tail):
            tail._silent = True


@virtual
async def test_a_tail_that_falls_silent_is_attached_again_without_loss_or_repetition() -> None:
    world = World()
    async with world.process() as gateway, world.process() as other:
        shown: list[int] = []
        apply = gateway.journal.view.apply

        def noted(record: Record) -> None:
            shown.append(record.offset)
            apply(record)

        gateway.journal.view.apply = noted  # type: ignore[method-assign]
        await gateway.submit("before")
        silence(world)
        job = order("01900000-0000-7000-8000-000000000001", "x", VirtualClock.now())
        gateway.journal.put(StepCompleted(ts=1.0, job=job.id, run="r", stage="s", key="k", value={}))
        await until(lambda: not ready(gateway))
        assert gateway.journal.status().behind > 5
        await until(lambda: ready(gateway) and ready(other))
        await gateway.journal.barrier()
        assert shown == sorted(set(shown))
        records = [record.offset for record in everything(world)]
        assert shown == records[records.index(shown[0]) :]
        assert gateway.journal.status().behind == 0
        assert gateway.journal.view.resets == 0


def everything(world: World) -> list[Record]:
    records: list[Record] = []
    while batch := log(world).after(records[-1].offset + 1 if records else 0):
        records += batch
    return records


@virtual
async def test_a_tail_that_falls_silent_in_a_quiet_installation_is_found_by_a_marker() -> None:
    world = World()
    async with world.process() as gateway, world.process() as other:
        silence(world)
        state = await asyncio.wait_for(asyncio.shield(other.submit("x")), 120)
        found = await asyncio.wait_for(gateway.journal.view.change(state.job, None), 120)
        assert found.job == state.job


@virtual
async def test_an_idle_installation_writes_little() -> None:
    world = World()
    async with AsyncExitStack() as processes:
        for _ in range(3):
            await processes.enter_async_context(world.process())
            await asyncio.sleep(0.3)  # no two look at the same moment, as they would in virtual time alone
        before = len(log(world))
        await asyncio.sleep(3600)
        assert 200 <= len(log(world)) - before <= 500


@virtual
async def test_a_confirm_that_stays_away_costs_a_connection_and_nothing_else() -> None:
    world = World()
    async with world.process() as gateway:
        channel = gateway.broker._channel  # type: ignore[attr-defined]
        gateway.broker._publisher.withhold(channel)  # type: ignore[attr-defined]
        state = await asyncio.wait_for(gateway.submit("x"), 60)
        assert gateway.broker.links[0].reconnects == 1
        assert gateway.journal.view.get(state.job) == state


@virtual
async def test_the_sweep_does_nothing_while_its_own_tail_is_behind() -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel()) as worker:
        state = await gateway.submit("x")
        done = await gateway.ended(state.job)
        # The worker's view lacks the end: as with a tail that fell silent before it.
        view = worker.journal.view
        await until(lambda: (seen := view.get(state.job)) is not None and seen.ended)
        view._jobs[state.job] = state
        silence(world)
        before = ends(world, state.job)
        await asyncio.sleep(KEEP / 2)
        assert ends(world, state.job) <= before + 1
        assert done.ended


def ends(world: World, job: str) -> int:
    events = [event for record in everything(world) for event in decode_events(record.body)]
    return sum(getattr(event, "job", "") == job and type(event).__name__ == "Done" for event in events)


@pytest.mark.parametrize("name", ["jobs.ask", "dead", "inputs", "jobs.ask.wait-5s"])
@virtual
async def test_a_queue_that_was_deleted_is_made_again(name: str) -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel()):
        await gateway.ended((await gateway.submit("before")).job)
        world.server.delete(world.topology.queue(name))
        await asyncio.sleep(1)
        assert (await gateway.ended((await gateway.submit("after")).job)).status == "completed"
        assert gateway.journal.view.resets == 0


@virtual
async def test_a_new_tail_is_not_confused_by_a_stream_without_records() -> None:
    world = World()
    seen: list[Record] = []
    async with world.process() as gateway:
        gateway.broker.tail(FromStart(), seen.append)
        await until(lambda: bool(seen))
