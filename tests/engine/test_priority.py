"""People and batches at one budget, and owners at one queue: the whole engine, in virtual time.

Run with `-s` to see the figures.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles

from eco2.errors import ProviderError
from eco2.job import Priority
from eco2.journal.state import JobState
from eco2.pacer import Limits
from eco2.pipeline import Call, Context
from eco2.ports import delay_queue
from eco2.testing.clock import run_virtual, virtual
from tests.support.engine_fixtures import single
from tests.support.provider_windows import fullest
from tests.support.rate_limited_provider import Windowed
from tests.support.world import Draft, Process, Question, Remote, ScriptedModel, World, monotonic

RPM = 500
KNOWN = 62.0
"""Seconds until nothing counts that the first leader took for spent."""
END = KNOWN + 45.0
SLOTS = 32


async def ask(context: Context[Question]) -> Draft:
    await context.call(Call("small", "How to throw this away?", context.input.text, str, 100))
    return Draft(text="")


PIPELINE = single(ask)


@asynccontextmanager
async def installation(provider: Windowed, slots: int = SLOTS) -> AsyncIterator[Process]:
    """A gateway; three workers run beside it."""
    world = World()
    async with world.process() as gateway:
        remotes = [Remote("p", provider, provider.limits, provider.counting, concurrency=slots)]
        workers = [
            await world.start(pipeline=PIPELINE, prefetch=slots, name=f"w{n}", remotes=remotes)
            for n in range(3)
        ]
        yield gateway
        await asyncio.gather(*(worker.leave() for worker in workers))


async def flood(gateway: Process, number: int, priority: Priority, owner: str = "") -> list[str]:
    """Submits so many jobs at once; returns their ids."""
    jobs = (gateway.submit(max_wait=800, priority=priority, owner=owner) for _ in range(number))
    return [state.job for state in await asyncio.gather(*jobs)]


async def people(gateway: Process) -> list[JobState]:
    """Jobs at random moments at 60 % of the budget; returns those that began after `KNOWN`, at their end."""
    dice, jobs = random.Random(1), []
    while (now := monotonic()) < END:
        state = await gateway.submit(max_wait=60)
        if now >= KNOWN:
            jobs.append(state.job)
        await asyncio.sleep(dice.expovariate(0.6 * RPM / 60))
    return [await gateway.ended(job) for job in jobs]


def seconds_waited(state: JobState) -> float:
    assert state.started_at is not None
    return state.started_at - state.accepted


def p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


def crowd(batch: int) -> tuple[Windowed, list[JobState], Counter[str]]:
    """People beside so many batch jobs; returns their jobs, and how the batch stands at the end."""
    provider = Windowed(Limits(float(RPM), 1e7), seconds=6.0)

    async def run() -> tuple[list[JobState], Counter[str]]:
        async with installation(provider) as gateway:
            jobs = await flood(gateway, batch, "batch")
            ended = await people(gateway)
            states = [gateway.journal.view.get(job) for job in jobs]
            return ended, Counter(state.status for state in states if state is not None)

    return provider, *run_virtual(run())


def test_a_flood_of_batch_jobs_takes_what_people_leave_and_no_more() -> None:
    _, alone, _ = crowd(0)
    provider, beside, batch = crowd(500)
    waits = [[seconds_waited(state) for state in states] for states in (alone, beside)]
    took = [p95([state.updated_at - state.accepted for state in states]) for states in (alone, beside)]
    arrivals = [(time, cost) for time, cost in provider.requests if KNOWN <= time < END]
    used = len(arrivals) / (RPM * (END - KNOWN) / 60)
    print(
        f"{len(beside)} people, p95 wait {p95(waits[0]):.2f} s alone, {p95(waits[1]):.2f} s beside a batch; "
        f"p95 to done {took[0]:.2f}, {took[1]:.2f} s; used {used:.2%}; batch {dict(batch)}"
    )
    assert {state.status for state in (*alone, *beside)} == {"completed"}
    assert batch.keys() == {"completed", "running", "queued"}
    assert provider.refused == 0
    assert fullest(provider.requests) <= RPM
    assert p95(waits[1]) <= p95(waits[0]) + 0.5
    assert took[1] <= 1.05 * took[0]
    assert used >= 0.985


@virtual
async def test_an_owner_with_a_hundred_jobs_has_no_more_of_the_budget_than_one_with_few() -> None:
    provider = Windowed(Limits(float(RPM), 1e7))
    async with installation(provider, slots=60) as gateway:
        many = await flood(gateway, 100, "interactive", "a")
        await asyncio.sleep(5)
        before = len(provider.sent)
        few = await flood(gateway, 10, "interactive", "b")
        for job in few:
            await gateway.ended(job)
        meanwhile = Counter("b" if job in few else "a" for _, job, _ in provider.sent[before:])
        print(meanwhile)
        last = max(at for at, (_, job, _) in enumerate(provider.sent[before:]) if job in few)
        assert last <= 2 * len(few) + 2
        for job in many:
            assert (await gateway.ended(job)).status == "completed"


@virtual
async def test_batch_calls_that_wait_leave_slots_to_people() -> None:
    """At a budget that is used up, one batch call waits with a slot; no person stands behind it."""
    provider = Windowed(Limits(60.0, 1e7), seconds=0.5)
    async with World().process(remotes=[Remote("p", provider, provider.limits, concurrency=4)]) as worker:
        await asyncio.sleep(KNOWN)
        await flood(worker, 40, "batch")
        await asyncio.sleep(5)
        for _ in range(20):
            state = await worker.ended((await worker.submit(max_wait=60)).job)
            assert seconds_waited(state) < 2.5
            await asyncio.sleep(1)


@virtual
async def test_a_batch_job_is_put_off_to_the_batch() -> None:
    failures = iter([True] * 3)

    def fail(kind: str, job: str) -> None:
        if next(failures, False):
            raise ProviderError("cut")

    world = World()
    async with world.process(ScriptedModel(script=fail)) as worker:
        job = (await worker.submit(priority="batch")).job
        state = worker.journal.view.get(job)
        while state is None or state.retrying is None:
            state = await worker.journal.view.change(job, state)
        await asyncio.sleep(1)
        assert await worker.broker.depth(delay_queue("ask", 5, "batch")) == 1
        ended = await worker.ended(job)
        assert (ended.status, ended.priority) == ("completed", "batch")
