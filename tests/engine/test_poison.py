"""A job that takes its process down with it: it is found out and ended, and its neighbours lose nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eco2.consumers.executor import MAX_RETURNS
from eco2.consumers.quarantine import MAX_SOLO_CRASHES, SUSPECT_AFTER
from eco2.journal.state import JobState
from eco2.service import run
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import at_rest
from tests.support.world import LIFE, Process, ScriptedModel, World, until


class Orchestrator:
    """Keeps so many workers alive: one that crashed is started again a second later.

    `poison`: the job whose calls crash the worker that makes them. `crashes`: how many there were.
    """

    def __init__(self, world: World, kind: str = "draft", seconds: float = 1.0) -> None:
        self.model = ScriptedModel(seconds=seconds)
        self.poison = ""
        self.crashes = 0
        self._world = world
        self._kind = kind
        self._workers: list[Process] = []
        self._stopping = False

    @asynccontextmanager
    async def running(self, workers: int) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._keep_alive(f"w{number}"))
            try:
                yield
            finally:
                self._stopping = True
                for process in self._workers:
                    process.stop.set()

    async def _keep_alive(self, name: str) -> None:
        while not self._stopping:
            model = ScriptedModel(seconds=self.model.seconds)
            model.calls = self.model.calls
            process, components = self._world.components(model, name=name)
            living = asyncio.get_running_loop().create_task(run(components, process.stop))

            def script(
                kind: str, job: str, process: Process = process, life: asyncio.Task[None] = living
            ) -> None:
                if job == self.poison and kind == self._kind:
                    self.crashes += 1
                    process.broker._disconnect()  # type: ignore[attr-defined]
                    life.cancel()

            model.script = script
            self._workers.append(process)
            await asyncio.wait({living})
            self._workers.remove(process)
            if not self._stopping:
                await asyncio.sleep(1)


def code(state: JobState) -> object:
    assert state.result is not None
    error = state.result["error"]
    return error["code"] if isinstance(error, dict) else None


@pytest.mark.parametrize("kind", ["draft", "final"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_that_crashes_its_process_every_time_is_ended_and_its_neighbours_complete(
    workers: int, kind: str
) -> None:
    @virtual
    async def scenario() -> None:
        world = World()
        fleet = Orchestrator(world, kind)
        async with world.process() as gateway, fleet.running(workers):
            jobs = [(await gateway.submit(str(number))).job for number in range(12)]
            fleet.poison = jobs[4]
            ends = {job: await gateway.ended(job) for job in jobs}
            await until(lambda: len(world.server.queues[world.topology.queue("dead")]) == 1)
        poison = ends.pop(fleet.poison)
        assert (poison.status, poison.dead, code(poison)) == ("failed", True, "POISON")
        assert "crashed" in poison.cause  # for operators
        assert [word for word in ("worker", "crash", "log") if word in str(poison.result)] == []
        assert fleet.crashes == SUSPECT_AFTER + MAX_SOLO_CRASHES
        assert {state.status for state in ends.values()} == {"completed"}
        paid = Counter(fleet.model.calls)
        for job in ends:
            assert paid["draft", job] + paid["final", job] <= 2 + fleet.crashes

    scenario()


@virtual
async def test_a_job_that_crashed_others_by_chance_is_cleared_by_running_alone() -> None:
    world = World()
    fleet = Orchestrator(world)
    async with world.process() as gateway, fleet.running(1):
        unlucky = (await gateway.submit("unlucky")).job
        fleet.poison = unlucky
        await until(lambda: fleet.crashes == SUSPECT_AFTER)
        fleet.poison = ""
        state = await gateway.ended(unlucky)
        await at_rest(world)
    assert (state.status, state.attempt, state.exclusive) == ("completed", SUSPECT_AFTER + 1, True)


@virtual
async def test_an_order_that_came_back_too_often_is_ended_before_the_broker_drops_it() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        jobs = [(await gateway.submit()).job for _ in range(2)]
        queue = world.server.queues[world.topology.queue("jobs.ask")]
        for message, returns in zip(queue._ready, (MAX_RETURNS - 1, MAX_RETURNS), strict=True):
            message.returns = returns
        async with world.process(model):
            ends = [await gateway.ended(job) for job in jobs]
            await until(lambda: len(world.server.queues[world.topology.queue("dead")]) == 1)
    assert [(state.status, state.dead) for state in ends] == [("completed", False), ("failed", True)]
    assert code(ends[1]) == "POISON"
    assert str(MAX_RETURNS) in ends[1].cause  # for operators
    assert "log" not in str(ends[1].result)
    assert {job for _, job in model.calls} == {jobs[0]}
    assert VirtualClock.now() < ends[0].accepted + LIFE
