"""Tools, conversations, options and embeddings: the OpenAI adapter against a fake provider, and a bad one."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import openai
import pytest

from eco2.call import Call, InvalidAnswer, Message, Reply, Tool, UnreadableAnswer, Vectors, embedding
from eco2.errors import CallUnsupported, ProviderAccessDenied, ProviderError, ProviderRefused
from eco2.fake.config import ANSWER, CallKind, FakeConfig
from eco2.llm.openai import OpenAIModel
from tests.support.conversations import PHOTOS, TOOLS, Look, Nothing, photo
from tests.support.fake_provider import running
from tests.support.scripted_provider import STREAM_TYPE, USAGE, completion, events, piece, saying

QUICK = FakeConfig(scale=0, kinds={ANSWER: CallKind(mean=1.0, p99=2.0, completion_tokens=80)})
LOOK = TOOLS[0]
FOUND = {"item": "우유팩", "region": "서울"}
ASK = Call("agent", "Help. Use the tools.", "우유팩은 어디에 버려요?", str, 500, tools=(LOOK,))
EMBEDDER = "text-embedding-3-small"


@asynccontextmanager
async def model(url: str, name: str = "gpt-5.1") -> AsyncIterator[OpenAIModel]:
    adapter = OpenAIModel("key", f"{url}/v1", name)
    try:
        yield adapter
    finally:
        await adapter.aclose()


async def asked(
    url: str, call: Call[Any], name: str = "gpt-5.1", shown: list[str] | None = None
) -> Reply[Any]:
    async with model(url, name) as adapter:
        return await adapter.complete(call, "job", (shown if shown is not None else []).append)


async def unfit(url: str, call: Call[str]) -> InvalidAnswer:
    with pytest.raises(InvalidAnswer) as caught:
        await asked(url, call)
    return caught.value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_tool_is_called_with_validated_arguments_and_its_result_is_answered(stream: bool) -> None:
    call, shown = replace(ASK, stream=stream), list[str]()
    async with running(replace(QUICK, answers={"look_up": (FOUND,)})) as fake:
        first = await asked(fake.url, call, shown=shown)
        assert (first.value, shown) == ("", [])
        (wanted,) = first.tool_calls
        assert (wanted.name, wanted.arguments) == ("look_up", Look.model_validate(FOUND))
        turns = (first.message, wanted.result("종이팩 수거함"))
        second = await asked(fake.url, replace(call, messages=turns), shown=shown)
        one, two = await fake.until(lambda calls: {each["outcome"] for each in calls} == {"ok"})
    assert second.tool_calls == ()
    assert second.value
    assert "".join(shown) == (second.value if stream else "")
    assert first.usage.output_tokens == one["completion_tokens"] > 0
    assert second.usage.input_tokens == two["prompt_tokens"] > one["prompt_tokens"]


async def test_the_choice_decides_whether_a_tool_is_called_and_which() -> None:
    call, turns = replace(ASK, tools=TOOLS), tuple[Message, ...]()
    async with running(QUICK) as fake:
        none = await asked(fake.url, replace(call, tool_choice="none"))
        assert (none.tool_calls, bool(none.value)) == ((), True)
        for tool in TOOLS:
            reply = await asked(fake.url, replace(call, tool_choice=tool.name))
            (wanted,) = reply.tool_calls
            assert (wanted.name, type(wanted.arguments)) == (tool.name, tool.parameters)
            turns = (reply.message, wanted.result("42"))
        again = await asked(fake.url, replace(call, messages=turns, tool_choice="required"))
    assert len(again.tool_calls) == 1


async def test_several_images_and_a_conversation_without_a_text_are_sent_and_counted() -> None:
    said = (Message("user", "어느 것?", PHOTOS), Message("assistant", "하나요."), Message("user", "왜?"))
    call = Call("look", "Help.", "", str, 500, messages=said)
    async with running(QUICK) as fake:
        with_images = await asked(fake.url, call)
        without = await asked(fake.url, replace(call, messages=(replace(said[0], images=()), *said[1:])))
        assert with_images.usage.input_tokens - without.usage.input_tokens == 70 * len(PHOTOS)
        one = await asked(fake.url, replace(call, text="이거?", image=photo(64, 64), messages=()))
    assert one.value


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"item": "can"}, "region"),
        ({"item": "can", "region": "대구"}, "region: not one of the listed values"),
        ([], "the arguments of look_up"),
    ],
)
async def test_arguments_that_do_not_fit_are_an_invalid_answer_with_its_cost(
    given: object, problem: str
) -> None:
    async with running(replace(QUICK, answers={"look_up": (given,)})) as fake:
        error = await unfit(fake.url, ASK)
        (logged,) = await fake.calls()
    assert problem in error.problem
    assert json.loads(error.text) == given
    assert (error.usage.input_tokens, error.usage.cost is not None) == (logged["prompt_tokens"], True)


def called(*functions: tuple[str, object], **more: object) -> dict[str, object]:
    calls = [
        {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(functions)
    ]
    return {"content": None, "tool_calls": calls, **more}


async def said(message: dict[str, object], call: Call[str] = ASK, ending: str = "tool_calls") -> Reply[str]:
    async with saying(completion(ending, message, usage=USAGE)) as url:
        return await asked(url, call)


async def test_several_tools_may_be_called_at_once_beside_a_text() -> None:
    fitting = json.dumps(FOUND)
    reply = await said(
        called(("look_up", fitting), ("x", ""), ("look_up", FOUND), content="<think>hm</think>Wait."),
        replace(ASK, tools=TOOLS),
    )
    look = Look.model_validate(FOUND)
    assert [(one.id, one.arguments) for one in reply.tool_calls] == [
        ("c0", look),
        ("c1", Nothing()),
        ("c2", look),
    ]
    assert reply.value == reply.message.text == "Wait."
    assert reply.message.tool_calls == reply.tool_calls


async def test_a_called_tool_without_an_id_gets_one() -> None:
    message: dict[str, object] = {"tool_calls": [{"function": {"name": "look_up", "arguments": FOUND}}] * 2}
    reply = await said(message)
    assert [one.id for one in reply.tool_calls] == ["call_0", "call_1"]


@pytest.mark.parametrize(
    ("message", "call", "ending", "problem"),
    [
        (called(("other", "{}")), ASK, "tool_calls", "there is no tool 'other'"),
        (called(("look_up", '{"item": ')), ASK, "length", "it was cut off because it was too long"),
        (called(("look_up", '{"item": ')), ASK, "tool_calls", "the arguments of look_up: "),
        ({"content": "No."}, replace(ASK, tool_choice="required"), "stop", "it calls no tool"),
        ({"content": ""}, replace(ASK, tool_choice="look_up"), "stop", "it calls no tool"),
    ],
)
async def test_an_unfit_call_of_a_tool_says_what_is_wrong(
    message: dict[str, object], call: Call[str], ending: str, problem: str
) -> None:
    with pytest.raises(InvalidAnswer) as caught:
        await said(message, call, ending)
    assert problem in caught.value.problem
    assert caught.value.usage.input_tokens == 1000


@pytest.mark.parametrize(
    "call", [replace(ASK, tools=()), replace(ASK, tool_choice="none")], ids=["no tool", "none"]
)
async def test_the_call_of_a_tool_that_was_not_offered_is_of_no_use(call: Call[str]) -> None:
    with pytest.raises(UnreadableAnswer, match="none was offered"):
        await said(called(("look_up", json.dumps(FOUND))), call)


async def test_a_stream_that_breaks_off_within_the_call_of_a_tool_may_pass() -> None:
    start = {"index": 0, "id": "c", "function": {"name": "look_up", "arguments": '{"item": "can"'}}
    async with saying(events(piece(tool_calls=[start])), content_type=STREAM_TYPE) as url:
        with pytest.raises(ProviderError, match="broke off"):
            await asked(url, replace(ASK, stream=True))


@pytest.mark.parametrize("action", ["cut", "disconnect"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_call_of_a_tool_that_the_fake_cuts_off_may_pass(action: str, stream: bool) -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": action, "after_chunks": 99})
        with pytest.raises(ProviderError):
            await asked(fake.url, replace(ASK, stream=stream))


async def test_the_official_client_reads_the_called_tools_of_the_fake() -> None:
    tool: Any = {
        "type": "function",
        "function": openai.pydantic_function_tool(Look, name="look_up")["function"],
    }
    messages: Any = [{"role": "user", "content": "?"}]
    async with running(QUICK) as fake:
        parsed = await fake.openai().chat.completions.parse(model="gpt-4o", messages=messages, tools=[tool])
        async with fake.openai().chat.completions.stream(
            model="gpt-4o", messages=messages, tools=[tool]
        ) as stream:
            streamed = await stream.get_final_completion()
    for answer in (parsed, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        (one,) = answer.choices[0].message.tool_calls or []
        assert isinstance(one.function.parsed_arguments, Look)


# --- effort, seed, temperature


async def test_a_model_that_does_not_take_an_option_leaves_the_call_to_another() -> None:
    async with running(QUICK) as fake:
        for call in (replace(ASK, temperature=0.2), replace(ASK, effort="high")):
            name = "gpt-5" if call.effort is None else "gpt-4o"
            with pytest.raises(CallUnsupported) as caught:
                await asked(fake.url, call, name)
            assert ("temperature" if call.effort is None else "reasoning_effort") in str(caught.value)
        assert (await asked(fake.url, replace(ASK, temperature=0.2, seed=1), "gpt-4o")).tool_calls


# --- embeddings


async def test_texts_become_vectors_in_their_order_at_the_price_of_their_tokens() -> None:
    texts = ("우유팩", "캔", "우유팩")
    async with running(QUICK) as fake:
        reply = await asked(fake.url, embedding(texts, EMBEDDER), EMBEDDER)
        short = await asked(fake.url, embedding(texts[:1], EMBEDDER, dimensions=8), EMBEDDER)
        one, _ = await fake.calls()
        official = await fake.openai().embeddings.create(model=EMBEDDER, input=list(texts))
    first, second, third = reply.value
    assert isinstance(reply.value, Vectors)
    assert (len(first), first == third, first == second) == (1536, True, False)
    assert math.hypot(*first) == pytest.approx(1)
    assert len(short.value[0]) == 8
    assert first == tuple(official.data[0].embedding)
    assert (one["kind"], one["charged_tokens"]) == ("embedding", one["prompt_tokens"])
    assert reply.usage.input_tokens == one["prompt_tokens"] > 0
    assert reply.usage.cost == Decimal("0.02") * one["prompt_tokens"] / 1_000_000


@pytest.mark.parametrize(
    ("texts", "name", "kind"),
    [
        (["a"], "gpt-5.1", ProviderAccessDenied),
        (["a"] * 2049, EMBEDDER, ProviderRefused),
        (["word " * 9000], EMBEDDER, ProviderRefused),
    ],
    ids=["no embedder", "too many", "too long"],
)
async def test_texts_that_the_provider_refuses(texts: list[str], name: str, kind: type[Exception]) -> None:
    async with running(QUICK) as fake:
        with pytest.raises(kind):
            await asked(fake.url, embedding(texts, name), name)


async def test_a_limit_and_a_fault_meet_embeddings_too() -> None:
    async with running(replace(QUICK, rpm=1)) as fake:
        await fake.faults({"action": "status", "status": 503, "first": 1})
        for message in ("503", "429"):
            with pytest.raises(ProviderError, match=message):
                await asked(fake.url, embedding(["a"], EMBEDDER), EMBEDDER)
    async with running(QUICK) as fake:
        await fake.faults({"action": "cut"})
        with pytest.raises(ProviderError, match="broke off"):
            await asked(fake.url, embedding(["a"], EMBEDDER), EMBEDDER)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"data": []}', UnreadableAnswer),
        ('{"data": [{"index": 0, "embedding": "?"}]}', UnreadableAnswer),
        (completion(message="hi"), UnreadableAnswer),
        ("3", UnreadableAnswer),
        ('{"error": {"code": "insufficient_quota", "message": "no"}}', ProviderAccessDenied),
        ("<html>", ProviderError),
    ],
)
async def test_an_answer_without_vectors_is_classified(body: str, kind: type[Exception]) -> None:
    async with saying(body) as url:
        with pytest.raises(kind):
            await asked(url, embedding(["a"], EMBEDDER), EMBEDDER)


async def test_vectors_without_a_usage_have_no_cost() -> None:
    async with saying('{"data": [{"embedding": [0.5]}]}') as url:
        reply = await asked(url, embedding(["a"], EMBEDDER), EMBEDDER)
    assert (reply.value, reply.usage.cost) == (Vectors([(0.5,)]), None)


# --- what is no call at all


def test_calls_that_fit_no_model_are_not_made() -> None:
    with pytest.raises(ValueError, match="schema must be str"):
        Call("agent", "", "", Look, 10, tools=(LOOK,))
    for choice in ("look", "required"):
        with pytest.raises(ValueError, match="tool_choice"):
            Call("agent", "", "", str, 10, tools=(LOOK,) if choice == "look" else (), tool_choice=choice)
    for texts in ([], ["a", ""]):
        with pytest.raises(ValueError, match="nothing to embed"):
            embedding(texts, EMBEDDER)
    assert Tool("a", "b", Look) == Tool("a", "b", Look)
