"""Processes of this version go on with what release 0.1 left: its journal, and the orders in its queues.

`release_0_1` was recorded with the embedded broker of 0.1.1, in virtual time. Four jobs of a pipeline whose
first stage makes two calls, one in the budget of `scripted`: the first completed, and its key came again; the
second failed; of the third a worker was killed in the second call; the fourth was accepted after that. An
operator had paused and resumed the intake, and the day's sum and a large call were written down.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eco2.call import Call
from eco2.event import Queued, decode_events
from eco2.job import decode_order
from eco2.journal.state import JobState
from eco2.pacer import Limits
from eco2.pipeline import Context, Pipeline, Stage
from eco2.testing.clock import virtual
from tests.support.world import Draft, Final, Process, Question, Remote, ScriptedModel, World, final, result

FOLDER = Path(__file__).parent / "release_0_1"
RECORDS = (FOLDER / "journal.jsonl").read_bytes().splitlines()
ORDERS = [decode_order(order) for order in (FOLDER / "orders.jsonl").read_bytes().splitlines()]
SECONDS = 10.0
"""For which the recording lasts."""


async def two_calls(context: Context[Question]) -> Draft:
    first = await context.call(Call("draft", "system", context.input.text, str, 100))
    second = await context.call(Call("check", "system", first.value, str, 100))
    return Draft(text=second.value)


PIPELINE = Pipeline("ask", Question, (Stage("draft", two_calls, Draft), Stage("final", final, Final)), result)
FIRST, AGAIN, SECOND, THIRD, FOURTH = (
    event.job for record in RECORDS for event in decode_events(record) if isinstance(event, Queued)
)


@asynccontextmanager
async def left_by_release_01() -> AsyncIterator[tuple[World, Process]]:
    """A world that begins where the recording ends, and a gateway in it."""
    world = World()
    world.server.declare(world.topology)
    await asyncio.sleep(SECONDS)
    for record in RECORDS:
        world.server.logs[world.topology.stream].append(record)
    async with world.process() as gateway:
        for order in ORDERS:
            await gateway.order(order)
        yield world, gateway


def answer(state: JobState) -> object:
    assert state.result is not None
    return state.result["answer"]


@virtual
async def test_all_that_release_01_recorded_is_known() -> None:
    async with left_by_release_01() as (_, gateway):
        view = gateway.journal.view
        completed, failed = await gateway.journal.find(FIRST), await gateway.journal.find(SECOND)
        assert completed is not None
        assert answer(completed) == "final(check(draft(first)))"
        assert [event.stage for event in completed.visible_events] == [
            *("queued", "draft", "draft", "final", "final", "done")
        ]
        assert failed is not None
        assert (failed.status, failed.dead) == ("failed", False)
        running, waiting = view.get(THIRD), view.get(FOURTH)
        assert running is not None
        assert (running.attempt, running.is_held, len(running.recorded)) == (1, True, 1)
        assert waiting is not None
        assert waiting.status == "queued"
        assert view.paused is None
        assert view.skipped == 0
        again = await gateway.submit("first", key="k")
        assert again.superseded_by == FIRST
        again = await gateway.submit("third", key="k3")
        assert again.superseded_by == THIRD


@virtual
async def test_a_worker_ends_the_jobs_that_release_01_left_and_pays_only_for_what_is_missing() -> None:
    model = ScriptedModel()
    remote = Remote("scripted", model, Limits(600.0, 1_000_000.0))
    async with (
        left_by_release_01() as (world, gateway),
        world.process(pipeline=PIPELINE, remotes=(remote,)) as worker,
    ):
        third, fourth = await gateway.ended(THIRD), await gateway.ended(FOURTH)
        assert answer(third) == "final(check(draft(third)))"
        assert (third.status, third.attempt) == ("completed", 2)
        assert (fourth.status, fourth.attempt) == ("completed", 1)
        paid = {job: [kind for kind, each in model.calls if each == job] for job in (THIRD, FOURTH)}
        assert paid == {THIRD: ["check", "final"], FOURTH: ["draft", "check", "final"]}
        assert len(model.calls) == 5
        assert worker.members["scripted"].budget.leading
