"""Workers that drain and vanish at random, on a kind and on an unkind broker: accepted is kept.

Virtual time; every run can be repeated by its seed. Clients at two gateways must see the same.
"""

import asyncio
import random
from collections import defaultdict
from dataclasses import replace
from functools import partial

import pytest

from eco2.broker.embedded import CALM, Chaos
from eco2.journal.state import EventId, JobState
from eco2.testing.clock import virtual
from tests.support.world import Process, ScriptedModel, World

JOBS = 40
SEEN = [0, 10, 11, 20, 21, 31]
HARSH = Chaos(
    seed=0,
    late_confirm=0.3,
    lost_confirm=0.1,
    ghost=0.1,
    lost_publish=0.05,
    cut=0.02,
    lost_ack=0.05,
    redeliver=0.1,
    gap=0.3,
    lag=0.3,
    delay=0.3,
)


class Witness:
    """What the clients of one gateway were shown, in order."""

    def __init__(self, gateway: Process) -> None:
        self.seqs: dict[str, list[int]] = defaultdict(list)
        self._ids: dict[str, set[EventId]] = defaultdict(set)
        gateway.journal.view.observe(self._changed)

    def _changed(self, state: JobState) -> None:
        for shown in state.visible_events:
            if shown.id not in self._ids[state.job]:
                self._ids[state.job].add(shown.id)
                self.seqs[state.job].append(shown.seq)


class Fleet:
    """Workers that come and go."""

    def __init__(self, world: World, model: ScriptedModel, dice: random.Random, vanish: bool) -> None:
        self._world = world
        self._model = model
        self._dice = dice
        self._vanish = vanish
        self._workers: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self._leaving: list[asyncio.Task[None]] = []

    def hire(self) -> None:
        leave = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._work(leave))
        self._workers.append((task, leave))

    async def _work(self, leave: asyncio.Event) -> None:
        async with self._world.process(self._model, prefetch=6, concurrency=4) as process:
            await leave.wait()
            process.stop.set()

    async def churn(self, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(self._dice.random())
            if len(self._workers) > 1 and self._dice.random() < 0.6:
                task, leave = self._workers.pop(self._dice.randrange(len(self._workers)))
                self._leaving.append(task)
                if self._vanish and self._dice.random() < 0.5:
                    task.cancel()
                else:
                    leave.set()
            if len(self._workers) < 4:
                self.hire()

    async def dismiss(self) -> None:
        for _, leave in self._workers:
            leave.set()
        done = await asyncio.gather(
            *self._leaving, *(task for task, _ in self._workers), return_exceptions=True
        )
        assert [end for end in done if isinstance(end, Exception)] == []


async def scenario(chaos: Chaos, vanish: bool, seed: int) -> None:
    dice, model = random.Random(seed), ScriptedModel(seconds=0.5)
    world = World(chaos if chaos is CALM else replace(chaos, seed=seed))
    async with world.process() as one, world.process() as other:
        witnesses = [Witness(one), Witness(other)]
        fleet = Fleet(world, model, dice, vanish)
        for _ in range(3):
            fleet.hire()
        churning = asyncio.get_running_loop().create_task(fleet.churn(30))
        jobs = []
        for number in range(JOBS):
            await asyncio.sleep(dice.random() * 0.3)
            jobs.append((await dice.choice((one, other)).submit(str(number))).job)
        await churning
        ends = [await one.ended(job) for job in jobs]
        await one.journal.barrier()
        await other.journal.barrier()
        assert [other.journal.view.get(job) for job in jobs] == ends
        await fleet.dismiss()
    for state in ends:
        for witness in witnesses:
            seqs = witness.seqs[state.job]
            assert (
                seqs == SEEN if state.status == "completed" else seqs == sorted(set(seqs)) and seqs[-1] == 31
            )
    if chaos is CALM and not vanish:
        assert sorted(model.calls) == sorted((kind, job) for job in jobs for kind in ("draft", "final"))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("vanish", [False, True], ids=["drain", "vanish"])
@pytest.mark.parametrize("chaos", [CALM, Chaos(seed=0), HARSH], ids=["calm", "unkind", "harsh"])
def test_accepted_is_kept(chaos: Chaos, vanish: bool, seed: int) -> None:
    virtual(partial(scenario, chaos, vanish, seed))()
