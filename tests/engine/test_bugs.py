"""Bugs and oddities of pipelines end their job, never the worker."""

import asyncio
from typing import Self

import pytest
from pydantic import BaseModel, Field, model_validator

from eco2.errors import PermanentError, RetryableError, TooLarge
from eco2.journal.outbox import MAX_PUT_BYTES, Outbox
from eco2.pipeline import JSON, Context, Outputs, Pipeline, Stage
from eco2.ports import Appender
from eco2.testing.clock import virtual
from eco2.watchdog import Running, running
from tests.support.world import (
    Draft,
    Final,
    Question,
    ScriptedModel,
    World,
    draft,
    final,
    result,
)


@virtual
async def test_a_stage_that_returns_the_wrong_thing_is_a_bug_of_the_stage() -> None:
    wrong = Pipeline("ask", Question, (Stage("draft", draft, Question),), result)
    async with World().process(ScriptedModel(), wrong) as process:
        state = await process.ended((await process.submit()).job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "INTERNAL"


@virtual
async def test_a_stage_and_the_tasks_that_it_starts_can_be_named() -> None:
    seen: list[Running | None] = []

    async def look() -> None:
        seen.append(running.get())

    async def named(context: Context[Question]) -> Draft:
        await look()
        await asyncio.gather(look())
        return Draft(text="")

    def text(outputs: Outputs | None) -> JSON:
        seen.append(running.get())
        return {}

    pipeline = Pipeline("ask", Question, (Stage("draft", named, Draft),), text)
    async with World().process(ScriptedModel(), pipeline) as process:
        job = (await process.submit()).job
        await process.ended(job)
    assert seen == [Running("ask", "draft", job)] * 2 + [None]


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
async def test_a_result_of_another_type_is_a_bug_and_one_of_its_type_is_written_by_its_aliases() -> None:
    class Text(BaseModel):
        first_draft: str | None = Field(serialization_alias="firstDraft")

    def typed(outputs: Outputs | None) -> Text:
        return Text(first_draft=outputs.get(Draft).text if outputs else None)

    def wrong(outputs: Outputs | None) -> JSON | Text:
        return {} if outputs else typed(None)

    ends = []
    for make in (typed, wrong):
        pipeline = Pipeline("ask", Question, (Stage("draft", draft, Draft),), make, result_type=Text)
        async with World().process(ScriptedModel(), pipeline) as process:
            ends.append(await process.ended((await process.submit()).job))
    good, bad = [end.result or {} for end in ends]
    assert (good["firstDraft"], good["error"]) == ("draft(q)", None)
    assert (bad["firstDraft"], ends[1].status) == (None, "failed")
    assert "`result` must return Text, not dict" in ends[1].cause


@virtual
async def test_a_bug_in_the_result_leaves_the_pipelines_members_null() -> None:
    """A client that misses `reward` altogether shows a success."""

    def broken(outputs: Outputs | None) -> JSON:
        return {"reward": outputs.get(Draft).text[1_000_000] if outputs else None}

    pipeline = Pipeline("ask", Question, (Stage("draft", draft, Draft),), broken)
    async with World().process(ScriptedModel(), pipeline) as process:
        state = await process.ended((await process.submit()).job)
    assert state.result is not None
    assert state.result["reward"] is None
    assert (state.status, state.dead) == ("failed", True)


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


@pytest.mark.parametrize("words", ["\ud83d", "x" * (MAX_PUT_BYTES + 1)], ids=["half a character", "too long"])
def test_a_failure_that_passes_may_be_told_in_any_words(words: str) -> None:
    tried: list[str] = []

    async def unlucky_once(context: Context[Question]) -> Draft:
        tried.append(context.job_id)
        if len(tried) == 1:
            raise RetryableError(words)
        return Draft(text="")

    @virtual
    async def scenario() -> None:
        pipeline = Pipeline("ask", Question, (Stage("draft", unlucky_once, Draft),), lambda _: {})
        async with World().process(ScriptedModel(), pipeline) as process:
            assert (await process.ended((await process.submit()).job)).status == "completed"

    scenario()
    assert len(tried) == 2


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
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel(), pipeline):
        for _ in range(2):
            assert (await gateway.ended((await gateway.submit()).job)).status == "failed"


@virtual
async def test_a_result_that_json_cannot_hold_ends_the_job_and_not_the_worker() -> None:
    pipeline = Pipeline("ask", Question, (), lambda _: {"answer": object()})
    async with World().process(ScriptedModel(), pipeline) as process:
        for _ in range(2):
            state = await process.ended((await process.submit()).job)
            assert state.result is not None
            assert isinstance(state.result["error"], dict)
            assert state.result["error"]["code"] == "INTERNAL"


LARGE = "x" * MAX_PUT_BYTES


async def large(context: Context[Question]) -> Draft:
    if context.input.text == "raise":
        raise PermanentError(LARGE)
    return Draft(text=LARGE if context.input.text == "return" else "x" * (MAX_PUT_BYTES // 2))


def twice(outputs: Outputs | None) -> JSON:
    return {"answer": 2 * outputs.get(Draft).text if outputs else None}


@virtual
async def test_what_is_too_large_for_the_journal_ends_its_job_and_holds_up_no_other() -> None:
    pipeline = Pipeline("ask", Question, (Stage("draft", large, Draft),), twice)
    async with World().process(ScriptedModel(), pipeline) as process:
        states = {
            text: await process.ended((await process.submit(text)).job)
            for text in ("return", "too much in the result", "raise")
        }
    for text, state in states.items():
        assert state.status == "failed"
        assert not state.dead
        assert state.result is not None
        assert state.result["answer"] is None
        error = state.result["error"]
        assert isinstance(error, dict)
        assert error["code"] == ("FAILED" if text == "raise" else "OUTPUT_TOO_LARGE")
        assert text == "raise" or "in a store of its own" in state.cause  # for developers
        assert "store" not in str(error["message"])
    assert [shown.status for shown in states["return"].visible_events if shown.stage == "draft"] == [
        "started",
        "failed",
    ]


class Narrow(Appender):
    """A journal's stream at a broker that takes less than the outbox does."""

    def __init__(self, stream: Appender) -> None:
        self._stream = stream

    async def append(self, body: bytes, message_id: str) -> None:
        if len(body) > NARROW:
            raise TooLarge("raise max_message_size in rabbitmq.conf")
        await self._stream.append(body, message_id)


NARROW = 20_000


async def wide(context: Context[Question]) -> Draft:
    if context.input.text == "step":
        await context.step("large", lambda _: at_once({"text": "x" * NARROW}))
    return Draft(text="x" * (NARROW * 2 // 3 if context.input.text == "result" else 10))


async def at_once(value: JSON) -> JSON:
    return value


@virtual
async def test_what_is_too_large_for_this_broker_ends_its_job_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eco2.journal.journal.Outbox", lambda stream, *given: Outbox(Narrow(stream), *given))
    pipeline = Pipeline("ask", Question, (Stage("draft", wide, Draft),), twice)
    async with World().process(ScriptedModel(), pipeline) as process, asyncio.timeout(100):
        states = {
            text: await process.ended((await process.submit(text)).job)
            for text in ("step", "result", "small")
        }
    assert states["small"].status == "completed"
    for text in ("step", "result"):
        result = states[text].result
        assert result is not None
        assert isinstance(result["error"], dict)
        assert result["error"]["code"] == "OUTPUT_TOO_LARGE"
        assert "rabbitmq" not in str(result)


@virtual
async def test_nothing_is_paid_after_an_output_that_is_too_large_for_this_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def outgrown(_: Context[Question]) -> Draft:
        return Draft(text="x" * NARROW)

    async def quiet(_: Context[Question]) -> Quiet:
        return Quiet()

    monkeypatch.setattr("eco2.journal.journal.Outbox", lambda stream, *given: Outbox(Narrow(stream), *given))
    stages = (Stage("draft", outgrown, Draft), Stage("quiet", quiet, Quiet), Stage("final", final, Final))
    pipeline, model = Pipeline("ask", Question, stages, lambda _: {"answer": None}), ScriptedModel()
    async with World().process(model, pipeline) as process, asyncio.timeout(100):
        state = await process.ended((await process.submit()).job)
    assert (state.status, model.calls) == ("failed", [])
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "OUTPUT_TOO_LARGE"


class Quiet(BaseModel):
    """The output of a stage that makes no calls."""


class Secret(BaseModel):
    """What a later version of the pipeline takes in place of `Question`."""

    text: int


@virtual
async def test_a_misfit_of_an_order_shows_clients_neither_its_values_nor_the_library() -> None:
    pipeline = Pipeline("ask", Secret, (), lambda _: {"answer": None})
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel(), pipeline), asyncio.timeout(100):
        state = await gateway.ended((await gateway.submit("my secret")).job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "INVALID_INPUT"
    for text in (str(state.result), state.cause):
        assert "my secret" not in text
        assert "pydantic" not in text
    assert "text: " in state.cause
