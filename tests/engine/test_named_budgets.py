"""Budgets of other APIs: `context.reserve` keeps all workers together within them."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from eco2.errors import CallTooLarge, PermanentFailure, RateLimited, RetryableError
from eco2.job import JSON, Priority
from eco2.pacer import Limits
from eco2.pipeline import Context
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import overtaking, rival, single
from tests.support.provider_windows import fullest
from tests.support.world import Draft, Question, ScriptedModel, World, until


class Api:
    """Another API that notes its requests, and answers 429 to those whose numbers are `refused`."""

    def __init__(self, *refused: int) -> None:
        self.requests: list[tuple[float, float]] = []
        self.refused = refused

    def send(self, tokens: float = 0.0) -> None:
        self.requests.append((VirtualClock.now(), tokens))
        if len(self.requests) in self.refused:
            raise RateLimited("429", retry_after=20.0)

    async def ask(self, context: Context[Question]) -> Draft:
        """Sends two requests side by side."""

        async def one() -> None:
            async with context.reserve("maps"):
                self.send()

        await asyncio.gather(one(), one())
        return Draft(text="")

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.requests]


def counted(api: Api) -> list[tuple[float, float]]:
    return [(at, 1.0) for at in api.times]


@virtual
async def test_three_workers_share_one_budget_and_no_minute_exceeds_it() -> None:
    world, api = World(budgets={"maps": Limits(30.0)}), Api()
    async with world.process() as gateway, AsyncExitStack() as workers:
        for _ in range(3):
            await workers.enter_async_context(world.process(ScriptedModel(), single(api.ask), prefetch=5))
        jobs = [(await gateway.submit(max_wait=900)).job for _ in range(60)]
        states = [await gateway.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    assert len({state.run for state in states}) == 60
    assert len(api.requests) == 120
    assert fullest(counted(api)) <= 30
    assert api.times[-1] - api.times[0] < 120 / 30 * 60 * 1.05 + 5  # and little of it is left unused


@virtual
async def test_people_reserve_before_batches_and_owners_take_turns() -> None:
    submitted: dict[str, str] = {}
    reserved: list[str] = []

    async def ask(context: Context[Question]) -> Draft:
        async with context.reserve("maps"):
            reserved.append(submitted.get(context.job_id, "first"))
        return Draft(text="")

    world = World(budgets={"maps": Limits(30.0)})
    async with world.process(ScriptedModel(), single(ask), prefetch=20) as process:
        await process.ended((await process.submit()).job)  # from now on there is a leader
        for owner in (*["night"] * 4, *"aaaabb"):
            priority: Priority = "batch" if owner == "night" else "interactive"
            state = await process.submit(max_wait=900, priority=priority, owner=owner)
            submitted[state.job] = owner
        for job in submitted:
            assert (await process.ended(job)).status == "completed"
    assert reserved == ["first", *"ababaa", *["night"] * 4]


@virtual
async def test_a_worker_that_is_killed_takes_nothing_of_the_budget_with_it() -> None:
    world, api = World(budgets={"maps": Limits(30.0)}), Api()
    async with world.process() as gateway:
        victim = await world.start(ScriptedModel(), single(api.ask))
        async with world.process(ScriptedModel(), single(api.ask)):
            jobs = [(await gateway.submit(max_wait=900)).job for _ in range(40)]
            await until(lambda: len(api.requests) == 30)
            await victim.kill()
            states = [await gateway.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    assert fullest(counted(api)) <= 30


@virtual
async def test_tokens_are_counted_where_the_budget_has_any() -> None:
    api = Api()

    async def ask(context: Context[Question]) -> Draft:
        async with context.reserve("maps", tokens=300):
            api.send(300)
        return Draft(text="")

    world = World(budgets={"maps": Limits(1000.0, 1000.0)})
    async with world.process(ScriptedModel(), single(ask)) as process:
        jobs = [(await process.submit(max_wait=900)).job for _ in range(9)]
        assert {(await process.ended(job)).status for job in jobs} == {"completed"}
    assert len(api.requests) == 9
    assert fullest(api.requests) <= 1000


@virtual
async def test_a_429_pauses_all_workers_and_the_stage_is_tried_again() -> None:
    api = Api(3)
    world = World(budgets={"maps": Limits(60.0)})
    async with world.process() as gateway, AsyncExitStack() as workers:
        for _ in range(2):
            await workers.enter_async_context(world.process(ScriptedModel(), single(api.ask), prefetch=5))
        jobs = [(await gateway.submit(max_wait=900)).job for _ in range(10)]
        states = [await gateway.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    refused = api.times[2]
    later = [at for at in api.times if at > refused + 1.0]  # what was granted before it was known may be sent
    assert min(later) >= refused + 20.0
    assert min(later) < refused + 31.0  # half of what the first leader takes for spent has expired
    assert [state.put_off > 0 for state in states].count(True) == 1


@virtual
async def test_a_stage_may_catch_a_429_and_ask_again() -> None:
    api = Api(1)

    async def patient(context: Context[Question]) -> Draft:
        while True:
            try:
                async with context.reserve("maps"):
                    api.send()
            except RateLimited:
                continue
            return Draft(text="")

    world = World(budgets={"maps": Limits(600.0)})
    async with world.process(ScriptedModel(), single(patient)) as process:
        state = await process.ended((await process.submit()).job)
    assert (state.status, state.attempt, len(api.requests)) == ("completed", 1, 2)
    assert api.times[1] - api.times[0] >= 20.0


@virtual
async def test_an_unknown_budget_is_an_error_at_once_that_names_the_setting() -> None:
    async def ask(context: Context[Question]) -> Draft:
        with pytest.raises(PermanentFailure, match="set ECO2_BUDGETS__WEATHER__RPM for all workers"):
            async with context.reserve("weather"):
                raise AssertionError("not reserved")
        async with context.reserve("weather"):
            raise AssertionError("not reserved")

    world = World(budgets={"maps": Limits(1.0)})
    async with world.process(ScriptedModel(), single(ask)) as process:
        before = VirtualClock.now()
        state = await process.ended((await process.submit()).job)
    assert VirtualClock.now() - before < 1.0
    assert state.result is not None
    assert state.result["error"]["code"] == "UNKNOWN_BUDGET"  # type: ignore[index]
    assert state.dead  # an operator may replay it once the setting is there


@virtual
async def test_a_run_that_was_overtaken_while_it_waits_sends_nothing() -> None:
    api = Api()

    async def ask(context: Context[Question]) -> Draft:
        async with context.reserve("maps"):
            api.send()
        return Draft(text="")

    world = World(budgets={"maps": Limits(1.0)})
    async with world.process() as gateway, world.process(ScriptedModel(), single(ask)) as worker:
        await gateway.ended((await gateway.submit()).job)
        job = (await gateway.submit(max_wait=900)).job
        await until(lambda: bool(worker.members["maps"].budget.waiting))
        await gateway.journal.put(overtaking(job, attempt=2))
        with rival(gateway, job):
            await asyncio.sleep(200)
            assert len(api.requests) == 1
        state = await gateway.ended(job)
    assert (state.status, state.attempt, len(api.requests)) == ("completed", 3, 2)


@virtual
async def test_a_recorded_step_reserves_nothing_in_a_later_run() -> None:
    api, tries = Api(), 0

    async def ask(context: Context[Question]) -> Draft:
        nonlocal tries

        async def work(_: str) -> JSON:
            async with context.reserve("maps"):
                api.send()
            return {"found": len(api.requests)}

        found = await context.step("locate", work)
        if (tries := tries + 1) == 1:
            raise RetryableError("once more")
        return Draft(text=str(found["found"]))

    world = World(budgets={"maps": Limits(60.0)})
    async with world.process(ScriptedModel(), single(ask)) as process:
        state = await process.ended((await process.submit()).job)
    assert (state.outputs["draft"], tries, len(api.requests)) == ({"text": "1"}, 2, 1)


@virtual
async def test_more_than_a_minute_has_is_refused() -> None:
    async def ask(context: Context[Question]) -> Draft:
        with pytest.raises(CallTooLarge):
            async with context.reserve("maps", tokens=1001):
                raise AssertionError("not reserved")
        return Draft(text="")

    world = World(budgets={"maps": Limits(10.0, 1000.0)})
    async with world.process(ScriptedModel(), single(ask)) as process:
        assert (await process.ended((await process.submit()).job)).status == "completed"


@virtual
async def test_a_job_that_waits_for_its_first_reservation_expires_and_leaves_no_request() -> None:
    world, api = World(budgets={"maps": Limits(1.0)}), Api()
    async with world.process(ScriptedModel(), single(api.ask)) as process:
        state = await process.ended((await process.submit(max_wait=900)).job)
        assert state.status == "completed"
        assert api.times[1] - api.times[0] >= 60.0
        late = await process.ended((await process.submit(max_wait=20)).job)
        assert late.result is not None
        assert late.result["error"]["code"] == "EXPIRED"  # type: ignore[index]
        await until(lambda: not process.members["maps"].budget.waiting)
    assert len(api.requests) == 2
    assert state.started_at is not None
    assert state.started_at == pytest.approx(api.times[0], abs=0.5)
