"""Failures that may pass: the job is put off, and goes on behind what is completed, while there is time."""

import asyncio
from itertools import count, pairwise
from typing import get_args

import pytest

from eco2.consumers.retries import CLOCK_SKEW, MIN_TIME_LEFT, next_delay, remaining_delay
from eco2.errors import (
    PermanentError,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    RateLimited,
    RetryableError,
)
from eco2.event import RunStarted, decode_events
from eco2.journal.state import JobState
from eco2.pipeline import NEVER, Call, Context, Delay, Pipeline, Retry, Stage
from eco2.ports import DELAYS, delay_queue
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import at_rest, single
from tests.support.world import Draft, Question, ScriptedModel, World, order, result, until


class Failing(ScriptedModel):
    """Raises what `errors` says for the call, if it says so. `failed`: when (Unix seconds)."""

    def __init__(self, *errors: PermanentError | ProviderError | None, seconds: float = 1.0) -> None:
        super().__init__(seconds=seconds, script=self._raise)
        self._errors = iter(errors)
        self.paid: list[str] = []
        self.failed: list[float] = []

    def _raise(self, kind: str, job: str) -> None:
        if (error := next(self._errors, None)) is not None:
            self.failed.append(VirtualClock.now())
            raise error
        self.paid.append(kind)


def runs(world: World) -> list[float]:
    """Unix seconds at which a run was opened."""
    records = world.server.logs[world.topology.stream].after(0)
    events = [event for record in records for event in decode_events(record.body)]
    return [event.ts for event in events if isinstance(event, RunStarted)]


def code(state: JobState) -> object:
    assert state.result is not None
    error = state.result["error"]
    return error["code"] if isinstance(error, dict) else None


@pytest.mark.parametrize(
    ("retries", "asked", "time_left", "delay"),
    [
        (0, None, 1000.0, 5),
        (1, None, 1000.0, 30),
        (2, None, 1000.0, 120),
        (3, None, 1000.0, None),
        (9, None, 1000.0, None),
        (0, 5.0, 1000.0, 5),
        (0, 5.1, 1000.0, 30),
        (1, 31.0, 1000.0, 120),
        (0, 121.0, 1000.0, None),
        (0, None, 5 + MIN_TIME_LEFT, 5),
        (0, None, 4.9 + MIN_TIME_LEFT, None),
        (1, None, 29.9 + MIN_TIME_LEFT, None),
    ],
)
def test_each_time_it_is_put_off_for_longer_while_there_is_time(
    retries: int, asked: float | None, time_left: float, delay: int | None
) -> None:
    assert next_delay(Retry(), retries, asked, 1000.0, time_left) == delay


def test_of_a_job_that_has_started_the_delay_takes_no_time() -> None:
    assert next_delay(Retry(), 2, None, MIN_TIME_LEFT) == 120
    assert next_delay(Retry(), 0, None, MIN_TIME_LEFT - 0.1) is None


@pytest.mark.parametrize(
    ("retry", "asked", "delays"),
    [
        (Retry(), None, [5, 30, 120, None]),
        (NEVER, None, [None]),
        (Retry(attempts=3), None, [5, 30, None]),
        (Retry(attempts=6, delays=(5, 30)), None, [5, 30, 30, 30, 30, None]),
        (Retry(attempts=3, delays=(120, 5)), None, [120, 5, None]),
        (Retry(attempts=3, delays=(5,)), 20.0, [30, 30, None]),
        (Retry(attempts=3, delays=(5,)), 121.0, [None]),
    ],
)
def test_each_stage_has_its_own_tries_and_waits_as_long_as_the_provider_asks(
    retry: Retry, asked: float | None, delays: list[int | None]
) -> None:
    assert [next_delay(retry, number, asked, 1000.0) for number in range(len(delays))] == delays


def test_there_is_a_queue_for_each_delay_that_a_pipeline_may_name() -> None:
    assert get_args(Delay) == Retry().delays == DELAYS


@pytest.mark.parametrize(
    ("left", "delay"),
    [
        (5.0, 5),
        (0.1 + CLOCK_SKEW, 5),
        (CLOCK_SKEW, None),
        (-1.0, None),
        (30.0, 30),
        (24.0, 5),
        (120.0, 120),
        (60.0, 30),
        (29.0, 30),
        (20.0, 5),
    ],
)
def test_another_order_of_a_job_that_was_put_off_waits_as_long(left: float, delay: int | None) -> None:
    assert remaining_delay(100.0 + left, 100.0) == delay


@virtual
async def test_a_job_that_is_put_off_goes_on_behind_what_is_completed() -> None:
    world, model = World(), Failing(None, *[ProviderError("cut")] * 3)
    async with world.process(model) as process:
        job = (await process.submit()).job
        waiting = world.server.queues[world.topology.queue(delay_queue("ask", 5))]
        await until(lambda: len(waiting) == 1)
        state = process.journal.view.get(job)
        assert state is not None
        assert (state.released, state.retries) == (True, 1)
        assert state.retrying is not None
        assert (state.retrying.stage, state.retrying.delay) == ("final", 5)
        assert state.retrying.until == state.updated_at + 5
        state = await process.ended(job)
        await at_rest(world)
    began, again = runs(world)
    assert (state.status, state.retries, state.crashes) == ("completed", 0, 0)
    assert again - began >= 5
    assert model.paid == ["draft", "final"]


@virtual
async def test_what_fails_again_and_again_ends_when_no_delay_is_left() -> None:
    world, model = World(), Failing(*[ProviderError("cut")] * 99)
    async with world.process(model) as process:
        state = await process.ended((await process.submit(max_wait=800)).job)
        await until(lambda: len(world.server.queues[world.topology.queue("dead")]) == 1)
    assert (state.status, state.dead, code(state)) == ("failed", True, "UNAVAILABLE")
    assert [kind for kind, _ in model.calls] == ["draft"] * (3 + 1 + 1 + 1)
    pauses = [after - before for before, after in pairwise(runs(world))]
    assert [delay <= pause < delay + 5 for delay, pause in zip(DELAYS, pauses, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("retry", "delays"), [(NEVER, []), (Retry(attempts=3, delays=(30, 5)), [30, 5])], ids=["never", "thrice"]
)
@virtual
async def test_a_stage_is_tried_again_as_its_policy_says(retry: Retry, delays: list[int]) -> None:
    async def unlucky(_: Context[Question]) -> Draft:
        raise RetryableError("the shop is closed")

    world = World()
    pipeline = Pipeline("ask", Question, (Stage("draft", unlucky, Draft, retry),), result)
    async with world.process(ScriptedModel(), pipeline) as process:
        state = await process.ended((await process.submit(max_wait=800)).job)
    assert (state.status, state.dead, code(state), state.retrying) == ("failed", True, "UNAVAILABLE", None)
    pauses = [after - before for before, after in pairwise(runs(world))]
    assert [delay <= pause < delay + 5 for delay, pause in zip(delays, pauses, strict=True)] == [True] * len(
        delays
    )


@virtual
async def test_a_job_that_got_on_has_all_its_retries_again() -> None:
    cut = ProviderError("cut")
    model = Failing(*[cut] * 3, cut, None, cut, *[cut] * 3, cut, None)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(max_wait=800)).job)
    assert state.status == "completed"
    assert model.paid == ["draft", "final"]


@virtual
async def test_a_recorded_call_gives_a_job_all_its_retries_again() -> None:
    async def in_two_steps(context: Context[Question]) -> Draft:
        await context.call(Call("first", "", "", str, 10))
        return Draft(text=(await context.call(Call("second", "", "", str, 10))).value)

    cut = ProviderError("cut")
    model = Failing(*[cut] * 3, cut, cut, None, *[cut] * 3)
    async with World().process(model, single(in_two_steps)) as process:
        state = await process.ended((await process.submit(max_wait=800)).job)
    assert state.status == "completed"
    assert model.paid == ["first", "second"]


@virtual
async def test_nothing_is_put_off_that_cannot_be_done_in_time() -> None:
    model = Failing(*[ProviderError("cut")] * 99)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(max_wait=30, timeout=12)).job)
    assert code(state) == "UNAVAILABLE"
    assert [kind for kind, _ in model.calls] == ["draft"] * 3


@virtual
async def test_a_job_that_has_not_started_is_put_off_only_while_it_may_wait() -> None:
    began: list[float] = []

    async def away(_: Context[Question]) -> Draft:
        began.append(VirtualClock.now())
        raise RetryableError("the database is away")

    async with World().process(ScriptedModel(), single(away)) as process:
        state = await process.ended((await process.submit(max_wait=30)).job)
    assert code(state) == "UNAVAILABLE"
    assert [pytest.approx(after - before, abs=1) for before, after in pairwise(began)] == [5]


@virtual
async def test_an_order_that_comes_twice_spends_a_retry_once() -> None:
    """The other order is on standby while the run fails; the job is not begun by it before its time."""
    world, model = World(), Failing(*[ProviderError("cut")] * 5)
    async with world.process(model), world.process(model) as process:
        accepted = await process.submit(max_wait=800)
        for _ in range(4):
            await process.order(order(accepted.job, "q", accepted.accepted, life=800))
        state = await process.ended(accepted.job)
        await at_rest(world)
    assert state.status == "completed"
    assert model.paid == ["draft", "final"]
    pauses = [after - before for before, after in pairwise(model.failed)]
    assert all(delay - CLOCK_SKEW <= pause for delay, pause in zip(DELAYS[:2], pauses[2:], strict=True))


@virtual
async def test_a_job_that_was_put_off_and_then_given_back_by_a_drain_goes_on_at_once() -> None:
    world, model = World(), Failing(*[ProviderError("cut")] * 3, seconds=10.0)
    async with world.process() as gateway:
        async with world.process(model) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: len(model.calls) == 4)
            leaving.stop.set()
        stopped = VirtualClock.now()
        async with world.process(model):
            state = await gateway.ended(job)
    assert state.status == "completed"
    assert runs(world)[-1] - stopped < 1
    assert model.paid == ["draft", "final"]


@virtual
async def test_while_a_provider_is_down_for_half_a_minute_no_job_fails() -> None:
    model = ScriptedModel()
    paid: list[tuple[str, str]] = []
    began = VirtualClock.now()

    def script(kind: str, job: str) -> None:
        if 3 <= VirtualClock.now() - began < 33:
            raise ProviderDown("503")
        paid.append((kind, job))

    model.script = script
    async with World().process(model) as process:
        jobs = []
        for number in range(20):
            jobs.append((await process.submit(str(number))).job)
            await asyncio.sleep(1)
        states = [await process.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    assert sorted(paid) == sorted((kind, job) for job in jobs for kind in ("draft", "final"))
    assert len(model.calls) - len(paid) < 50


@virtual
async def test_a_limit_of_the_provider_is_waited_for_however_often_and_never_counted() -> None:
    model = Failing(*[RateLimited("429", retry_after=7.0)] * 12)
    began = VirtualClock.now()
    world = World()
    async with world.process(model) as process:
        state = await process.ended((await process.submit()).job)
    assert 12 * 7 <= VirtualClock.now() - began < 180
    assert (state.status, state.retries, len(runs(world))) == ("completed", 0, 1)
    assert model.paid == ["draft", "final"]


@virtual
async def test_a_provider_that_serves_us_no_more_costs_one_job_and_the_others_wait_for_the_operator() -> None:
    world, model, numbers = World(), ScriptedModel(seconds=0.1), count()

    def script(kind: str, job: str) -> None:
        if kind == "draft" and next(numbers) == 0:
            raise ProviderAccessDenied("the key is not valid")

    model.script = script
    async with world.process(model, concurrency=1) as process:
        first = (await process.submit()).job
        others = [(await process.submit()).job for _ in range(5)]
        state = await process.ended(first)
        failed_at = VirtualClock.now()
        await until(lambda: len(world.server.queues[world.topology.queue("dead")]) == 1)
        await asyncio.sleep(1)
        assert len(model.calls) == 1
        ends = [await process.ended(other) for other in others]
    assert (state.status, state.dead) == ("failed", True)
    assert code(state) == "PROVIDER_REFUSED"
    assert {end.status for end in ends} == {"completed"}
    assert VirtualClock.now() - failed_at > 2
