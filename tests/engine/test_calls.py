"""Model calls: what they cost, what is shown of them, what is saved between them."""

import asyncio
from collections.abc import Callable
from typing import Never

import pytest

from eco2.call import InvalidAnswer, Usage
from eco2.consumers.deltas import DeltaSender
from eco2.delta import DELTA_INTERVAL, DELTA_TOPIC, Delta, decode_deltas, encode_deltas
from eco2.errors import PermanentError, ProviderError
from eco2.event import CallsGranted, StageChanged, decode_events
from eco2.pacer import Limits
from eco2.pipeline import Call, Context
from eco2.ports import FromStart, Record
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import Held, single, used
from tests.support.world import (
    Draft,
    Question,
    Remote,
    ScriptedModel,
    World,
    until,
)


class Hearing:
    """What a live exchange was given, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, list[tuple[int, str]]]] = []

    def broadcast(self, topic: str, body: bytes) -> None:
        pieces = [(piece.pos, piece.text) for piece in decode_deltas(body) if isinstance(piece, Delta)]
        self.heard.append((asyncio.get_running_loop().time(), pieces))

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> Never:
        raise AssertionError("the sender does not listen")


NEWER = encode_deltas([Delta("j", "r", "s", 0, "a")]).replace(b'"v":1', b'"v":2')


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


@virtual
async def test_a_call_without_an_answer_times_out() -> None:
    model = ScriptedModel(seconds=1000)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(max_wait=800)).job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "UNAVAILABLE"


@virtual
async def test_live_text_is_sent_gathered_and_starts_over_with_a_retry() -> None:
    cuts = iter([None, ProviderError("cut")])

    def script(kind: str, job: str) -> None:
        if cut := next(cuts, None):
            raise cut

    heard: list[bytes] = []
    async with World().process(ScriptedModel(script=script)) as process:
        process.broker.subscribe(DELTA_TOPIC, lambda topic, body: heard.append(body))
        state = await process.ended((await process.submit()).job)
    assert [piece for body in heard for piece in decode_deltas(body)] == [
        Delta(state.job, run, "final", 0, "final") for run in (state.run or "",) * 2
    ]


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
async def test_usage_counts_every_call_also_those_of_earlier_runs_and_without_an_answer() -> None:
    unfit = iter([InvalidAnswer("unfit", "scripted", Usage(10, 0, 5), "x", "too short")])

    def script(kind: str, job: str) -> None:
        if kind == "first" and (error := next(unfit, None)):
            raise error

    pauses = iter([100.0])

    async def first_time() -> None:
        await asyncio.sleep(next(pauses, 0.0))

    async def frugal(context: Context[Question]) -> Draft:
        with pytest.raises(InvalidAnswer):
            await context.call(Call("first", "", "", str, 10))
        await context.call(Call("first", "", "", str, 10))
        await first_time()
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


@virtual
async def test_a_job_that_ends_at_its_deadline_says_what_was_paid_for_it() -> None:
    world, model = World(), ScriptedModel(seconds=10)
    async with world.process() as gateway:
        async with world.process(model) as leaving:
            job = (await gateway.submit(max_wait=30)).job
            await until(lambda: bool(model.in_flight))
            leaving.stop.set()
        await asyncio.sleep(30)
        async with world.process(ScriptedModel()):
            state = await gateway.ended(job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "TIMEOUT"
    assert state.result["usage"] == {"draft": used(calls=1)}


@virtual
async def test_clients_are_shown_why_a_stage_failed_and_what_it_took() -> None:
    async def refuse(context: Context[Question]) -> Draft:
        await context.call(Call("moderation", "", "", str, 10))
        raise PermanentError("no", "CONTENT_REFUSED")

    async with World().process(ScriptedModel(), single(refuse)) as process:
        state = await process.ended((await process.submit()).job)
    assert state.visible_events[-2].result == {"code": "CONTENT_REFUSED", "message": "no"}
    assert state.visible_events[-2].progress == 0
    assert state.result is not None
    assert state.result["usage"] == {"draft": used(calls=1)}


@virtual
async def test_a_job_that_waits_for_a_slot_is_not_shown_as_started() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model, concurrency=1) as process:
        jobs = [(await process.submit(str(n))).job for n in range(2)]
        await asyncio.sleep(5)
        states = [process.journal.view.get(job) for job in jobs]
        assert sorted(len(state.visible_events) for state in states if state) == [1, 2]
        for job in jobs:
            await process.ended(job)


@virtual
async def test_a_stage_is_shown_as_started_by_the_message_with_the_grant_of_its_first_call() -> None:
    remote = Remote("p", ScriptedModel(), Limits(requests=1))
    records: list[Record] = []
    world = World()
    async with world.process(remotes=[remote], pipeline=single(_ask)) as process:
        process.broker.tail(FromStart(), records.append)
        jobs = [(await process.submit(str(n))).job for n in range(2)]
        await asyncio.sleep(90)  # one has had its grant, and the other waits for the next minute
        states = [process.journal.view.get(job) for job in jobs]
        assert [len(state.visible_events) for state in states if state] == [4, 1]
        await process.ended(jobs[1])
    messages = [decode_events(record.body) for record in records]
    for job in jobs:
        shown = [each for each in messages if any(_starts(event, job) for event in each)]
        assert [isinstance(each[0], CallsGranted) for each in shown] == [True]


async def _ask(context: Context[Question]) -> Draft:
    return Draft(text=(await context.call(Call("draft", "", "q", str, 100))).value)


def _starts(event: object, job: str) -> bool:
    return isinstance(event, StageChanged) and event.job == job and event.status == "started"


@virtual
async def test_live_text_goes_out_once_and_at_most_once_an_interval() -> None:
    live, stop = Hearing(), asyncio.Event()
    sender = DeltaSender(live)
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.run(stop))
        for pos, text in ((0, "a"), (1, "b"), (2, "c")):
            sender.add(Delta("j", "r", "s", pos, text))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        sender.add(Delta("j", "r", "s", 3, "d"))
        sender.add(Delta("j", "r", "s", 0, "again"))
        await asyncio.sleep(1)
        stop.set()
    assert [pieces for _, pieces in live.heard] == [[(0, "a")], [(1, "bc")], [(0, "again")]]
    moments = [moment for moment, _ in live.heard]
    assert moments == pytest.approx([0.0, DELTA_INTERVAL, 2 * DELTA_INTERVAL])


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", NEWER])
def test_live_text_that_this_version_cannot_read_is_none(body: bytes) -> None:
    assert decode_deltas(body) == []
