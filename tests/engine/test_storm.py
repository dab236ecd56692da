"""Everything at once: workers that vanish, stand still, drain and lose their connection, alarms, pauses, a
provider that is down now and then, orders that are lost. Accepted is kept, and what was paid for is kept.

Virtual time; a seed repeats the disturbances, but not the random ids. Most storms are small, at 0.2 s of CPU
each: two events that rarely meet need more seeds, not more jobs.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from eco2.broker.embedded import CALM, Chaos
from eco2.call import Answer, Call, Reply
from eco2.errors import ProviderDown, ProviderError, RateLimited
from eco2.event import JobEvent, Paused, Resumed, decode_events
from eco2.journal.state import EventId, JobState, apply
from eco2.ports import no_gate
from eco2.service import run
from eco2.testing.clock import VirtualClock
from tests.support.engine_fixtures import at_rest
from tests.support.freeze import FreezableLoop, Freezing, freezable
from tests.support.world import PIPELINE, Process, ScriptedModel, World

LIFE = 800.0
"""Long, so that no job has to end at its deadline; views reach back for longer."""
SEEN = [0, 10, 11, 20, 21, 31]
KIND = ("drain", "drain", "disrupt", "outage", "alarm", "pause", "down", "limit")
ROUGH = (*KIND, "vanish", "vanish", "freeze", "freeze", "purge")


@dataclass(frozen=True)
class Size:
    """`events`: how many befall the fleet."""

    name: str
    jobs: int
    events: int


SMALL, LARGE = Size("small", 6, 6), Size("large", 30, 25)
STORMS = [(SMALL, seed) for seed in range(40)] + [(LARGE, 0)]


class Provider(ScriptedModel):
    """Is down or limits its calls now and then. `paid`: calls that it began to answer."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(seconds=2.0)
        self.paid: Counter[str] = Counter()
        self.fault: Callable[[], ProviderError] | None = None
        self._dice = dice

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await gate()
        if (fault := self.fault) is not None:
            await asyncio.sleep(0.1)
            raise fault()
        self.paid[job_id] += 1
        self.seconds = self._dice.choice((0.1, 2.0, 10.0))
        return await super().complete(call, job_id, on_text)


class Disturbances:
    """A fleet of workers, and what befalls it."""

    def __init__(self, world: World, gateway: Process, dice: random.Random, events: tuple[str, ...]) -> None:
        self.provider = Provider(dice)
        self._world = world
        self._gateway = gateway
        self._dice = dice
        self._events = events
        self._workers: dict[asyncio.Task[None], Process] = {}
        self._passing: list[asyncio.Task[None]] = []
        self._gone: list[asyncio.Task[None]] = []

    async def pass_by(self, rounds: int) -> None:
        """Ends with a fleet that is well."""
        for _ in range(rounds):
            while len(self._workers) < 3:
                self._hire()
            await asyncio.sleep(self._dice.random() * 4)
            await getattr(self, f"_{self._dice.choice(self._events)}")()
        await asyncio.gather(*self._passing)
        self._hire()

    async def dismiss(self) -> None:
        """Every worker drains; none of them failed."""
        for process in self._workers.values():
            process.stop.set()
        ends = await asyncio.gather(*self._gone, *self._workers, return_exceptions=True)
        assert [end for end in ends if isinstance(end, Exception)] == []

    def _hire(self) -> None:
        process, components = self._world.components(self.provider, PIPELINE, prefetch=6, concurrency=4)
        living = run(components, process.stop)
        context = freezable(process).freezer.context.copy()
        self._workers[asyncio.get_running_loop().create_task(living, context=context)] = process

    def _pick(self) -> tuple[asyncio.Task[None], Process]:
        return self._dice.choice(list(self._workers.items()))

    def _dismissed(self) -> tuple[asyncio.Task[None], Process]:
        task, process = self._pick()
        del self._workers[task]
        self._gone.append(task)
        return task, process

    def _later(self, seconds: float, then: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            then()

        self._passing.append(asyncio.get_running_loop().create_task(wait()))

    async def _drain(self) -> None:
        self._dismissed()[1].stop.set()

    async def _vanish(self) -> None:
        task, process = self._dismissed()
        freezable(process)._disconnect()
        task.cancel()

    async def _freeze(self) -> None:
        broker = freezable(self._pick()[1])
        if not broker.freezer.frozen:
            seconds = self._dice.choice((1.0, 3.0, 12.0, 20.0, 40.0))
            self._passing.append(asyncio.get_running_loop().create_task(broker.freeze(seconds)))

    async def _disrupt(self) -> None:
        broker = freezable(self._pick()[1])
        if not broker.freezer.frozen:
            broker.disrupt()

    async def _outage(self) -> None:
        self._world.server.disrupt()

    async def _alarm(self) -> None:
        self._world.server.block("low on disk")
        self._later(self._dice.random() * 30, self._world.server.unblock)

    async def _pause(self) -> None:
        put = self._gateway.journal.put
        put(Paused(ts=VirtualClock.now(), reason="test"))
        self._later(self._dice.random() * 20, lambda: put(Resumed(ts=VirtualClock.now())))

    async def _down(self) -> None:
        self.provider.fault = lambda: ProviderDown("503")
        self._later(self._dice.random() * 30, self._up)

    async def _limit(self) -> None:
        self.provider.fault = lambda: RateLimited("429", retry_after=3.0)
        self._later(self._dice.random() * 10, self._up)

    def _up(self) -> None:
        self.provider.fault = None

    async def _purge(self) -> None:
        self._world.server.queues[self._world.topology.queue("jobs.ask")]._ready.clear()


class Witness:
    """What the clients of a gateway were shown of each job, in order."""

    def __init__(self, gateway: Process) -> None:
        self.seqs: dict[str, list[int]] = defaultdict(list)
        self._ids: set[tuple[str, EventId]] = set()
        gateway.journal.view.observe(self._changed)

    def _changed(self, state: JobState) -> None:
        for shown in state.visible_events:
            if (state.job, shown.id) not in self._ids:
                self._ids.add((state.job, shown.id))
                self.seqs[state.job].append(shown.seq)


def takeovers(world: World) -> Counter[str]:
    """By job, how often a run was opened though another had it."""
    jobs: dict[str, JobState | None] = {}
    found: Counter[str] = Counter()
    log = world.server.logs[world.topology.stream]
    for record in log._records:
        for place, event in enumerate(decode_events(record.body)):
            if not isinstance(event, JobEvent):
                continue
            before = jobs.get(event.job)
            after = jobs[event.job] = apply(before, EventId(record.offset, place), event)
            if before is not None and after is not None and before.is_held and after.attempt > before.attempt:
                found[event.job] += 1
    return found


async def storm(chaos: Chaos, events: tuple[str, ...], size: Size, seed: int) -> dict[str, Any]:
    random.seed(seed)  # jitter
    dice = random.Random(seed)
    world = Freezing(chaos if chaos is CALM else replace(chaos, seed=seed))
    async with asyncio.timeout(3 * LIFE), world.process() as one, world.process() as other:
        witnesses = [Witness(one), Witness(other)]
        disturbances = Disturbances(world, one, dice, events)
        passing = asyncio.get_running_loop().create_task(disturbances.pass_by(size.events))
        jobs = []
        for number in range(size.jobs):
            await asyncio.sleep(dice.random() * 2)
            jobs.append((await dice.choice((one, other)).submit(str(number), max_wait=LIFE)).job)
        await passing
        ends = [await one.ended(job) for job in jobs]
        await other.journal.barrier()
        assert [other.journal.view.get(job) for job in jobs] == ends
        assert [state.result for state in ends if state.status != "completed"] == []
        await at_rest(world)
        await disturbances.dismiss()
        await at_rest(world)
    overtaken = takeovers(world)
    for state in ends:
        for witness in witnesses:
            assert witness.seqs[state.job] == SEEN
        paid = disturbances.provider.paid[state.job]
        assert 2 <= paid <= 2 + overtaken[state.job]
    if events is KIND:
        assert not overtaken
    return {"overtaken": overtaken.total(), "paid": disturbances.provider.paid.total()}


def run_storm(chaos: Chaos, events: tuple[str, ...], size: Size, seed: int) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=FreezableLoop) as runner:
        return runner.run(storm(chaos, events, size, seed))


@pytest.mark.parametrize(("size", "seed"), STORMS, ids=[f"{size.name}-{seed}" for size, seed in STORMS])
@pytest.mark.parametrize("events", [KIND, ROUGH], ids=["kind", "rough"])
@pytest.mark.parametrize("chaos", [CALM, Chaos(seed=0)], ids=["calm", "unkind"])
def test_accepted_is_kept_and_paid_once_whatever_comes(
    chaos: Chaos, events: tuple[str, ...], size: Size, seed: int
) -> None:
    run_storm(chaos, events, size, seed)
