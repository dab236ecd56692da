"""The worker: what happens to a job from its delivery to its settling, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Never, Self, cast

import pytest
from msgspec import structs
from pydantic import model_validator

from eco2.broker.embedded import Chaos
from eco2.call import UnfitAnswer, Usage
from eco2.consumers.deltas import DeltaSender
from eco2.delta import DELTA_INTERVAL, DELTA_TOPIC, Delta, decode_deltas, encode_deltas
from eco2.errors import BrokerUnavailable, PermanentError, ProviderError
from eco2.event import Done, Marker, Queued, Released, RunStarted, StageChanged, Status, decode_events
from eco2.job import new_id
from eco2.pipeline import JSON, Call, Context, Outputs, Pipeline, Stage
from eco2.ports import Delivery, First, Model, Record, Start, Subscription
from eco2.service import run
from tests.clock import VirtualClock, virtual
from tests.world import (
    KEEP,
    Draft,
    Final,
    Process,
    Question,
    ScriptedModel,
    World,
    draft,
    order,
    result,
    until,
)


async def queue_is_empty(process: Process, queue: str = "jobs.ask") -> bool:
    """Nothing waits in the queue: a message published now is the first that comes."""
    came: list[Delivery] = []
    subscription = process.broker.consume(queue, 10, came.append)
    await process.broker.publish(queue, b"last", "last")
    await until(lambda: bool(came) and came[-1].body == b"last")
    for delivery in came:
        await delivery.ack()
    await subscription.cancel()
    return len(came) == 1


@virtual
async def test_a_job_runs_all_stages_and_its_result_is_in_the_journal() -> None:
    model = ScriptedModel()
    async with World().process(model) as process:
        state = await process.ended((await process.submit("why")).job)
    assert [(shown.stage, shown.status, shown.seq, shown.progress) for shown in state.shown] == [
        ("queued", "started", 0, 0),
        ("draft", "started", 10, 0),
        ("draft", "completed", 11, 50),
        ("final", "started", 20, 50),
        ("final", "completed", 21, 100),
        ("done", "completed", 31, 100),
    ]
    tokens = {"calls": 1, "input_tokens": 10, "cached_tokens": 0, "output_tokens": 5}
    usage = {"model": "scripted", **tokens, "cost_usd": None}
    assert state.result == {
        "task_id": state.job,
        "status": "completed",
        "message": "ask completed",
        "answer": "final(draft(why))",
        "error": None,
        "usage": {"draft": usage, "final": usage},
    }


@virtual
async def test_every_settled_job_has_left_the_queue() -> None:
    world = World()
    async with world.process() as other:
        async with world.process(ScriptedModel()) as process:
            jobs = [await process.submit(str(n)) for n in range(5)]
            for job in jobs:
                await process.ended(job.job)
        assert await queue_is_empty(other)


@virtual
async def test_jobs_wait_side_by_side_and_calls_in_flight_are_bounded() -> None:
    model = ScriptedModel(seconds=10)
    began = VirtualClock.now()
    async with World().process(model, prefetch=50, concurrency=20) as process:
        jobs = [await process.submit(str(n)) for n in range(40)]
        for job in jobs:
            await process.ended(job.job)
    assert model.peak == 20
    assert VirtualClock.now() - began == pytest.approx(40, abs=1)  # 80 calls of 10 s, 20 at once


@virtual
async def test_prefetch_bounds_the_jobs_of_one_worker() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model, prefetch=3) as process:
        jobs = [await process.submit(str(n)) for n in range(9)]
        for job in jobs:
            await process.ended(job.job)
    assert model.peak == 3


@virtual
async def test_what_may_pass_is_tried_again_within_the_stage() -> None:
    failures = iter([ProviderError("503"), ProviderError("429", retry_after=7.0)])

    def script(kind: str, job: str) -> None:
        if failure := next(failures, None):
            raise failure

    model = ScriptedModel(script=script)
    began = VirtualClock.now()
    async with World().process(model) as process:
        state = await process.ended((await process.submit()).job)
    assert state.status == "completed"
    assert [kind for kind, _ in model.calls] == ["draft", "draft", "draft", "final"]
    assert VirtualClock.now() - began >= 7.0


@pytest.mark.parametrize(
    ("error", "code", "calls"),
    [
        (PermanentError("no", "CONTENT_REFUSED"), "CONTENT_REFUSED", 1),
        (ProviderError("503"), "UNAVAILABLE", 3),
        (ZeroDivisionError(), "INTERNAL", 1),
    ],
)
def test_a_stage_that_fails_for_good_ends_the_job(error: Exception, code: str, calls: int) -> None:
    @virtual
    async def scenario() -> None:
        def script(kind: str, job: str) -> None:
            if kind == "final":
                raise error

        model = ScriptedModel(script=script)
        async with World().process(model) as process:
            state = await process.ended((await process.submit()).job)
        assert [(shown.stage, shown.status, shown.seq) for shown in state.shown[-2:]] == [
            ("final", "failed", 21),
            ("done", "failed", 31),
        ]
        assert state.result is not None
        assert state.result["answer"] is None
        assert isinstance(state.result["error"], dict)
        assert state.result["error"]["code"] == code
        assert len(model.calls) == 1 + calls

    scenario()


@virtual
async def test_nothing_runs_past_the_deadline() -> None:
    model = ScriptedModel(seconds=50)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(life=75)).job)
        assert VirtualClock.now() - state.accepted == pytest.approx(75, abs=0.5)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "DEADLINE"
    assert model.in_flight == 0


@virtual
async def test_an_order_that_comes_after_its_deadline_is_not_begun() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        late = await gateway.submit(life=30)
        await asyncio.sleep(31)
        async with world.process(model):
            state = await gateway.ended(late.job)
    assert state.status == "failed"
    assert model.calls == []


@virtual
async def test_a_call_without_an_answer_times_out() -> None:
    model = ScriptedModel(seconds=1000)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(life=800)).job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "UNAVAILABLE"


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
    assert [shown.seq for shown in state.shown] == [0, 10, 11, 20, 21, 31]


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
async def test_a_job_of_a_worker_that_vanished_goes_on_behind_its_last_completed_stage() -> None:
    world, first, second = World(), ScriptedModel(seconds=10), ScriptedModel()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        vanishing = asyncio.create_task(_work_until_cancelled(world, first))
        await until(lambda: [kind for kind, _ in first.calls] == ["draft", "final"])
        vanishing.cancel()
        await asyncio.wait({vanishing})
        async with world.process(second):
            state = await gateway.ended(job)
    assert [kind for kind, _ in second.calls] == ["final"]
    assert (state.status, state.attempt) == ("completed", 2)


async def _work_until_cancelled(world: World, model: ScriptedModel) -> None:
    async with world.process(model):
        await asyncio.get_running_loop().create_future()


@virtual
async def test_an_order_that_comes_twice_to_one_worker_runs_once() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as other:
        async with world.process(model) as process:
            state = await process.submit()
            now = VirtualClock.now()
            again = order(state.job, "q", now)
            await process.order(again)
            await process.ended(state.job)
            await process.order(again)
            await process.ended((await process.submit("the next")).job)
        assert await queue_is_empty(other)
    assert [kind for kind, job in model.calls if job == state.job] == ["draft", "final"]


@virtual
async def test_a_run_that_the_journal_fences_off_stops_and_changes_nothing() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        end = Done(
            ts=VirtualClock.now(), job=job, run=None, status="cancelled", seq=31, result={"by": "someone"}
        )
        await process.journal.put(end)
        state = await process.ended(job)
        await until(lambda: not model.in_flight)
    assert [kind for kind, _ in model.calls] == ["draft"]
    assert (state.status, state.result) == ("cancelled", {"by": "someone"})


@pytest.mark.parametrize("body", [b"", b"not json", b'{"v":99,"job":{}}'])
def test_what_is_no_order_goes_to_the_dead_letters(body: bytes) -> None:
    @virtual
    async def scenario() -> None:
        dead: list[Delivery] = []
        async with World().process(ScriptedModel()) as process:
            process.broker.consume("dead", 10, dead.append)
            await process.broker.publish("jobs.ask", body, "m")
            await until(lambda: bool(dead))
            await dead[0].ack()
            assert (await process.ended((await process.submit()).job)).status == "completed"
        assert dead[0].body == body

    scenario()


@virtual
async def test_an_order_that_no_gateway_announced_goes_to_the_dead_letters() -> None:
    dead: list[Delivery] = []
    now = VirtualClock.now()
    async with World().process(ScriptedModel()) as process:
        process.broker.consume("dead", 10, dead.append)
        ghost = new_id(now)
        await process.order(order(ghost, "q", now))
        await until(lambda: bool(dead))
        assert [delivery.message_id for delivery in dead] == [ghost]
        await dead[0].ack()


@virtual
async def test_live_text_is_sent_gathered_and_starts_over_with_a_retry() -> None:
    cuts = iter([None, ProviderError("cut")])

    def script(kind: str, job: str) -> None:
        if cut := next(cuts, None):
            raise cut

    heard: list[bytes] = []
    async with World().process(ScriptedModel(script=script)) as process:
        process.broker.listen(DELTA_TOPIC, lambda topic, body: heard.append(body))
        await process.ended((await process.submit()).job)
    deltas = [delta for body in heard for delta in decode_deltas(body)]
    assert [(delta.stage, delta.pos, delta.text) for delta in deltas] == [("final", 0, "final")] * 2


@virtual
async def test_a_checkpoint_within_a_stage_survives_a_drain() -> None:
    gate, seen = asyncio.Event(), []

    async def halting(context: Context[Question]) -> Draft:
        half = context.saved("half")
        seen.append(half)
        if half is None:
            await context.checkpoint("half", {"n": 1})
            gate.set()
            await asyncio.sleep(100)
        return Draft(text="whole")

    only = Pipeline("ask", Question, (Stage("draft", halting, Draft),), lambda outputs: {})
    world = World()
    async with world.process() as gateway:
        async with world.process(ScriptedModel(), only) as leaving:
            job = (await gateway.submit()).job
            await gate.wait()
            leaving.stop.set()
        async with world.process(ScriptedModel(), only):
            assert (await gateway.ended(job)).status == "completed"
    assert seen == [None, {"n": 1}]


@virtual
async def test_a_stage_that_returns_the_wrong_thing_is_a_bug_of_the_stage() -> None:
    wrong = Pipeline("ask", Question, (Stage("draft", draft, Question),), result)
    async with World().process(ScriptedModel(), wrong) as process:
        state = await process.ended((await process.submit()).job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "INTERNAL"


@virtual
async def test_a_bug_in_the_result_ends_the_job_and_not_the_worker() -> None:
    def broken(outputs: Outputs | None) -> JSON:
        raise ZeroDivisionError

    pipeline = Pipeline("ask", Question, (Stage("draft", draft, Draft),), broken)
    async with World().process(ScriptedModel(), pipeline) as process:
        for _ in range(2):
            state = await process.ended((await process.submit()).job)
            assert state.result is not None
            assert isinstance(state.result["error"], dict)
            assert state.result["error"]["code"] == "INTERNAL"


@virtual
async def test_text_that_json_cannot_hold_ends_the_job_and_not_the_worker() -> None:
    async def half_a_character(context: Context[Question]) -> Draft:
        context.emit("\ud83d")
        await asyncio.sleep(1)
        if context.input.text == "fail":
            raise PermanentError("\ud83d")
        return Draft(text="\ud83d")

    pipeline = Pipeline("ask", Question, (Stage("draft", half_a_character, Draft),), lambda _: {})
    async with World().process(ScriptedModel(), pipeline) as process:
        states = [await process.ended((await process.submit(text)).job) for text in ("fail", "return")]
    assert [state.status for state in states] == ["failed", "failed"]


@virtual
async def test_a_drain_waits_for_every_call_of_a_stage_and_for_what_they_brought() -> None:
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
async def test_a_stage_that_fails_of_being_drained_is_not_a_failed_stage() -> None:
    async def untidy(context: Context[Question]) -> Draft:
        try:
            await asyncio.sleep(10)
        finally:
            if context.saved("tidy") is None:
                await context.checkpoint("tidy", {})
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
    assert [(shown.stage, shown.status) for shown in state.shown[1:]] == [
        ("draft", "started"),
        ("draft", "completed"),
        ("done", "completed"),
    ]


@virtual
async def test_a_cancellation_that_nobody_asked_for_ends_the_job_and_frees_its_slot() -> None:
    async def stray(context: Context[Question]) -> Draft:
        waiting = asyncio.ensure_future(asyncio.sleep(10))
        waiting.cancel()
        await waiting
        return Draft(text="")

    pipeline = Pipeline("ask", Question, (Stage("draft", stray, Draft),), lambda _: {})
    async with World().process(ScriptedModel(), pipeline, prefetch=1) as process:
        for _ in range(3):
            assert (await process.ended((await process.submit()).job)).status == "failed"


@virtual
async def test_an_input_whose_validator_has_a_bug_ends_the_job_and_not_the_worker() -> None:
    class Broken(Question):
        @model_validator(mode="after")
        def look(self) -> Self:
            raise KeyError("a bug")

    pipeline: Pipeline[Broken] = Pipeline("ask", Broken, (), lambda _: {})
    async with World().process(ScriptedModel(), pipeline) as process:
        for _ in range(2):
            assert (await process.ended((await process.submit()).job)).status == "failed"


@virtual
async def test_a_process_stops_at_once_though_the_broker_takes_nothing() -> None:
    world = World()
    world.server.block("memory")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(2, stop.set)
    began = VirtualClock.now()
    await run(world.components(ScriptedModel())[1], stop)
    assert VirtualClock.now() - began < 2 + 2.5  # the longest pause between two tries is 2 s


@pytest.mark.parametrize("seed", range(40))
def test_on_an_unkind_broker_every_job_ends_once_and_clients_see_it_in_order(seed: int) -> None:
    @virtual
    async def scenario() -> None:
        world = World(Chaos(seed=seed))
        first, second = ScriptedModel(), ScriptedModel()
        async with world.process() as gateway, world.process(first), world.process(second):
            jobs = [(await gateway.submit(str(n))).job for n in range(30)]
            states = [await gateway.ended(job) for job in jobs]
        assert {state.status for state in states} == {"completed"}
        for state in states:
            assert [shown.seq for shown in state.shown] == [0, 10, 11, 20, 21, 31]

    scenario()


class Held:
    """From now on what a process puts into the journal goes out only once `release` is called."""

    def __init__(self, process: Process) -> None:
        self._free = asyncio.Event()
        self._append = process.broker.append
        process.broker.append = self._wait  # type: ignore[method-assign]

    def release(self) -> None:
        self._free.set()

    async def _wait(self, body: bytes, message_id: str) -> None:
        await self._free.wait()
        await self._append(body, message_id)


def single(run: Callable[[Context[Question]], Awaitable[Draft]]) -> Pipeline[Question]:
    return Pipeline("ask", Question, (Stage("draft", run, Draft),), lambda _: {})


@virtual
async def test_a_call_waits_until_what_was_paid_for_before_is_confirmed() -> None:
    model = ScriptedModel()
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        held = Held(process)
        await asyncio.sleep(20)
        assert [kind for kind, _ in model.calls] == ["draft"]
        held.release()
        assert (await process.ended(job)).status == "completed"


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


async def _pause_behind_a_call(context: Context[Question]) -> Draft:
    await context.call(Call("a", "", "", str, 10))
    await asyncio.sleep(100)
    return Draft(text="")


@virtual
async def test_a_run_that_is_overtaken_stops_and_goes_on_where_the_other_leaves_off() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        now = VirtualClock.now()
        await process.journal.put(overtaking(job))
        await until(lambda: not model.in_flight)
        assert VirtualClock.now() - now < 1
        await process.journal.put(_by_other(job, 10, "started"))
        await asyncio.sleep(5)
        await process.journal.put(_by_other(job, 11, "completed"))
        await asyncio.sleep(30)
        assert len(model.calls) == 1
        await process.journal.put(Released(ts=now, job=job, run="other", reason="drain"))
        state = await process.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]
    assert (state.status, state.attempt) == ("completed", 3)
    assert state.result is not None
    assert state.result["answer"] == "final(by the other)"


def overtaking(job: str, attempt: int = 2) -> RunStarted:
    """A run of another worker, which takes the job over without a word to its holder."""
    return RunStarted(ts=VirtualClock.now(), job=job, run="other", attempt=attempt, worker="elsewhere")


def _by_other(job: str, seq: int, status: Status) -> StageChanged:
    output: JSON | None = {"text": "by the other"} if status == "completed" else None
    now = VirtualClock.now()
    return StageChanged(
        ts=now, job=job, run="other", stage="draft", status=status, seq=seq, progress=0, output=output
    )


@virtual
async def test_a_run_that_stands_by_ends_the_job_at_its_deadline() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        accepted = await process.submit()
        await until(lambda: bool(model.in_flight))
        await process.journal.put(overtaking(accepted.job))
        state = await process.ended(accepted.job)
        assert VirtualClock.now() == pytest.approx(accepted.deadline, abs=0.5)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "DEADLINE"


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
async def test_an_end_that_came_too_late_is_void_and_the_job_goes_on() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model) as process:
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 2)
        held = Held(process)
        await until(lambda: not model.in_flight)
        await gateway.journal.put(overtaking(job))
        held.release()
        await process.journal.barrier()
        seen = gateway.journal.view.get(job)
        assert seen is not None
        assert not seen.ended
        now = VirtualClock.now()
        await gateway.journal.put(Released(ts=now, job=job, run="other", reason="drain"))
        state = await gateway.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final", "final"]
    assert (state.status, state.attempt) == ("completed", 3)


@virtual
async def test_of_two_workers_that_open_a_run_at_once_the_later_one_opens_the_next() -> None:
    world, model = World(), ScriptedModel()
    async with world.process() as gateway, world.process(model) as process:
        held = Held(process)
        job = (await gateway.submit()).job
        await gateway.journal.put(overtaking(job, attempt=1))
        held.release()
        state = await gateway.ended(job)
    assert [kind for kind, _ in model.calls] == ["draft", "final"]
    assert (state.status, state.attempt) == ("completed", 2)


@virtual
async def test_an_order_of_a_job_that_the_journal_has_dropped_goes_to_the_dead_letters() -> None:
    dead, reads = list[Delivery](), list[Start]()
    async with World().process(ScriptedModel()) as process:
        await process.ended((await process.submit()).job)
        read = process.broker.read

        def counted(start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
            reads.append(start)
            return read(start)

        process.broker.read = counted  # type: ignore[method-assign]
        process.broker.consume("dead", 10, dead.append)
        before = VirtualClock.now() - 3600
        await process.order(order(new_id(before), "q", before))
        await until(lambda: bool(dead))
        await dead[0].ack()
    assert len(reads) == 1  # not given back until the broker has enough of it


@virtual
async def test_an_order_comes_again_when_the_broker_failed_while_its_job_was_looked_up() -> None:
    async with World().process(ScriptedModel()) as process:
        now = VirtualClock.now()
        old = order(new_id(now), "q", now)
        await process.journal.put(
            Queued(ts=now, job=old.id, pipeline="ask", deadline=old.deadline, digest=old.digest)
        )
        await asyncio.sleep(KEEP + 1)
        await process.ended((await process.submit()).job)
        read, fails = process.broker.read, iter([True])

        def unsteady(start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
            if next(fails, False):
                raise BrokerUnavailable("the connection is gone")
            return read(start)

        process.broker.read = unsteady  # type: ignore[method-assign]
        await process.order(old)
        state = None
        while state is None or not state.ended:
            await asyncio.sleep(1)
            state = await process.journal.find(old.id)
    assert next(fails, None) is None
    assert state.status == "failed"


@virtual
async def test_a_checkpoint_is_confirmed_before_the_stage_goes_on_and_belongs_to_its_stage() -> None:
    model, saved = ScriptedModel(), list[JSON | None]()

    async def first(context: Context[Question]) -> Draft:
        await context.call(Call("first", "", "", str, 10))
        await context.checkpoint("half", {"n": 1})
        saved.append(context.saved("half"))
        return Draft(text="")

    async def second(context: Context[Question]) -> Final:
        saved.append(context.saved("half"))
        return Final(text="")

    stages = (Stage("draft", first, Draft), Stage("final", second, Final))
    async with World().process(model, Pipeline("ask", Question, stages, lambda _: {})) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        held = Held(process)
        await asyncio.sleep(10)
        assert saved == []
        held.release()
        await process.ended(job)
    assert saved == [{"n": 1}, None]


@virtual
async def test_usage_counts_every_call_also_those_of_earlier_runs_and_without_an_answer() -> None:
    unfit = iter([UnfitAnswer("unfit", "scripted", Usage(10, 0, 5), "x", "too short")])

    def script(kind: str, job: str) -> None:
        if kind == "first" and (error := next(unfit, None)):
            raise error

    async def frugal(context: Context[Question]) -> Draft:
        if context.saved("half") is None:
            with pytest.raises(UnfitAnswer):
                await context.call(Call("first", "", "", str, 10))
            await context.call(Call("first", "", "", str, 10))
            await context.checkpoint("half", {})
            await asyncio.sleep(100)
        reply = await context.call(Call("second", "", "", str, 10))
        return Draft(text=reply.value)

    world, model = World(), ScriptedModel(script=script)
    async with world.process() as gateway:
        async with world.process(model, single(frugal)) as leaving:
            job = (await gateway.submit()).job
            await asyncio.sleep(5)
            leaving.stop.set()
        async with world.process(model, single(frugal)):
            state = await gateway.ended(job)
    assert [kind for kind, _ in model.calls] == ["first", "first", "second"]
    assert state.result is not None
    assert state.result["usage"] == {"draft": used(calls=3)}


def used(calls: int) -> JSON:
    tokens = {"input_tokens": 10 * calls, "cached_tokens": 0, "output_tokens": 5 * calls}
    return {"model": "scripted", "calls": calls, **tokens, "cost_usd": None}


@virtual
async def test_a_job_that_ends_at_its_deadline_says_what_was_paid_for_it() -> None:
    world, model = World(), ScriptedModel(seconds=10)
    async with world.process() as gateway:
        async with world.process(model) as leaving:
            job = (await gateway.submit(life=30)).job
            await until(lambda: bool(model.in_flight))
            leaving.stop.set()
        await asyncio.sleep(30)
        async with world.process(ScriptedModel()):
            state = await gateway.ended(job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "DEADLINE"
    assert state.result["usage"] == {"draft": used(calls=1)}


@virtual
async def test_clients_are_shown_why_a_stage_failed_and_what_it_took() -> None:
    async def refuse(context: Context[Question]) -> Draft:
        await context.call(Call("moderation", "", "", str, 10))
        raise PermanentError("no", "CONTENT_REFUSED")

    async with World().process(ScriptedModel(), single(refuse)) as process:
        state = await process.ended((await process.submit()).job)
    assert state.shown[-2].result == {"code": "CONTENT_REFUSED", "message": "no"}
    assert state.shown[-2].progress == 0
    assert state.result is not None
    assert state.result["usage"] == {"draft": used(calls=1)}


@virtual
async def test_a_job_that_waits_for_a_slot_is_not_shown_as_started() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model, concurrency=1) as process:
        jobs = [(await process.submit(str(n))).job for n in range(2)]
        await asyncio.sleep(5)
        states = [process.journal.view.get(job) for job in jobs]
        assert sorted(len(state.shown) for state in states if state) == [1, 2]
        for job in jobs:
            await process.ended(job)


@virtual
async def test_every_fact_is_written_once_and_a_late_order_writes_nothing() -> None:
    written: list[str] = []

    def read(record: Record) -> None:
        events = (event for event in decode_events(record.body) if not isinstance(event, Marker))
        written.extend(type(event).__name__ for event in events)

    async with World().process(ScriptedModel()) as process:
        process.broker.tail(First(), read)
        first = (await process.submit()).job
        await process.ended(first)
        await process.ended((await process.submit()).job)
        await process.order(order(first, "q", VirtualClock.now()))
        await process.ended((await process.submit()).job)
    assert written == ["Queued", "RunStarted", *["StageChanged"] * 4, "Done"] * 3


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
async def test_a_job_runs_on_the_model_that_its_client_pinned() -> None:
    class Choosing(ScriptedModel):
        asked: ClassVar[set[str | None]] = set()

        def get(self, name: str | None) -> Model:
            self.asked.add(name)
            return super().get(name)

    model = Choosing()
    async with World().process(model) as process:
        now = VirtualClock.now()
        pinned = structs.replace(order(new_id(now), "q", now), model="gpt")
        await process.journal.put(
            Queued(ts=now, job=pinned.id, pipeline="ask", deadline=pinned.deadline, digest="q", model="gpt")
        )
        await process.order(pinned)
        await process.ended(pinned.id)
    assert model.asked == {"gpt"}


@virtual
async def test_what_a_stage_brought_is_written_though_the_broker_was_away_at_the_deadline() -> None:
    world, model = World(), ScriptedModel()
    async with world.process(model) as process:
        job = (await process.submit(life=20)).job
        await until(lambda: bool(model.in_flight))
        world.server.block("memory")
        await asyncio.sleep(25)
        world.server.unblock()
        state = await process.ended(job)
    assert [shown.seq for shown in state.shown] == [0, 10, 11, 31]


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


@virtual
async def test_a_result_that_json_cannot_hold_ends_the_job_and_not_the_worker() -> None:
    pipeline = Pipeline("ask", Question, (), lambda _: {"answer": object()})
    async with World().process(ScriptedModel(), pipeline) as process:
        for _ in range(2):
            state = await process.ended((await process.submit()).job)
            assert state.result is not None
            assert isinstance(state.result["error"], dict)
            assert state.result["error"]["code"] == "INTERNAL"


class Hearing:
    """What a live exchange was given, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, list[tuple[int, str]]]] = []

    def cast(self, topic: str, body: bytes) -> None:
        pieces = [(delta.pos, delta.text) for delta in decode_deltas(body)]
        self.heard.append((asyncio.get_running_loop().time(), pieces))

    def listen(self, pattern: str, on_message: Callable[[str, bytes], None]) -> Never:
        raise AssertionError("the sender does not listen")


@virtual
async def test_live_text_goes_out_once_and_at_most_once_an_interval() -> None:
    live, stop = Hearing(), asyncio.Event()
    sender = DeltaSender(live)
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.run(stop))
        for pos, text in ((0, "a"), (1, "b"), (2, "c")):
            sender.add("j", "r", "s", pos, text)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        sender.add("j", "r", "s", 3, "d")
        sender.add("j", "r", "s", 0, "again")
        await asyncio.sleep(1)
        stop.set()
    assert [pieces for _, pieces in live.heard] == [[(0, "a")], [(1, "bc")], [(0, "again")]]
    moments = [moment for moment, _ in live.heard]
    assert moments == pytest.approx([0.0, DELTA_INTERVAL, 2 * DELTA_INTERVAL])


NEWER = encode_deltas([Delta("j", "r", "s", 0, "a")]).replace(b'"v":1', b'"v":2')


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", NEWER])
def test_live_text_that_this_version_cannot_read_is_none(body: bytes) -> None:
    assert decode_deltas(body) == []


@virtual
async def test_a_run_that_is_interrupted_twice_does_no_harm() -> None:
    async def slow_to_leave(context: Context[Question]) -> Draft:
        try:
            await asyncio.sleep(10)
        finally:
            if context.input.text == "first":
                await asyncio.sleep(5)
        return Draft(text="")

    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    async with World().process(ScriptedModel(), single(slow_to_leave)) as process:
        first = (await process.submit("first")).job
        second = (await process.submit("second")).job
        await asyncio.sleep(1)
        now = VirtualClock.now()
        await process.journal.put(overtaking(first))
        await asyncio.sleep(1)
        await process.journal.put(
            Done(ts=now, job=first, run="other", status="completed", seq=21, result={"by": "the other"})
        )
        assert (await process.ended(first)).result == {"by": "the other"}
        assert (await process.ended(second)).status == "completed"
    assert unseen == []


@virtual
async def test_an_order_that_is_no_utf_8_goes_to_the_dead_letters() -> None:
    dead: list[Delivery] = []
    async with World().process(ScriptedModel()) as process:
        process.broker.consume("dead", 10, dead.append)
        await process.broker.publish("jobs.ask", b'{"v":1,"job":{"id":"\xff"}}', "m")
        await until(lambda: bool(dead))
        assert [delivery.message_id for delivery in dead] == ["m"]
        await dead[0].ack()
