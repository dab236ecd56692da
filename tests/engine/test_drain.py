"""Stopping a worker: calls in flight finish, what was paid for is saved, the rest is given back."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import pytest

from eco2.call import InvalidAnswer, Usage
from eco2.errors import ProviderError
from eco2.event import Released
from eco2.pipeline import JSON, Call, Context, Pipeline, Stage
from eco2.ports import Delivery, Subscription
from eco2.service import run
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import Held, overtaking, rival, single, used
from tests.support.world import (
    Draft,
    Question,
    ScriptedModel,
    World,
    until,
)


async def _pause_behind_a_call(context: Context[Question]) -> Draft:
    await context.call(Call("a", "", "", str, 10))
    await asyncio.sleep(100)
    return Draft(text="")


class SlowToReturn:
    """A delivery whose give-back the broker has heard of before we know that it has."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> object:
        return getattr(self._delivery, name)

    async def requeue(self) -> None:
        await self._delivery.requeue()
        await asyncio.sleep(1)


@virtual
async def test_drain_lets_the_call_in_flight_finish_and_another_worker_goes_on_behind_it() -> None:
    world, first, second = World(), ScriptedModel(seconds=10), ScriptedModel(seconds=10)
    async with world.process() as gateway:
        async with world.process(first, name="first") as leaving:
            job = (await gateway.submit()).job
            await until(lambda: bool(first.in_flight))
            leaving.stop.set()
        assert [kind for kind, _ in first.calls] == ["draft"]
        released = gateway.journal.view.get(job)
        assert released is not None
        assert released.released
        async with world.process(second, name="second"):
            state = await gateway.ended(job)
    assert [kind for kind, _ in second.calls] == ["final"]
    assert state.status == "completed"
    assert [shown.seq for shown in state.visible_events] == [0, 10, 11, 20, 21, 31]


@virtual
async def test_a_job_that_waits_for_a_slot_is_given_back_at_once_by_a_drain() -> None:
    world, slow = World(), ScriptedModel(seconds=10)
    async with world.process() as gateway:
        async with world.process(slow, concurrency=1) as leaving:
            jobs = [(await gateway.submit(str(n))).job for n in range(3)]
            await until(lambda: bool(slow.in_flight))
            leaving.stop.set()
        assert len(slow.calls) == 1
        async with world.process(ScriptedModel()):
            states = [await gateway.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}


@virtual
async def test_a_step_survives_a_drain() -> None:
    gate, ran = asyncio.Event(), list[str]()

    async def work(step_id: str) -> JSON:
        ran.append(step_id)
        return {"n": 1}

    async def halting(context: Context[Question]) -> Draft:
        half = await context.step("half", work)
        if not gate.is_set():
            gate.set()
            await asyncio.sleep(100)
        return Draft(text=str(half["n"]))

    only = Pipeline("ask", Question, (Stage("draft", halting, Draft),), lambda outputs: {})
    world = World()
    async with world.process() as gateway:
        async with world.process(ScriptedModel(), only) as leaving:
            job = (await gateway.submit()).job
            await gate.wait()
            leaving.stop.set()
        async with world.process(ScriptedModel(), only):
            state = await gateway.ended(job)
    assert state.outputs["draft"] == {"text": "1"}
    assert ran == [f"{job}/draft/step/half/0"]


@virtual
async def test_a_drain_repeats_no_call_of_a_stage() -> None:
    """Calls side by side, work after the reply, a second call: nothing that was paid is paid again."""

    async def thorough(context: Context[Question]) -> Draft:
        calls = [context.call(Call(name, "", "", str, 10)) for name in ("a", "b")]
        await asyncio.gather(*calls)
        await asyncio.sleep(5)
        reply = await context.call(Call("c", "", "", str, 10))
        return Draft(text=reply.value)

    pipeline = Pipeline("ask", Question, (Stage("draft", thorough, Draft),), lambda _: {})
    for moment in (0.5, 1.5, 3.0, 6.5):
        world, first, second = World(), ScriptedModel(), ScriptedModel()
        async with world.process() as gateway:
            async with world.process(first, pipeline) as leaving:
                job = (await gateway.submit()).job
                await asyncio.sleep(moment)
                leaving.stop.set()
            async with world.process(second, pipeline):
                await gateway.ended(job)
        assert sorted(kind for kind, _ in first.calls + second.calls) == ["a", "b", "c"]


@virtual
async def test_a_drain_repeats_no_call_whose_answer_was_of_no_use() -> None:
    """It was paid for, too."""

    async def patient(context: Context[Question]) -> Draft:
        with suppress(InvalidAnswer):
            await context.call(Call("a", "", "", str, 10))
        await asyncio.sleep(5)
        return Draft(text=(await context.call(Call("b", "", "", str, 10))).value)

    def unfit(kind: str, _: str) -> None:
        if kind == "a":
            raise InvalidAnswer("unfit", "scripted", Usage(10, 0, 5), "x", "too short")

    pipeline = Pipeline("ask", Question, (Stage("draft", patient, Draft),), lambda _: {})
    world, first, second = World(), ScriptedModel(script=unfit), ScriptedModel(script=unfit)
    async with world.process() as gateway:
        async with world.process(first, pipeline) as leaving:
            job = (await gateway.submit()).job
            await asyncio.sleep(0.5)
            leaving.stop.set()
        async with world.process(second, pipeline):
            await gateway.ended(job)
    assert sorted(kind for kind, _ in first.calls + second.calls) == ["a", "b"]


@virtual
async def test_a_stage_that_fails_of_being_drained_is_not_a_failed_stage() -> None:
    untidy_runs = iter([True])

    async def untidy(context: Context[Question]) -> Draft:
        try:
            await asyncio.sleep(10)
        finally:
            if next(untidy_runs, False):
                raise ZeroDivisionError
        return Draft(text="")

    pipeline = Pipeline("ask", Question, (Stage("draft", untidy, Draft),), lambda _: {})
    world = World()
    async with world.process() as gateway:
        async with world.process(ScriptedModel(), pipeline) as leaving:
            job = (await gateway.submit()).job
            await asyncio.sleep(1)
            leaving.stop.set()
        async with world.process(ScriptedModel(), pipeline):
            state = await gateway.ended(job)
    assert [(shown.stage, shown.status) for shown in state.visible_events[1:]] == [
        ("draft", "started"),
        ("draft", "completed"),
        ("done", "completed"),
    ]


@virtual
async def test_a_process_stops_at_once_though_the_broker_takes_nothing() -> None:
    world = World()
    world.server.block("memory")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(2, stop.set)
    began = VirtualClock.now()
    await run(world.components(ScriptedModel())[1], stop)
    assert VirtualClock.now() - began < 2 + 2.5  # the longest pause between two tries is 2 s


@virtual
async def test_a_job_is_given_back_only_once_what_was_paid_for_is_confirmed() -> None:
    world, first, second = World(), ScriptedModel(), ScriptedModel()
    async with world.process() as gateway, world.process(first) as leaving:
        job = (await gateway.submit()).job
        await until(lambda: bool(first.in_flight))
        held = Held(leaving)
        leaving.stop.set()
        async with world.process(second):
            await asyncio.sleep(75)  # the drain's grace of 70 s is over, the component's of 80 is not
            held.release()
            state = await gateway.ended(job)
    assert [kind for kind, _ in first.calls + second.calls] == ["draft", "final"]
    assert state.result is not None
    assert state.result["usage"] == {"draft": used(calls=1), "final": used(calls=1)}


@virtual
async def test_what_outlasts_the_grace_of_a_drain_is_given_back() -> None:
    world, slow = World(), ScriptedModel(seconds=50)
    pipeline = single(_pause_behind_a_call)
    async with world.process() as gateway:
        async with world.process(slow, pipeline) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: bool(slow.in_flight))
            began = VirtualClock.now()
            leaving.stop.set()
        assert VirtualClock.now() - began == pytest.approx(70, abs=0.1)
        state = gateway.journal.view.get(job)
        assert state is not None
        assert state.released


@pytest.mark.parametrize("overtaken_first", [True, False])
def test_a_run_that_stands_by_gives_its_delivery_back_when_it_is_drained(overtaken_first: bool) -> None:
    @virtual
    async def scenario() -> None:
        world, first, second = World(), ScriptedModel(seconds=10), ScriptedModel()
        async with world.process() as gateway:
            async with world.process(first) as leaving:
                job = (await gateway.submit()).job
                await until(lambda: bool(first.in_flight))
                if not overtaken_first:
                    leaving.stop.set()
                    await asyncio.sleep(1)
                now = VirtualClock.now()
                await gateway.journal.put(overtaking(job))
                await until(lambda: not first.in_flight)
                leaving.stop.set()
            assert VirtualClock.now() - now < 1
            state = gateway.journal.view.get(job)
            assert state is not None
            assert (state.run, state.released) == ("other", False)
            async with world.process(second):
                assert (await gateway.ended(job)).status == "completed"

    scenario()


@virtual
async def test_what_an_overtaken_run_paid_for_is_void_and_does_not_hold_up_a_drain() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        async with world.process(model, single(_pause_behind_a_call)) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: bool(model.calls) and not model.in_flight)
            await gateway.journal.put(overtaking(job))
            with rival(gateway, job):
                await asyncio.sleep(1)
                began = VirtualClock.now()
                leaving.stop.set()
        assert VirtualClock.now() - began < 1


@virtual
async def test_a_drain_while_a_run_is_opened_is_heeded_by_a_stage_that_calls_nothing() -> None:
    began: list[str] = []

    async def local(context: Context[Question]) -> Draft:
        began.append(context.job_id)
        await asyncio.sleep(50)
        return Draft(text="")

    world = World()
    async with world.process() as gateway:
        async with world.process(ScriptedModel(), single(local)) as leaving:
            held = Held(leaving)
            job = (await gateway.submit()).job
            await asyncio.sleep(1)
            leaving.stop.set()
            await asyncio.sleep(1)
            held.release()
        state = gateway.journal.view.get(job)
        assert state is not None
        assert (state.released, began) == (True, [])


@virtual
async def test_a_job_that_waits_to_try_again_is_given_back_at_once_by_a_drain() -> None:
    def script(kind: str, job: str) -> None:
        raise ProviderError("429", retry_after=50.0)

    world, model = World(), ScriptedModel(script=script)
    async with world.process() as gateway:
        async with world.process(model) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: bool(model.calls) and not model.in_flight)
            began = VirtualClock.now()
            leaving.stop.set()
        assert VirtualClock.now() - began < 1
        state = gateway.journal.view.get(job)
        assert state is not None
        assert state.released
    assert len(model.calls) == 1


@virtual
async def test_what_a_stage_brought_is_written_though_the_broker_was_away_at_the_deadline() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        job = (await process.submit(max_wait=20)).job
        await until(lambda: bool(model.in_flight))
        world.server.block("memory")
        await asyncio.sleep(25)
        world.server.unblock()
        state = await process.ended(job)
    assert [shown.seq for shown in state.visible_events] == [0, 10, 11, 20, 31]


@virtual
async def test_a_job_that_comes_back_while_it_is_given_back_is_taken_again() -> None:
    model, world = ScriptedModel(seconds=10), World()
    process, components = world.components(model)
    consume = process.broker.consume

    def slowly(queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Subscription:
        return consume(queue, prefetch, lambda delivery: on_delivery(cast(Delivery, SlowToReturn(delivery))))

    process.broker.consume = slowly  # type: ignore[method-assign]
    async with world.process() as gateway, asyncio.TaskGroup() as group:
        group.create_task(run(components, process.stop))
        job = (await gateway.submit()).job
        await until(lambda: bool(model.in_flight))
        await gateway.journal.put(overtaking(job))
        await until(lambda: not model.in_flight)
        now = VirtualClock.now()
        await gateway.journal.put(Released(ts=now, job=job, run="other", reason="drain"))
        state = await gateway.ended(job)
        process.stop.set()
    assert state.status == "completed"


@virtual
async def test_a_worker_that_stops_before_its_view_is_filled_takes_no_order() -> None:
    world = World()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        world.server.block("memory")
        leaving, components = world.components(ScriptedModel())
        asyncio.get_running_loop().call_later(2, leaving.stop.set)
        began = VirtualClock.now()
        await run(components, leaving.stop)
        assert VirtualClock.now() - began < 2 + 2.5
        world.server.unblock()
        async with world.process(ScriptedModel()):
            assert (await gateway.ended(job)).status == "completed"
