"""The repair of an answer outside the lists: once, told why, and never paid for again after a crash."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest
from pydantic import BaseModel

from eco2.call import Answer, Call, InvalidAnswer, ModelRefused, Reply, UnreadableAnswer, Usage
from eco2.errors import Eco2Error, ProviderError
from eco2.pipeline import JSON, Outputs, Pipeline, Stage
from eco2.ports import no_gate
from eco2.stages import vision
from eco2.stages.request import ScanInput
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Major, Middle
from eco2.stages.vision import UNKNOWN_THING, Seen, Sight
from eco2.testing.clock import virtual
from tests.support.world import Question, ScriptedModel, World, until

CARTON = Sight(middle_category=Middle.CARTON, minor_category="우유팩", situation_tags=[Tag.EMPTY])
USAGE = Usage(900, 0, 50, Decimal("0.001625"))
WORDS = '{"middle_category": "우주쓰레기"}'


def unfit(text: str = WORDS) -> InvalidAnswer:
    return InvalidAnswer(
        "it does not fit", "gpt-5.1", USAGE, text, "middle_category: not one of the listed values"
    )


@dataclass
class Desk:
    """A context whose model gives these answers, in order. `log`: what was done, in order."""

    answers: list[Sight | Eco2Error]
    calls: list[Call[Sight]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    input: ScanInput = field(default_factory=lambda: ScanInput(image_url="data:x", user_input="뭐예요?"))
    outputs: Outputs = field(default_factory=Outputs)
    job_id: str = "job"
    deadline: float = 180.0
    resources: object = None

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        self.log.append("call")
        self.calls.append(cast(Call[Sight], call))
        answer = self.answers.pop(0)
        if isinstance(answer, Eco2Error):
            raise answer
        assert isinstance(answer, call.schema)
        return Reply(answer, "gpt-5.1", USAGE)

    def emit(self, text: str) -> None:
        raise AssertionError("vision shows no text")

    async def step(self, name: str, work: Callable[[str], Awaitable[JSON]]) -> JSON:
        raise AssertionError("the scan has no steps")

    async def map(self, items: object, fn: object, *, limit: int = 0) -> Any:
        raise AssertionError("the scan has no branches")

    def reserve(self, budget: str, tokens: float = 0.0) -> AbstractAsyncContextManager[None]:
        raise AssertionError("the scan reserves nothing")


async def test_an_answer_that_fits_needs_no_repair() -> None:
    desk = Desk([CARTON])
    seen = await vision.run(desk)
    assert (seen.middle, desk.log) == (Middle.CARTON, ["call"])


async def test_an_answer_outside_the_lists_is_repaired() -> None:
    desk = Desk([unfit(), CARTON])
    seen = await vision.run(desk)
    assert (seen.major, seen.middle, seen.minor) == (Major.RECYCLABLE, Middle.CARTON, "우유팩")
    assert desk.log == ["call", "call"]


async def test_the_repair_call_is_the_same_call_followed_by_the_error() -> None:
    desk = Desk([unfit(), CARTON])
    await vision.run(desk)
    first, second = desk.calls
    assert (second.system, second.schema, second.image) == (first.system, first.schema, first.image)
    assert second.max_tokens == first.max_tokens
    assert second.text.startswith(first.text + "\n")
    remark = second.text[len(first.text) :]
    assert "not one of the listed values" in remark
    assert "우주쓰레기" in remark
    assert "\n" not in remark.strip()


async def test_a_long_answer_is_quoted_in_part_and_as_one_line() -> None:
    desk = Desk([unfit("obey\nme " * 5000), CARTON])
    await vision.run(desk)
    first, second = desk.calls
    remark = second.text[len(first.text) :]
    assert len(remark) < 1000
    assert "\n" not in remark.strip()


async def test_a_second_answer_outside_the_lists_is_unknown_and_no_third_is_asked_for() -> None:
    desk = Desk([unfit(), unfit()])
    seen = await vision.run(desk)
    assert (seen.major, seen.middle, seen.minor, seen.tags) == (
        Major.UNKNOWN,
        Middle.UNKNOWN,
        UNKNOWN_THING,
        [],
    )
    assert (seen.question, seen.model, len(desk.calls)) == ("뭐예요?", "gpt-5.1", 2)


@pytest.mark.parametrize("before", [[], [unfit()]], ids=["first", "repair"])
async def test_an_unreadable_answer_is_paid_for_once(before: list[Sight | Eco2Error]) -> None:
    desk = Desk([*before, UnreadableAnswer("empty", "gpt-5.1", USAGE), CARTON])
    seen = await vision.run(desk)
    assert (seen.middle, seen.question, len(desk.calls)) == (Middle.UNKNOWN, "뭐예요?", len(before) + 1)


@pytest.mark.parametrize(
    "error", [ModelRefused("no", "gpt-5.1", USAGE), ProviderError("down")], ids=["refused", "down"]
)
@pytest.mark.parametrize("before", [[], [unfit()]], ids=["first", "repair"])
async def test_nothing_else_is_repaired(before: list[Sight | Eco2Error], error: Eco2Error) -> None:
    desk = Desk([*before, error, CARTON])
    with pytest.raises(type(error)):
        await vision.run(desk)
    assert len(desk.calls) == len(before) + 1


class PhotoQuestion(ScanInput, Question):
    """What the test world sends, as a scan's input."""

    image_url: str = "data:x"


ONLY_VISION = Pipeline(
    "ask",
    PhotoQuestion,
    (Stage("vision", vision.run, Seen),),
    lambda outputs: {"middle": outputs.get(Seen).middle.value if outputs else None},
)


@dataclass
class Eyes(ScriptedModel):
    """Answers each call with what `see` returns for its number, from 1."""

    see: Callable[[int], Sight | Eco2Error] = lambda number: CARTON
    texts: list[str] = field(default_factory=list)

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        self.texts.append(call.text)
        await asyncio.sleep(self.seconds)
        seen: BaseModel | Eco2Error = self.see(len(self.texts))
        if isinstance(seen, Eco2Error):
            raise seen
        assert isinstance(seen, call.schema)
        return Reply(seen, "gpt-5.1", USAGE)


@virtual
async def test_a_crash_during_the_repair_does_not_pay_for_the_first_answer_again() -> None:
    world = World()
    first, second = Eyes(see=lambda number: unfit()), Eyes()
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        vanishing = asyncio.create_task(_work_until_cancelled(world, first))
        await until(lambda: len(first.texts) == 2)
        vanishing.cancel()
        await asyncio.wait({vanishing})
        async with world.process(second, _pipeline()):
            state = await gateway.ended(job)
    assert second.texts == first.texts[1:]
    assert state.result is not None
    assert state.result["middle"] == "종이팩"
    assert state.result["usage"] == {
        "vision": {
            "model": "gpt-5.1",
            "calls": 2,
            "input_tokens": 1800,
            "cached_tokens": 0,
            "output_tokens": 100,
            "cost_usd": "0.00325",
        }
    }


@virtual
async def test_a_scan_whose_every_answer_is_unfit_pays_for_two_and_completes() -> None:
    model = Eyes(see=lambda number: unfit())
    async with World().process(model, _pipeline()) as process:
        state = await process.ended((await process.submit()).job)
    assert (state.status, len(model.texts)) == ("completed", 2)
    assert state.result is not None
    assert state.result["middle"] == "미분류"


@virtual
async def test_an_unfit_answer_is_counted_with_what_it_cost() -> None:
    model = Eyes(see=lambda number: unfit() if number == 1 else CARTON)
    async with World().process(model, _pipeline()) as process:
        await process.ended((await process.submit()).job)
    shown = process.metrics.render().decode()
    assert 'eco2_call_seconds_count{kind="vision",model="gpt-5.1",outcome="UnfitAnswer"} 1.0' in shown
    assert 'eco2_tokens_total{direction="input",kind="vision",model="gpt-5.1"} 1800.0' in shown
    assert 'eco2_cost_usd_total{kind="vision",model="gpt-5.1"} 0.00325' in shown


def _pipeline() -> Pipeline[Question]:
    return cast(Pipeline[Question], ONLY_VISION)


async def _work_until_cancelled(world: World, model: ScriptedModel) -> None:
    async with world.process(model, _pipeline()):
        await asyncio.get_running_loop().create_future()
