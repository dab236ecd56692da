"""Clocks of other machines: compared, held by the majority, and never a reason to end somebody else's job."""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import pytest

from eco2.event import Done, RunStarted, decode_events
from eco2.gateway.health import readiness, unserved
from eco2.journal.presence import Presence, bounds
from eco2.testing.clock import VirtualClock, virtual
from tests.support.world import KEEP, Process, ScriptedModel, World, monotonic, running, skewed, until

WRONG = 600.0
"""Seconds: ten minutes."""


@pytest.mark.parametrize(
    ("others", "own", "ahead"),
    [
        ([], 600.0, 0.0),
        ([0.0], 600.0, 0.0),
        ([0.0], -1200.0, 0.0),
        ([0.0, 0.1], 600.0, 599.9),
        ([0.0, 0.1], -1200.0, -1200.0),
        ([0.0, 600.0], 0.0, 0.0),
        ([0.0, 600.0], 0.5, 0.0),
        ([0.0, 0.0, 3600.0], 0.0, 0.0),
        ([0.0, 0.0, 0.0], 3600.0, 3600.0),
        ([600.0, 600.0, 0.0], 0.0, 0.0),
        ([0.0, 0.0, -1200.0, 0.0], 600.0, 600.0),
    ],
)
def test_only_a_majority_of_clocks_makes_the_own_one_wrong(
    others: list[float], own: float, ahead: float
) -> None:
    assert bounds(others).ahead(own) == pytest.approx(ahead)


@pytest.mark.parametrize("sick", [math.inf, 1e300, -1e300])
def test_one_absurd_clock_among_three_changes_nothing(sick: float) -> None:
    assert abs(bounds([0.0, sick]).ahead(0.3)) <= 0.3


@asynccontextmanager
async def _heard(world: World, *started: tuple[float, str]) -> AsyncIterator[list[Presence]]:
    presences, parts, stop = list[Presence](), list[Coroutine[None, None, None]](), asyncio.Event()
    for ahead, name in started:
        broker = world.connection()

        def clock(ahead: float = ahead) -> float:
            return VirtualClock.now() + ahead

        presence = Presence(broker, name, "worker", ("ask",), clock=clock, monotonic=monotonic)
        presences.append(presence)
        parts += [broker.run(stop), presence.run(stop)]
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)
        for presence in presences:
            await presence.hello_answered.wait()
        yield presences
        stop.set()


@virtual
async def test_three_processes_agree_on_the_time_at_their_start() -> None:
    async with _heard(World(), (0.0, "a"), (0.0, "b"), (WRONG, "c")) as (right, also, wrong):
        assert wrong.now() == pytest.approx(VirtualClock.now(), abs=0.1)
        assert not wrong.clock_is_usable
        assert wrong.ahead == pytest.approx(WRONG, abs=0.1)
        for healthy in (right, also):
            assert healthy.clock_is_usable
            assert healthy.now() == VirtualClock.now()


@virtual
async def test_a_clock_that_is_close_enough_is_left_alone() -> None:
    async with _heard(World(), (0.0, "a"), (0.0, "b"), (1.8, "c")) as (*_, near):
        assert near.ahead == pytest.approx(1.8, abs=0.1)
        assert near.now() == VirtualClock.now() + 1.8


@virtual
async def test_a_jump_of_the_clock_does_not_show_while_a_majority_agrees() -> None:
    async with _heard(World(), (0.0, "a"), (0.0, "b"), (0.0, "c")) as (*_, jumping):
        jumping._clock = lambda: VirtualClock.now() + WRONG
        assert jumping.now() == pytest.approx(VirtualClock.now(), abs=0.1)


@virtual
async def test_two_processes_that_disagree_keep_their_clocks_and_stay_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _heard(World(), (0.0, "a"), (WRONG, "b")) as (right, wrong):
        await asyncio.sleep(5)
        assert right.clock_is_usable
        assert wrong.clock_is_usable
        assert wrong.now() == VirtualClock.now() + WRONG
        assert wrong.earliest() == pytest.approx(VirtualClock.now(), abs=0.1)


@virtual
async def test_a_process_that_falls_silent_is_forgotten_with_its_clock_and_its_pipelines() -> None:
    world = World()
    async with _heard(world, (0.0, "a"), (0.0, "b"), (0.0, "c")) as (listener, _, leaving):
        await asyncio.sleep(1)
        assert listener.workers() == {"ask": 3}
        leaving._send(leaving=True)
        await asyncio.sleep(0.1)
        assert listener.workers() == {"ask": 2}
        assert [peer.heartbeat.process for peer in listener.peers] == ["b"]


def _ends(world: World) -> list[Done]:
    records = world.server.logs[world.topology.stream].after(0)
    return [event for record in records for event in decode_events(record.body) if isinstance(event, Done)]


def _runs(world: World) -> list[RunStarted]:
    records = world.server.logs[world.topology.stream].after(0)
    return [
        event for record in records for event in decode_events(record.body) if isinstance(event, RunStarted)
    ]


async def _nine_jobs(world: World, gateway: Process) -> list[Done]:
    jobs = [(await gateway.submit(str(number))).job for number in range(9)]
    for job in jobs:
        await gateway.ended(job)
    await asyncio.sleep(30)
    return _ends(world)


@pytest.mark.parametrize("ahead", [WRONG, 3600.0, -1200.0, -WRONG])
@pytest.mark.parametrize("first", [True, False])
def test_one_worker_of_three_with_a_wrong_clock_harms_no_job(ahead: float, first: bool) -> None:
    """The first worker is the one that the broker makes the leader of the sweep."""

    @virtual
    async def check() -> None:
        world, model = World(), ScriptedModel(seconds=20)
        wrong = skewed(world, ahead, "wrong", model)
        right = [skewed(world, 0.0, name, model) for name in "ab"]
        workers = [wrong, *right] if first else [*right, wrong]
        async with running(skewed(world, 0.0, "gateway"), *workers) as (gateway, *_):
            await asyncio.sleep(15)
            ends = await _nine_jobs(world, gateway)
        assert [end.status for end in ends] == ["completed"] * 9
        assert len(_runs(world)) == 9
        assert all(abs(end.ts - VirtualClock.now()) < 120 for end in ends)

    check()


@pytest.mark.parametrize("ahead", [-1200.0, 1200.0])
@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_of_a_gateway_with_a_wrong_clock_live_as_long_as_all_others(ahead: float, workers: int) -> None:
    @virtual
    async def check() -> None:
        world, model = World(), ScriptedModel(seconds=20)
        started = [skewed(world, 0.0, str(number), model) for number in range(workers)]
        async with running(skewed(world, ahead, "gateway"), *started) as (gateway, *_):
            ends = await _nine_jobs(world, gateway)
        assert [end.status for end in ends] == ["completed"] * 9

    check()


@virtual
async def test_a_worker_that_starts_with_a_wrong_clock_leaves_the_jobs_of_others_alone() -> None:
    world, model = World(), ScriptedModel(seconds=50)
    async with running(skewed(world, 0.0, "gateway"), skewed(world, 0.0, "a", model)) as (gateway, _):
        jobs = [(await gateway.submit(str(number))).job for number in range(5)]
        await until(lambda: model.in_flight == 5)
        async with running(skewed(world, WRONG, "wrong", model)):
            for job in jobs:
                await gateway.ended(job)
    assert [end.status for end in _ends(world)] == ["completed"] * 5


@virtual
async def test_the_only_worker_restarts_with_a_wrong_clock_and_ends_nothing_early() -> None:
    world, model = World(), ScriptedModel(seconds=20)
    async with running(skewed(world, 0.0, "gateway")) as (gateway,):
        jobs = [(await gateway.submit(str(number))).job for number in range(3)]
        async with running(skewed(world, WRONG, "wrong", model)):
            for job in jobs:
                await gateway.ended(job)
    assert [end.status for end in _ends(world)] == ["completed"] * 3


@pytest.mark.parametrize("ahead", [0.0, WRONG])
def test_a_job_without_any_worker_ends_at_its_deadline(ahead: float) -> None:
    @virtual
    async def check() -> None:
        world = World()
        gateways = [skewed(world, 0.0, "gateway"), skewed(world, ahead, "other")]
        async with running(*gateways) as (gateway, _):
            accepted = VirtualClock.now()
            job = await gateway.submit(max_wait=30)
            state = await gateway.ended(job.job)
            assert 30 < VirtualClock.now() - accepted < 40
            assert state.result is not None
            assert state.result["error"]["code"] == "EXPIRED"  # type: ignore[index]
            await asyncio.sleep(60)
            assert len(_ends(world)) <= 2  # one of each gateway at the most, and never again
            model = ScriptedModel()
            async with running(skewed(world, 0.0, "late", model)):
                await asyncio.sleep(60)
            assert model.calls == []
            assert (
                world.server.queues[world.topology.queue("jobs.ask")]._ready
                == type(world.server.queues[world.topology.queue("jobs.ask")]._ready)()
            )

    check()


@virtual
async def test_a_pipeline_without_a_worker_is_named_by_the_probes() -> None:
    world = World()
    async with running(skewed(world, 0.0, "gateway")) as (gateway,):
        assert unserved(gateway.journal, ["ask"]) == []  # too early to know
        await asyncio.sleep(15)
        (said,) = unserved(gateway.journal, ["ask"])
        assert "no worker serves the pipeline ask" in said
        async with running(skewed(world, 0.0, "worker", ScriptedModel())):
            assert unserved(gateway.journal, ["ask"]) == []
            assert unserved(gateway.journal, ["ask", "other"])
        assert unserved(gateway.journal, ["ask"]) == [said]


@virtual
async def test_a_clock_that_most_others_contradict_is_a_reason_not_to_be_ready() -> None:
    world, model = World(), ScriptedModel()
    started = [skewed(world, 0.0, "gateway"), skewed(world, 0.0, "a", model), skewed(world, 11.0, "b", model)]
    async with running(*started) as processes:
        await asyncio.sleep(5)
        failing = [
            [
                reason
                for reason, holds in readiness(one.broker, one.journal, asyncio.Event()).items()
                if not holds()
            ]
            for one in processes
        ]
    assert failing[:2] == [[], []]
    assert ["clock" in reason for reason in failing[2]] == [True]


@virtual
async def test_a_process_alone_whose_clock_is_ahead_of_the_brokers_by_more_than_the_view_starts() -> None:
    world = World()
    async with running(skewed(world, 0.0, "before")) as (gateway,):
        job = await gateway.submit()
    async with running(skewed(world, 2 * KEEP, "ahead", ScriptedModel())) as (worker,):
        assert worker.journal.view.offset >= job.queued_at
