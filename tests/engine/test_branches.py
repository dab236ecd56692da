"""Branches side by side in one stage: their order, errors, ends, live text, and crashes in the middle."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from eco2.call import Answer, Call, Reply, Usage
from eco2.calls.replies import identify
from eco2.delta import BRANCHES_INTERVAL, DELTA_TOPIC, decode_deltas
from eco2.errors import PermanentError, ProviderError
from eco2.eventstream import ClientEvent, EventLines
from eco2.eventstream import LiveTexts as ClientTexts
from eco2.gateway.hub import LiveTexts
from eco2.gateway.sse import Cursor, advance
from eco2.journal.state import JobState
from eco2.operator import actions
from eco2.pacer import Limits
from eco2.pipeline import Context
from eco2.ports import no_gate
from eco2.testing.clock import VirtualClock, run_virtual, virtual
from tests.support.crash_points import CrashingProcess, Point, Side
from tests.support.engine_fixtures import at_rest, single
from tests.support.world import Draft, Process, Question, Remote, ScriptedModel, World, until

LIMIT = 20
"""The default of `Context.map`, a promise of docs/pipelines.md."""


@dataclass
class Uneven(ScriptedModel):
    """Answers in a random order, letter by letter where the call streams."""

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
        await gate()
        self.calls.append((call.text, job_id))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            text = f"of {call.text}"
            for letter in text:
                await asyncio.sleep(self.random.uniform(0.1, 3.0) / len(text))
                if call.stream:
                    on_text(letter)
            self.script(call.text, job_id)
        finally:
            self.in_flight -= 1
        return Reply(call.schema(text), "uneven", Usage(10, 0, 5))  # type: ignore[call-arg]  # `str`


def asks(text: str, stream: bool = False) -> Call[str]:
    return Call("ask", "", text, str, 10, stream=stream)


def fan_out(
    items: int, stream: bool = False, limit: int = LIMIT
) -> Callable[[Context[Question]], Awaitable[Draft]]:
    """A stage with a branch of one call for each item."""

    async def run(context: Context[Question]) -> Draft:
        async def branch(number: int) -> str:
            return (await context.call(asks(str(number), stream))).value

        values = await context.map(range(items), branch, limit=limit)
        if stream:
            await asyncio.sleep(1)  # text that comes with the stage's end is not shown any more
        return Draft(text="|".join(values))

    return run


def whole(items: int) -> str:
    return "|".join(f"of {number}" for number in range(items))


def code(state: JobState) -> object:
    assert state.result is not None
    error = state.result["error"]
    return error["code"] if isinstance(error, dict) else None


@virtual
async def test_results_come_in_the_items_order_and_no_more_than_the_limit_run_at_once() -> None:
    model = Uneven()
    async with World().process(model, single(fan_out(30, limit=7))) as process:
        state = await process.ended((await process.submit()).job)
    assert state.outputs["draft"] == {"text": whole(30)}
    assert (len(model.calls), model.peak) == (30, 7)


@virtual
async def test_a_map_without_items_has_no_results_and_one_without_a_limit_is_a_bug() -> None:
    async with World().process(Uneven(), single(fan_out(0))) as process:
        assert (await process.ended((await process.submit()).job)).outputs["draft"] == {"text": ""}
    async with World().process(Uneven(), single(fan_out(3, limit=0))) as process:
        assert code(await process.ended((await process.submit()).job)) == "INTERNAL"


@virtual
async def test_the_first_error_ends_the_others_and_is_raised_as_it_is() -> None:
    error, cause, ended = (
        PermanentError("no such page", "NO_PAGE"),
        ValueError("of a lower layer"),
        list[int](),
    )

    async def run(context: Context[Question]) -> Draft:
        async def branch(number: int) -> None:
            if number == 3:
                await asyncio.sleep(1)
                raise error from cause
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(number)
                if number == 4:
                    raise ValueError("a clean-up that fails")

        with pytest.raises(PermanentError) as caught:
            await context.map(range(9), branch, limit=6)
        assert caught.value is error
        assert caught.value.__cause__ is cause
        raise error

    async with World().process(Uneven(), single(run)) as process:
        state = await process.ended((await process.submit()).job)
    assert code(state) == "NO_PAGE"
    assert sorted(ended) == [0, 1, 2, 4, 5]  # those that ran; the others never began


@virtual
async def test_a_stage_is_tried_again_for_a_branch_whose_error_may_pass_and_keeps_what_was_paid() -> None:
    failures = iter([ProviderError("cut")] * 3)  # all attempts of one call

    def script(text: str, _: str) -> None:
        if text == "2" and (error := next(failures, None)) is not None:
            raise error

    model = Uneven(script=script)
    async with World().process(model, single(fan_out(6))) as process:
        state = await process.ended((await process.submit()).job)
    assert state.outputs["draft"] == {"text": whole(6)}
    assert state.attempt == 2
    texts = [text for text, _ in model.calls]
    assert texts.count("2") == 4
    # The first error came after 1.6 s or more: what was answered by then was not asked again.
    assert sum(texts.count(text) == 1 for text in "01345") >= 2


@virtual
async def test_a_branch_that_is_cancelled_by_itself_is_a_bug_and_not_a_missing_result() -> None:
    async def run(context: Context[Question]) -> Draft:
        async def branch(number: int) -> int:
            if number == 1:
                raise asyncio.CancelledError
            return number

        return Draft(text=str(await context.map(range(3), branch)))

    async with World().process(Uneven(), single(run)) as process:
        assert code(await process.ended((await process.submit()).job)) == "INTERNAL"


@virtual
async def test_cancelling_the_job_breaks_off_all_branches() -> None:
    world, model = World(), Uneven()
    async with world.process() as gateway, world.process(model, single(fan_out(60))):
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) > 25)
        state = gateway.journal.view.get(job)
        assert state is not None
        await actions.cancel(state, gateway.journal, VirtualClock.now())
        made, began = len(model.calls), VirtualClock.now()
        await at_rest(world)
        assert VirtualClock.now() - began < 1
        await asyncio.sleep(100)
        assert (len(model.calls), model.in_flight) == (made, 0)


@pytest.mark.parametrize("limits", [None, Limits(6000.0)], ids=["no limits", "a budget"])
@virtual
async def test_a_drain_lets_calls_in_flight_end_and_begins_no_further_branch(limits: Limits | None) -> None:
    world, model = World(), Uneven()
    stage = single(fan_out(100, limit=10))
    async with world.process() as gateway:
        async with world.process(
            pipeline=stage, remotes=[Remote("p", model, limits, concurrency=5)]
        ) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: len(model.calls) >= 20)
            made, began = len(model.calls), VirtualClock.now()
            leaving.stop.set()
        assert len(model.calls) == made
        assert VirtualClock.now() - began < 4  # the longest call takes three seconds
        async with world.process(model, stage):
            state = await gateway.ended(job)
    assert state.outputs["draft"] == {"text": whole(100)}
    assert len(model.calls) == 100


@virtual
async def test_a_sequence_of_calls_within_a_budget_ends_a_drain_after_the_call_in_flight() -> None:
    async def run(context: Context[Question]) -> Draft:
        for number in range(20):
            await context.call(asks(str(number)))
        return Draft(text="")

    world, model = World(), ScriptedModel()
    async with (
        world.process() as gateway,
        world.process(pipeline=single(run), remotes=[Remote("p", model, Limits(6000.0))]) as leaving,
    ):
        await gateway.submit()
        await until(lambda: len(model.calls) == 5)
        leaving.stop.set()
    assert len(model.calls) == 5


async def two_each(context: Context[Question], name: str) -> str:
    """A branch of two calls, the second of which depends on the first; two branches ask the same."""
    first = await context.call(asks(name))
    return (await context.call(asks(first.value))).value


NAMES = ("a", "b", "same", "same", "c")


@pytest.mark.parametrize("seed", range(15))
def test_a_map_that_is_replayed_gives_each_branch_its_own_replies(seed: int) -> None:
    async def run(context: Context[Question]) -> Draft:
        values = await context.map(NAMES, lambda name: two_each(context, name), limit=4)
        return Draft(text="|".join(values))

    async def scenario() -> None:
        world, calls, lost = World(), list[tuple[str, str]](), 0
        async with world.process() as gateway:
            job = (await gateway.submit(max_wait=800)).job
            for death in range(3):
                model = Uneven(seed=100 * seed + death, calls=calls)
                victim = await world.start(model, single(run))
                await asyncio.sleep(20 + model.random.uniform(0, 4))
                await victim.kill()
                lost += model.in_flight
            async with world.process(Uneven(seed=seed, calls=calls), single(run)):
                state = await gateway.ended(job)
        assert state.outputs["draft"] == {"text": "|".join(f"of of {name}" for name in NAMES)}
        assert len(calls) <= 2 * len(NAMES) + lost

    run_virtual(scenario())


@dataclass
class Client:
    """What one client of a job sees live, over a gateway."""

    process: Process
    job: str
    texts: dict[str | None, str] = field(default_factory=dict)
    again: list[str | None] = field(default_factory=list)
    progress: list[tuple[float, int, int]] = field(default_factory=list)
    frames: bytes = b""

    def __post_init__(self) -> None:
        self._live, self._cursor = LiveTexts(), Cursor()
        self._lines, self._shown = EventLines(), ClientTexts()
        self.process.broker.subscribe(DELTA_TOPIC, self._received)

    def _received(self, _: str, body: bytes) -> None:
        state = self.process.journal.view.get(self.job)
        for piece in decode_deltas(body):
            self._live.take(piece, state)
        assert state is not None
        chunk, self._cursor = advance(state, self._live.get(self.job), self._cursor, now=VirtualClock.now())
        self.frames += chunk
        for event in self._lines.feed(chunk):
            if (new := self._shown.take_new(event)) is not None:
                self._show(new)

    def _show(self, event: ClientEvent) -> None:
        if event.text is not None:
            if event.again:
                self.again.append(event.call)
            self.texts[event.call] = ("" if event.again else self.texts.get(event.call, "")) + event.text
        if event.done is not None and event.total is not None:
            assert (event.name, event.id, event.seq) == ("draft.progress", None, None)
            self.progress.append((VirtualClock.now(), event.done, event.total))


@virtual
async def test_live_text_of_branches_does_not_mix_and_keeps_its_names_over_a_crash() -> None:
    world = World()
    async with world.process() as gateway:
        job = (await gateway.submit(max_wait=800)).job
        client, first = Client(gateway, job), Uneven(seed=1)
        victim = await world.start(first, single(fan_out(12, stream=True, limit=5)))
        await until(lambda: len(first.calls) > 8)
        await victim.kill()
        await gateway.journal.barrier()
        state, before = gateway.journal.view.get(job), set(client.texts)
        assert state is not None
        recorded = {key.rpartition("/call/ask/")[2][:8] for key in state.recorded}
        async with world.process(Uneven(seed=2), single(fan_out(12, stream=True, limit=5))):
            await gateway.ended(job)
    right = {identify(asks(str(number)), None)[1][:8]: f"of {number}" for number in range(12)}
    assert set(client.texts) == set(right)
    assert before < set(right)
    assert recorded < before
    for call, text in right.items():  # the last letters of a recorded call may have been lost with its worker
        shown = client.texts[call]
        assert text.startswith(shown) if call in recorded else shown == text
    assert client.frames.count(b'event: draft.reset\ndata: {"call":') >= 1  # of calls cut by the crash
    assert client.again == []  # the same text came again


@pytest.mark.parametrize("way", ["gather", "map of one"])
@virtual
async def test_the_first_call_of_a_stage_has_frames_without_a_call_and_others_have_their_key(
    way: str,
) -> None:
    async def run(context: Context[Question]) -> Draft:
        if way == "gather":
            keyed = Call("ask", "", "keyed", str, 10, stream=True, key="summary")
            await asyncio.gather(*(context.call(call) for call in (asks("x", stream=True), keyed)))
        else:
            await context.map(["x"], lambda text: context.call(asks(text, stream=True)))
        await asyncio.sleep(1)
        return Draft(text="")

    world = World()
    async with world.process() as gateway, world.process(Uneven(), single(run)):
        job = (await gateway.submit()).job
        client = Client(gateway, job)
        await gateway.ended(job)
    expected: dict[str | None, str] = {None: "of x"}
    assert client.texts == expected | ({"summary": "of keyed"} if way == "gather" else {})
    assert client.progress == []
    assert b'data: {"text":"o"}\n\n' in client.frames


@virtual
async def test_progress_is_shown_at_most_twice_a_second_and_to_the_end() -> None:
    world, done = World(), asyncio.Event()

    async def run(context: Context[Question]) -> Draft:
        async def branch(number: int) -> None:
            await asyncio.sleep(0.01 if number < 40 else 5)

        await context.map(range(50), branch, limit=5)
        await context.map(range(2), branch)
        await done.wait()
        return Draft(text="")

    async with world.process() as gateway, world.process(Uneven(), single(run)):
        job = (await gateway.submit()).job
        client, began = Client(gateway, job), VirtualClock.now()
        await until(lambda: bool(client.progress) and client.progress[-1][1:] == (52, 52))
        done.set()
        await gateway.ended(job)
    shown = [(done, total) for _, done, total in client.progress]
    assert shown[0] == (40, 50)  # although nothing else happens for seconds
    assert shown == sorted(set(shown))
    moments = [moment for moment, _, _ in client.progress]
    assert moments[0] - began < 2 * BRANCHES_INTERVAL
    assert min(b - a for a, b in itertools.pairwise(moments)) >= BRANCHES_INTERVAL - 1e-6


DEATHS = 20
BRANCHES = 200


async def killed_again_and_again(seed: int) -> None:
    """Kills each worker of a fan-out in turn, some time after it has got on, and counts what was lost."""
    world, calls, lost = World(), list[tuple[str, str]](), 0
    chance, stage = random.Random(seed), single(fan_out(BRANCHES))
    async with world.process() as gateway:
        job = (await gateway.submit(max_wait=850)).job

        def recorded() -> int:
            state = gateway.journal.view.get(job)
            return 0 if state is None else len(state.recorded)

        for death in range(DEATHS):
            known, model = recorded(), Uneven(seed=seed + death, calls=calls)
            victim = await world.start(model, stage)
            await until(lambda known=known: recorded() > known)  # type: ignore[misc]  # mypy#12557
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            await victim.kill()
            await gateway.journal.barrier()
            unrecorded = len(calls) - lost - recorded()
            assert 0 <= unrecorded <= LIMIT
            lost += unrecorded
            state = gateway.journal.view.get(job)
            assert state is not None
            assert state.crashes == 0
        assert recorded() < BRANCHES, "the kills came too late to prove anything"
        async with world.process(Uneven(seed=seed, calls=calls), stage):
            state = await gateway.ended(job)
            await at_rest(world)
    assert (state.status, state.attempt) == ("completed", DEATHS + 1)
    assert state.outputs["draft"] == {"text": whole(BRANCHES)}
    assert state.result is not None
    assert state.result["usage"]["draft"]["calls"] == BRANCHES  # type: ignore[index]
    assert len(calls) == BRANCHES + lost
    assert [shown.seq for shown in state.visible_events] == [0, 10, 11, 21]


@pytest.mark.parametrize("seed", range(3))
def test_a_fan_out_outlives_twenty_workers_and_pays_twice_only_what_was_in_flight(seed: int) -> None:
    run_virtual(killed_again_and_again(seed))


async def crashes_at(point: Point) -> bool:
    """False if the worker had done all it had to do before it came to that point."""
    world, model, stage = World(), Uneven(), single(fan_out(6, limit=3))
    async with world.process() as gateway:
        first = CrashingProcess(*world.components(model, stage), point)
        living = asyncio.create_task(first.live())
        job = (await gateway.submit()).job
        ending = asyncio.create_task(gateway.ended(job))
        gone = asyncio.create_task(first.gone.wait())
        await asyncio.wait({ending, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        await gateway.journal.barrier()
        state, lost = gateway.journal.view.get(job), 0
        if not first.gone.is_set():
            first.process.stop.set()
        elif state is None or not state.outputs:
            lost = len(model.calls) - (len(state.recorded) if state else 0)
        await living
        async with world.process(model, stage):
            state = await ending
            await at_rest(world)
    assert (state.status, state.outputs["draft"]) == ("completed", {"text": whole(6)})
    assert lost <= 3
    assert len(model.calls) == 6 + lost
    return first.gone.is_set()


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_worker_may_crash_between_any_two_of_its_writes_of_a_fan_out(side: Side) -> None:
    for write in itertools.count():
        if not run_virtual(crashes_at(Point(write, side))):
            break
    assert write >= 10
