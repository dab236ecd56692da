"""A job that may cost a limited sum: no call is sent that might cost more than is left of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from eco2.call import Call, PaidCallFailed, Price, Usage
from eco2.errors import BudgetExceeded, ProviderError
from eco2.event import CallCompleted
from eco2.journal.state import EventId, JobState, apply
from eco2.pacer import Limits
from eco2.pipeline import Context
from eco2.testing.clock import virtual
from tests.support.engine_fixtures import single
from tests.support.world import Draft, Question, Remote, ScriptedModel, World, until

PRICE = Price(Decimal(0), Decimal(0), Decimal(100))
"""USD for a million tokens: at the most 0.01 for each call of these tests, whose answers have 100 at most."""
COST = Decimal("0.004")
"""What each of them really costs."""


def question(number: int) -> Call[str]:
    return Call("ask", "", f"question {number}", str, 100)


async def one_by_one(context: Context[Question]) -> Draft:
    """Makes as many calls as the job's text says."""
    for number in range(int(context.input.text)):
        await context.call(question(number))
    return Draft(text="all")


async def at_once(context: Context[Question]) -> Draft:
    """The same side by side; a call that is refused does not break off the others."""
    calls = (context.call(question(number)) for number in range(int(context.input.text)))
    for reply in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(reply, BaseException):
            raise reply
    return Draft(text="all")


def remotes(model: ScriptedModel, price: Price | None = PRICE, requests: float = 6000.0) -> Sequence[Remote]:
    return [Remote("p", model, Limits(requests), price=price)]


def error(state: JobState) -> dict[str, Any]:
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    return state.result["error"]


@virtual
async def test_a_job_ends_before_the_call_that_might_cost_more_than_is_left() -> None:
    model = ScriptedModel(cost=COST)
    async with World().process(remotes=remotes(model), pipeline=single(one_by_one)) as process:
        state = await process.ended((await process.submit("9", max_usd=0.03)).job)
    assert (state.status, error(state)["code"], state.dead) == ("failed", "BUDGET_EXCEEDED", False)
    assert (state.attempt, state.retries) == (1, 0)
    assert len(model.calls) == 6  # 5 have cost 0.02, and one more may cost 0.01
    assert sum(state.spent.values()) == 6 * COST
    for words in ("has cost 0.024 USD", "may cost 0.01 USD", "may cost 0.03 USD", "higher limit"):
        assert words in error(state)["message"]


@pytest.mark.parametrize(("limit", "sent", "status"), [(0.03, 3, "failed"), (0.05, 5, "completed")])
def test_calls_in_flight_count_each_other(limit: float, sent: int, status: str) -> None:
    @virtual
    async def check() -> None:
        model = ScriptedModel(cost=COST)
        async with World().process(remotes=remotes(model), pipeline=single(at_once)) as process:
            state = await process.ended((await process.submit("5", max_usd=limit)).job)
            await until(lambda: not model.in_flight)
        assert (state.status, len(model.calls)) == (status, sent)
        if status == "failed":
            assert "0.03 USD more are reserved for calls in flight" in error(state)["message"]

    check()


@virtual
async def test_calls_that_wait_for_their_grants_count() -> None:
    model = ScriptedModel(cost=COST)
    slow = remotes(model, requests=1.0)
    async with World().process(remotes=slow, pipeline=single(at_once)) as process:
        job = (await process.submit("5", max_usd=0.03, max_wait=600)).job
        state = await process.ended(job)
        assert error(state)["code"] == "BUDGET_EXCEEDED"
    assert len(model.calls) == 3


@virtual
async def test_without_a_limit_nothing_is_counted() -> None:
    model = ScriptedModel(cost=COST)
    async with World().process(remotes=remotes(model, None), pipeline=single(one_by_one)) as process:
        state = await process.ended((await process.submit("9")).job)
    assert (state.status, state.spent, len(model.calls)) == ("completed", {}, 9)


@virtual
async def test_what_earlier_runs_paid_counts_and_recorded_replies_are_free() -> None:
    world, first, second = World(), ScriptedModel(cost=COST), ScriptedModel(cost=COST)
    pipeline = single(one_by_one)
    async with world.process() as gateway:
        victim = await world.start(pipeline=pipeline, remotes=remotes(first), name="w1")
        job = (await gateway.submit("9", max_usd=0.03)).job
        await until(lambda: len(first.calls) == 4 and bool(first.in_flight))
        await victim.kill()
        async with world.process(pipeline=pipeline, remotes=remotes(second), name="w2"):
            state = await gateway.ended(job)
    assert error(state)["code"] == "BUDGET_EXCEEDED"
    assert len(second.calls) == 3  # with the three of the first run that came back: six
    assert sorted(state.spent.values()) == [3 * COST, 3 * COST]


@virtual
async def test_a_run_whose_replies_are_all_recorded_needs_nothing_of_what_is_left() -> None:
    tries = 0

    async def fails_once(context: Context[Question]) -> Draft:
        nonlocal tries
        await one_by_one(context)
        if (tries := tries + 1) == 1:
            raise ProviderError("once more")
        return Draft(text="all")

    model = ScriptedModel(cost=Decimal("0.01"))
    async with World().process(remotes=remotes(model), pipeline=single(fails_once)) as process:
        state = await process.ended((await process.submit("3", max_usd=0.03)).job)
    assert (state.status, tries, len(model.calls)) == ("completed", 2, 3)


@virtual
async def test_an_answer_that_was_of_no_use_counts_and_one_without_a_cost_counts_as_the_most() -> None:
    def script(kind: str, job: str) -> None:
        if len(model.calls) == 1:
            raise PaidCallFailed("of no use", "scripted", Usage(10, 0, 5, Decimal("0.009")))

    async def goes_on(context: Context[Question]) -> Draft:
        with pytest.raises(PaidCallFailed):
            await context.call(question(0))
        return await one_by_one(context)

    model = ScriptedModel(cost=None, script=script)
    async with World().process(remotes=remotes(model), pipeline=single(goes_on)) as process:
        state = await process.ended((await process.submit("9", max_usd=0.03)).job)
    assert error(state)["code"] == "BUDGET_EXCEEDED"
    assert len(model.calls) == 1 + 2


@virtual
async def test_a_call_that_fails_unpaid_gives_back_what_it_reserved() -> None:
    def script(kind: str, job: str) -> None:
        if len(model.calls) % 2:
            raise ProviderError("503")

    model = ScriptedModel(cost=Decimal("0.01"), script=script)
    async with World().process(remotes=remotes(model), pipeline=single(one_by_one)) as process:
        state = await process.ended((await process.submit("3", max_usd=0.03)).job)
    assert (state.status, len(model.calls)) == ("completed", 6)


@virtual
async def test_a_model_without_a_known_price_gets_no_call_of_a_limited_job() -> None:
    model = ScriptedModel()
    async with World().process(remotes=remotes(model, None), pipeline=single(one_by_one)) as process:
        state = await process.ended((await process.submit("1", max_usd=100.0)).job)
    assert (error(state)["code"], state.dead, model.calls) == ("PRICE_UNKNOWN", False, [])


@virtual
async def test_a_cheaper_provider_takes_the_call_that_is_too_dear_elsewhere() -> None:
    dear, unknown, cheap = ScriptedModel(), ScriptedModel(), ScriptedModel()
    offered = [
        Remote("dear", dear, Limits(6000.0), price=replace(PRICE, output=Decimal(10_000))),
        Remote("unknown", unknown, Limits(6000.0)),
        Remote("cheap", cheap, Limits(6000.0), price=PRICE),
    ]
    async with World().process(remotes=offered, pipeline=single(one_by_one)) as process:
        state = await process.ended((await process.submit("1", max_usd=0.01)).job)
    assert state.status == "completed"
    assert (dear.calls, unknown.calls, len(cheap.calls)) == ([], [], 1)


@pytest.mark.parametrize("order", [1, -1])
def test_a_price_that_is_known_and_too_high_is_the_reason_beside_one_that_is_not_known(order: int) -> None:
    @virtual
    async def check() -> None:
        offered = [Remote("dear", ScriptedModel(), Limits(6000.0), price=PRICE)]
        offered.append(Remote("unknown", ScriptedModel(), Limits(6000.0)))
        async with World().process(remotes=offered[::order], pipeline=single(one_by_one)) as process:
            state = await process.ended((await process.submit("1", max_usd=0.009)).job)
        assert error(state)["code"] == "BUDGET_EXCEEDED"

    check()


@virtual
async def test_a_stage_may_return_what_it_has() -> None:
    async def frugal(context: Context[Question]) -> Draft:
        answers = []
        for number in range(9):
            try:
                answers.append((await context.call(question(number))).value)
            except BudgetExceeded:
                break
        return Draft(text=f"{len(answers)} answers")

    async with World().process(remotes=remotes(ScriptedModel(cost=COST)), pipeline=single(frugal)) as process:
        state = await process.ended((await process.submit("", max_usd=0.03)).job)
    assert state.outputs["draft"] == {"text": "6 answers"}


def test_the_fold_counts_every_paid_call_of_every_run() -> None:
    """Also one whose reply another run has recorded already, and one whose cost nobody can read."""
    state = JobState(
        job="j",
        pipeline="ask",
        accepted=0.0,
        max_wait=1.0,
        timeout=1.0,
        digest="",
        queued_at=0,
        updated_at=0.0,
        run="b",
        max_usd=1.0,
    )
    costs = [("a", "0.1"), ("b", "0.2"), ("b", "0.3"), ("b", None), ("b", "NaN"), ("b", 7)]
    for place, (run, cost) in enumerate(costs):
        reply: dict[str, object] = {"value": "", "model": "m", "usage": {"cost_usd": cost}}
        event = CallCompleted(ts=1.0, job="j", run=run, stage="draft", key="k", digest="d", reply=reply)
        after = apply(state, EventId(place + 1), event)
        assert after is not None
        state = after
    assert state.spent == {"a": Decimal("0.1"), "b": Decimal("0.5")}
    assert len(state.recorded) == 1
