"""One budget over three workers, through the whole engine, in virtual time: 120 % of it is asked for.

Each case is a few minutes of a real load: every 60 s that there are is within the provider's limits, nothing
is answered 429, and nearly all of the limit that binds is used. Run with `-s` to see the figures.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count, cycle

import pytest

from eco2.pacer import Limits
from eco2.pipeline import Call, Context
from tests.support.engine_fixtures import single
from tests.support.freeze import FreezableLoop, Freezing
from tests.support.provider_windows import fullest
from tests.support.rate_limited_provider import Windowed
from tests.support.world import Draft, Process, Question, Remote, monotonic

MINUTES = 4.1
BEGIN = 82.0
"""Seconds: by then a leader has begun that knows all of the last minute, also where leaders die."""
AHEAD = 1.2
SLOTS = 10
SYSTEM = "How to throw this away? " * 10
SMALL, LARGE = "x" * 800, "x" * 4000
"""Texts of 200 and of 1,000 tokens."""


async def ask(context: Context[Question]) -> Draft:
    kind = "large" if len(context.input.text) > 2000 else "small"
    await context.call(Call(kind, SYSTEM, context.input.text, str, 400))
    return Draft(text="")


PIPELINE = single(ask)


class Fleet:
    """Workers that share the budget of one provider. `per_minute`: calls that it allows, about."""

    def __init__(self, provider: Windowed, per_minute: float, texts: tuple[str, ...] = (SMALL,)) -> None:
        self.provider = provider
        self.world = Freezing()
        self.workers: list[Process] = []
        self._offered = AHEAD * per_minute / 60
        self._texts = cycle(texts)
        self._names = count()

    async def join(self) -> Process:
        limits, counting = self.provider.limits, self.provider.counting
        worker = await self.world.start(
            pipeline=PIPELINE,
            prefetch=SLOTS,
            name=f"w{next(self._names)}",
            remotes=[Remote("p", self.provider, limits, counting, concurrency=SLOTS)],
        )
        self.workers.append(worker)
        return worker

    @property
    def leader(self) -> Process | None:
        return next((worker for worker in self.workers if worker.members["p"].budget.leading), None)

    async def offer(self, gateway: Process) -> None:
        """Jobs at an even pace, without end."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(gateway.submit(next(self._texts), max_wait=800))
                await asyncio.sleep(1 / self._offered)


Disturb = Callable[[Fleet], Awaitable[None]]


async def undisturbed(fleet: Fleet) -> None:
    """Three workers, and nothing happens to them."""


async def frozen(fleet: Fleet) -> None:
    """Twice a worker that does not lead stands still for 20 s, with all that it has asked for."""
    for _ in range(2):
        await asyncio.sleep(70)
        worker = next(worker for worker in fleet.workers if worker is not fleet.leader)
        await fleet.world.freeze(worker, 20.0)


async def frozen_leader(fleet: Fleet) -> None:
    """Twice the leader stands still for 30 s, and wakes with all that it had decided and asked for."""
    for _ in range(2):
        await asyncio.sleep(60)
        if (leader := fleet.leader) is not None:
            await fleet.world.freeze(leader, 30.0)


async def killed(fleet: Fleet) -> None:
    """Every 20 s the leader dies, and another worker comes."""
    while True:
        await asyncio.sleep(20)
        if (leader := fleet.leader) is not None:
            fleet.workers.remove(leader)
            await leader.kill()
            await fleet.join()


async def rolling(fleet: Fleet) -> None:
    """Every 40 s a worker comes and another leaves in order, calls in flight and all; at first the leader."""
    for place in (0, 1, 1, 1):
        await asyncio.sleep(40)
        await fleet.join()
        await fleet.workers.pop(place).leave()


REQUESTS = Limits(300.0, 1e7)
TOKENS = Limits(3000.0, 90_000.0)
BY_INPUT = Limits(3000.0, 150_000.0)
BY_USAGE = Limits(3000.0, 100_000.0)

Case = tuple[Callable[[], Windowed], float, tuple[str, ...], Disturb, float]

CASES: dict[str, Case] = {
    "requests": (lambda: Windowed(REQUESTS), 300, (SMALL,), undisturbed, 0.98),
    "tokens": (lambda: Windowed(TOKENS), 333, (SMALL,), undisturbed, 0.98),
    "mixed sizes": (lambda: Windowed(BY_INPUT, "input"), 222, (SMALL, LARGE), undisturbed, 0.98),
    "usage": (lambda: Windowed(BY_USAGE, "usage"), 300, (SMALL,), undisturbed, 0.97),
    "a frozen worker": (lambda: Windowed(REQUESTS), 300, (SMALL,), frozen, 0.98),
    "a frozen leader": (lambda: Windowed(REQUESTS), 300, (SMALL,), frozen_leader, 0.95),
    "leaders that die": (lambda: Windowed(REQUESTS), 300, (SMALL,), killed, 0.97),
    "replicas come and go": (lambda: Windowed(REQUESTS), 300, (SMALL,), rolling, 0.98),
}


@pytest.mark.parametrize("case", CASES)
def test_three_workers_use_one_budget_and_nothing_more(case: str) -> None:
    make, per_minute, texts, disturb, wanted = CASES[case]
    provider = make()
    fleet = Fleet(provider, per_minute, texts)
    end = MINUTES * 60

    async def run() -> None:
        async with fleet.world.process() as gateway:
            for _ in range(3):
                await fleet.join()
            offering = asyncio.create_task(fleet.offer(gateway))
            disturbing = asyncio.ensure_future(disturb(fleet))
            await asyncio.sleep(end - monotonic())
            for task in (offering, disturbing):
                task.cancel()
                await asyncio.wait({task})
            await asyncio.gather(*(worker.leave() for worker in fleet.workers))

    with asyncio.Runner(loop_factory=FreezableLoop) as runner:
        runner.run(run())
    used = {
        "requests": (provider.requests, provider.limits.requests),
        "tokens": (provider.tokens, provider.limits.tokens),
    }
    shares, peaks = [], []
    for arrivals, limit in used.values():
        assert limit is not None
        counted = sum(cost for time, cost in arrivals if BEGIN <= time < end)
        shares.append(counted / (limit * (end - BEGIN) / 60))
        peaks.append(fullest(arrivals) / limit)
    print(f"{case}: used {max(shares):.2%}, fullest minute {max(peaks):.2%}, {len(provider.sent)} calls")
    assert provider.refused == 0
    assert max(peaks) <= 1.0 + 1e-9
    assert max(shares) >= wanted
