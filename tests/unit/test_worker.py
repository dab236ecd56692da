"""The worker: what happens to a job from its delivery to its settling, in virtual time."""

import asyncio
from typing import Self

import pytest
from pydantic import model_validator

from eco2.broker.embedded import Chaos
from eco2.delta import DELTA_TOPIC, decode_deltas
from eco2.errors import PermanentError, ProviderError
from eco2.event import Done
from eco2.job import new_id
from eco2.pipeline import JSON, Call, Context, Outputs, Pipeline, Stage
from eco2.ports import Delivery
from eco2.service import run
from tests.clock import VirtualClock, virtual
from tests.world import Draft, Process, Question, ScriptedModel, World, draft, order, result, until


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
