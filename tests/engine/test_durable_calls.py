"""Durable calls: a paid reply is recorded, and a stage that runs again pays only for what is missing."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import msgspec
import pytest
from pydantic import BaseModel

from eco2.call import (
    Answer,
    Call,
    CallChanged,
    InvalidAnswer,
    ModelRefused,
    PaidCallFailed,
    Reply,
    UnreadableAnswer,
    Usage,
)
from eco2.calls.replies import identify, reply_from_json, reply_to_json
from eco2.event import CallCompleted, Queued, RunStarted, StageChanged, encode_events
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.pipeline import Context, Pipeline, Stage
from eco2.ports import Record, no_gate
from eco2.testing.clock import VirtualClock, run_virtual, virtual
from tests.support.world import Draft, Question, ScriptedModel, World, until

CALL = Call("sum", "system", "text", str, 100)


def stage_of(run: Callable[[Context[Question]], Awaitable[Draft]]) -> Pipeline[Question]:
    return Pipeline("ask", Question, (Stage("draft", run, Draft),), lambda _: {})


@dataclass
class Uneven(ScriptedModel):
    """Answers in a random order, so that branches end in another order in each run."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        self.seconds = self.random.uniform(0.1, 3.0)
        return await super().complete(call, job_id, on_text, gate)


async def branch(context: Context[Question], name: str) -> str:
    """Two calls, the second of which depends on the reply to the first."""
    first = await context.call(Call("map", "", name, str, 10))
    second = await context.call(Call("map", "", first.value, str, 10))
    return second.value


NAMES = tuple("abcd")
RIGHT = "|".join(f"map(map({name}))" for name in NAMES)


async def fan_out(context: Context[Question]) -> Draft:
    return Draft(text="|".join(await asyncio.gather(*(branch(context, name) for name in NAMES))))


async def crash_and_replay(seed: int) -> tuple[str, list[tuple[str, str]], int]:
    """Kills the worker at a random moment of a fan-out; returns the output, all calls, those in flight."""
    moment = random.Random(seed).uniform(0.5, 7.0)
    world, first, second = World(), Uneven(seed=seed), Uneven(seed=seed + 1000)
    async with world.process() as gateway:
        victim = await world.start(first, stage_of(fan_out))
        job = (await gateway.submit()).job
        await asyncio.sleep(moment)
        in_flight = first.in_flight
        await victim.kill()
        async with world.process(second, stage_of(fan_out)):
            state = await gateway.ended(job)
    output = state.outputs["draft"]["text"] if "draft" in state.outputs else ""
    return str(output), first.calls + second.calls, in_flight


@pytest.mark.parametrize("seed", range(25))
def test_a_fan_out_that_is_replayed_gives_each_branch_its_own_replies(seed: int) -> None:
    output, calls, in_flight = run_virtual(crash_and_replay(seed))
    assert output == RIGHT
    assert len(calls) <= 2 * len(NAMES) + in_flight


async def twenty(context: Context[Question]) -> Draft:
    for number in range(20):
        await context.call(Call("turn", "", str(number), str, 10))
    return Draft(text="")


@virtual
async def test_a_crash_in_a_stage_of_twenty_calls_repeats_the_one_in_flight() -> None:
    world, first, second = World(), ScriptedModel(), ScriptedModel()
    async with world.process() as gateway:
        victim = await world.start(first, stage_of(twenty))
        job = (await gateway.submit()).job
        await until(lambda: len(first.calls) == 11 and bool(first.in_flight))
        await victim.kill()
        async with world.process(second, stage_of(twenty)):
            state = await gateway.ended(job)
    assert state.status == "completed"
    assert (len(first.calls), len(second.calls)) == (11, 10)
    assert state.result is not None
    assert state.result["usage"]["draft"]["calls"] == 20  # type: ignore[index]


@virtual
async def test_equal_calls_are_each_paid_once_and_each_reused_once() -> None:
    async def thrice(context: Context[Question]) -> Draft:
        replies = [await context.call(CALL) for _ in range(3)]
        if pauses:
            await asyncio.sleep(pauses.pop())
        return Draft(text="|".join(reply.value for reply in replies))

    pauses = [1000.0]
    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        victim = await world.start(model, stage_of(thrice))
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 3 and not pauses)
        await asyncio.sleep(1)
        await victim.kill()
        async with world.process(model, stage_of(thrice)):
            state = await gateway.ended(job)
    assert (state.status, len(model.calls)) == ("completed", 3)


@virtual
async def test_a_call_that_asks_something_else_is_paid() -> None:
    asked = iter(["old", "new"])

    async def changed(context: Context[Question]) -> Draft:
        reply = await context.call(Call("c", "", next(asked), str, 10))
        if reply.value == "c(old)":
            await asyncio.sleep(1000)
        return Draft(text=reply.value)

    world, model = World(), ScriptedModel()
    async with world.process() as gateway:
        victim = await world.start(model, stage_of(changed))
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 1 and not model.in_flight)
        await asyncio.sleep(1)
        await victim.kill()
        async with world.process(model, stage_of(changed)):
            state = await gateway.ended(job)
    assert (state.outputs["draft"], len(model.calls)) == ({"text": "c(new)"}, 2)


@virtual
async def test_an_explicit_key_finds_its_reply_and_refuses_another_question() -> None:
    async def keyed(context: Context[Question]) -> Draft:
        first = await context.call(Call("c", "", "x", str, 10, key="k"))
        again = await context.call(Call("c", "", "x", str, 10, key="k"))
        assert first == again
        await context.call(Call("c", "", "y", str, 10, key="k"))
        raise AssertionError("another question under the same key")

    model = ScriptedModel()
    async with World().process(model, stage_of(keyed)) as process:
        job = (await process.submit()).job
        state = await process.ended(job)
    assert len(model.calls) == 1
    assert state.result is not None
    assert state.result["error"]["code"] == CallChanged.code  # type: ignore[index]
    assert "'k'" in str(state.result["error"])


@virtual
async def test_an_answer_of_no_use_is_recorded_too() -> None:
    def script(kind: str, _: str) -> None:
        if kind == "first":
            raise InvalidAnswer("unfit", "scripted", Usage(10, 0, 5), "text", "problem")

    async def mending(context: Context[Question]) -> Draft:
        with pytest.raises(InvalidAnswer) as caught:
            await context.call(Call("first", "", "", str, 10))
        assert (caught.value.text, caught.value.problem) == ("text", "problem")
        return Draft(text=(await context.call(Call("second", "", "", str, 10))).value)

    world, model = World(), ScriptedModel(script=script)
    async with world.process() as gateway:
        victim = await world.start(model, stage_of(mending))
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 2)
        await victim.kill()
        async with world.process(model, stage_of(mending)):
            state = await gateway.ended(job)
    assert state.status == "completed"
    assert Counter(kind for kind, _ in model.calls) == {"first": 1, "second": 2}


def recorded(job: str, call: Call[str], value: str) -> CallCompleted:
    """Makes the record of a call that a void run has paid for."""
    base, digest = identify(call, None)
    reply = reply_to_json(Reply(value, "m", Usage(1, 0, 1, Decimal("0.5"))))
    key = f"{base}/0"
    return CallCompleted(ts=1.0, job=job, run="void", stage="draft", key=key, digest=digest, reply=reply)


@virtual
async def test_the_answer_of_a_run_that_is_void_by_now_is_used() -> None:
    """The holder was silent for longer than its time-out, yet its call ended before the next run made it."""
    second = Call("b", "", "", str, 10)

    async def two(context: Context[Question]) -> Draft:
        await context.call(Call("a", "", "", str, 10))
        return Draft(text=(await context.call(second)).value)

    world, model = World(), ScriptedModel(seconds=5)
    async with world.process(model, stage_of(two)) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        await process.journal.put(recorded(job, second, "of the void run"))
        state = await process.ended(job)
    assert state.outputs["draft"] == {"text": "of the void run"}
    assert [kind for kind, _ in model.calls] == ["a"]


@virtual
async def test_a_reply_that_memory_does_not_keep_is_read_from_the_journal() -> None:
    world = World()
    async with world.process() as process:
        small = Journal(process.broker, View(900.0, VirtualClock.now, replies=0))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(small.run(stop))
            job = (await process.submit()).job
            await process.journal.put(recorded(job, CALL, "x" * 1000))
            await small.ready(stop)
            await small.barrier()
            state = small.view.get(job)
            assert state is not None
            (record,) = state.recorded.values()
            assert (record.kept, record.value, record.size) == (False, None, 0)
            reply = reply_from_json(CALL, await small.value_of(record))
            assert isinstance(reply, Reply)
            assert reply.value == "x" * 1000
            stop.set()


def test_the_bound_of_what_is_kept_is_given_back_when_the_stage_ends() -> None:
    view = View(900.0, lambda: 2.0, replies=2500)
    queued = Queued(ts=1.0, job="j", pipeline="ask", deadline=9.0, digest="d")
    run = RunStarted(ts=1.0, job="j", run="void", attempt=1, worker="w")
    first, second = Call("a", "", "", str, 10), Call("b", "", "", str, 10)
    view.apply(Record(0, encode_events([queued, run])))
    view.apply(Record(1, encode_events([recorded("j", first, "x" * 1500)])))
    view.apply(Record(2, encode_events([recorded("j", second, "y" * 1500)])))
    state = view.get("j")
    assert state is not None
    assert [record.kept for record in state.recorded.values()] == [True, False]
    done = StageChanged(
        ts=1.0, job="j", run="void", stage="draft", status="completed", seq=11, progress=50, output={}
    )
    view.apply(Record(3, encode_events([done])))
    state = view.get("j")
    assert state is not None
    assert state.recorded == {}
    other = msgspec.structs.replace(recorded("j", second, "y" * 1500), stage="final")
    view.apply(Record(4, encode_events([other])))
    state = view.get("j")
    assert state is not None
    assert [record.kept for record in state.recorded.values()] == [True]


class Total(BaseModel):
    total: int


SUM = Call("sum", "system", "text", Total, 100)
PAID = Usage(3, 1, 2, Decimal("0.000123"))


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (CALL, Reply("text", "m", PAID)),
        (CALL, Reply("", "m", Usage())),
        (SUM, Reply(Total(total=3), "m", PAID)),
    ],
)
def test_a_reply_survives_the_journal(call: Call[object], reply: Reply[object]) -> None:
    assert reply_from_json(call, reply_to_json(reply)) == reply


@pytest.mark.parametrize(
    "error",
    [
        InvalidAnswer("unfit", "m", PAID, "text", "problem"),
        UnreadableAnswer("empty", "m", PAID),
        ModelRefused("no", "m", PAID),
        PaidCallFailed("nothing", "m", PAID),
    ],
    ids=["unfit", "unreadable", "refused", "none"],
)
def test_a_paid_failure_survives_the_journal(error: PaidCallFailed) -> None:
    back = reply_from_json(CALL, reply_to_json(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        {},
        {"value": "x"},
        {"value": 3, "model": "m", "usage": {}},
        {"value": "x", "model": "m", "usage": {"input_tokens": 1, "cached_tokens": 0, "output_tokens": "y"}},
    ],
)
def test_a_record_that_does_not_fit_is_no_reply(kept: object) -> None:
    assert reply_from_json(CALL, kept) is None


def test_the_digest_is_of_what_is_asked() -> None:
    same = replace(CALL, stream=True, key="k")
    others = [
        replace(CALL, text="other"),
        replace(CALL, system="other"),
        replace(CALL, image="data:x"),
        replace(CALL, max_tokens=99),
        replace(CALL, kind="other"),
        replace(CALL, text="half \ud800"),
    ]
    digests = [identify(call, None)[1] for call in (CALL, *others)]
    digests += [identify(CALL, "pinned")[1], identify(SUM, None)[1]]
    assert identify(same, None)[1] == digests[0]
    assert len(set(digests)) == len(digests)
