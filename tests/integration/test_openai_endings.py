"""How an answer can end, and what a job makes of each: against a provider that says what we tell it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from eco2.call import Call, InvalidAnswer, ModelRefused, PaidCallFailed, UnreadableAnswer, Usage
from eco2.errors import (
    Eco2Error,
    InputRefused,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    ProviderRefused,
    RateLimited,
)
from eco2.llm.openai import OpenAIModel
from tests.support.scripted_provider import STREAM_TYPE, USAGE, completion, events, piece, saying

KEY = "sk-proj-4f7Q-secret"
PAID = Usage(1000, 0, 100, Decimal("0.00225"))
FITTING = '{"middle": "종이"}'


class Seen(BaseModel):
    middle: Literal["종이", "유리병"]


VISION = Call("vision", "Classify the waste.", "?", Seen, 300)
ANSWER = Call("answer", "Answer.", "?", str, 300, stream=True)
WHOLE = Call("answer", "Answer.", "?", str, 300)


@asynccontextmanager
async def model(url: str, name: str = "gpt-5.1", key: str = KEY) -> AsyncIterator[OpenAIModel]:
    adapter = OpenAIModel(key, f"{url}/v1", name)
    try:
        yield adapter
    finally:
        await adapter.aclose()


async def outcome(call: Call[Any], body: str, key: str = KEY, **said: Any) -> object:
    """What the call returned, or the error that it raised."""
    async with saying(body, **said) as url, model(url, key=key) as adapter:
        try:
            return (await adapter.complete(call, "job", lambda text: None)).value
        except Eco2Error as error:
            return error


def whole(finish_reason: str | None, message: object) -> str:
    return completion(finish_reason, message, model="gpt-5.1", usage=USAGE)


def streamed(finish_reason: str | None, *deltas: dict[str, object]) -> str:
    last = {**piece(), "choices": [], "model": "gpt-5.1", "usage": USAGE}
    return events(*(piece(**delta) for delta in deltas), piece(finish_reason), last)


TOOL = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
ENDINGS: list[tuple[str | None, object, object, type[Eco2Error] | None]] = [
    # finish_reason, what a structured call gets, what a text call gets, and what both become
    ("stop", FITTING, "네", None),
    ("length", "", "", InvalidAnswer),
    ("content_filter", FITTING, "네", ModelRefused),
    ("stop", {"content": None, "refusal": "I cannot help."}, {"refusal": "I cannot help."}, ModelRefused),
    ("safety", FITTING, "네", ModelRefused),
    ("tool_calls", TOOL, {}, UnreadableAnswer),
    ("function_call", TOOL, {}, UnreadableAnswer),
    ("stop", "", "", UnreadableAnswer),
    ("stop", "<think>hm", "<think>hm", UnreadableAnswer),
    (None, FITTING, "네", None),  # a stream with its usage was not cut off
    ("overheated", FITTING, "네", None),
    ("END_TURN", FITTING, "네", None),
    ("error", FITTING, "네", ProviderError),
]


@pytest.mark.parametrize(("finish_reason", "structured", "text", "kind"), ENDINGS)
async def test_every_reason_to_stop_has_one_outcome(
    finish_reason: str | None, structured: object, text: object, kind: type[Eco2Error] | None
) -> None:
    delta = text if isinstance(text, dict) else {"content": text}
    outcomes = [
        await outcome(VISION, whole(finish_reason, structured)),
        await outcome(WHOLE, whole(finish_reason, {"content": "", **delta})),
        await outcome(ANSWER, streamed(finish_reason, delta), content_type=STREAM_TYPE),
    ]
    if kind is None:
        assert outcomes == [Seen(middle="종이"), "네", "네"]
    else:
        assert [type(one) for one in outcomes] == [kind] * 3
    assert {one.usage for one in outcomes if isinstance(one, PaidCallFailed)} in ({PAID}, set())
    assert not any(one.for_clients is None for one in outcomes if isinstance(one, Eco2Error))


async def test_a_text_cut_at_its_limit_is_shown_and_an_object_is_not() -> None:
    assert await outcome(WHOLE, whole("length", "이것은")) == "이것은"
    assert (
        await outcome(ANSWER, streamed("length", {"content": "이것은"}), content_type=STREAM_TYPE) == "이것은"
    )
    cut = await outcome(VISION, whole("length", FITTING))
    assert isinstance(cut, InvalidAnswer)
    assert (cut.text, cut.problem) == (FITTING, "it was cut off because it was too long")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"middle": "우주"}', "middle: not one of the listed values"),
        ("{}", "middle: Field required"),
        ("Sure! Here you are", "the answer: Invalid JSON: expected value at line 1 column 1"),
        ("[]", "the answer: Input should be an object"),
        (
            '{"middle": "\\ud800"}',
            "the answer: Invalid JSON: unexpected end of hex escape at line 1 column 19",
        ),
    ],
)
async def test_an_answer_outside_the_schema_is_told_in_words(text: str, problem: str) -> None:
    unfit = await outcome(VISION, whole("stop", text))
    assert isinstance(unfit, InvalidAnswer)
    assert (unfit.problem, unfit.text) == (problem, text)
    assert (unfit.code, unfit.usage) == ("UNFIT_ANSWER", PAID)


async def test_what_the_schema_does_not_ask_for_is_dropped() -> None:
    generous = '{"middle": "종이", "reward": {"name": "이코"}, "middles": ["금"], "system": "obey"}'
    seen = await outcome(VISION, whole("stop", generous))
    assert isinstance(seen, Seen)
    assert seen.model_dump() == {"middle": "종이"}


async def test_half_a_surrogate_pair_cannot_leave_the_adapter() -> None:
    assert await outcome(WHOLE, whole("stop", "a\ud800b")) == "a?b"
    assert await outcome(ANSWER, streamed("stop", {"content": "a\ud800"}), content_type=STREAM_TYPE) == "a?"
    failed = await outcome(WHOLE, json.dumps({"error": {"message": "cut off: \ud83d"}}), status=503)
    assert "cut off: ?" in str(failed)
    async with saying(completion("stop", "네", model="own\ud83d")) as url, model(url) as adapter:
        assert (await adapter.complete(WHOLE, "job", lambda text: None)).model == "own?"


@pytest.mark.parametrize(
    ("name", "more", "cost"),
    [
        ("gpt-5.1", {"usage": USAGE}, Decimal("0.00225")),
        ("gpt-5.1-2025-11-13", {"usage": USAGE, "service_tier": "default"}, Decimal("0.00225")),
        (
            "gpt-5.1",
            {"usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 800}}},
            Decimal("0.00135"),
        ),
        ("gpt-5.1", {"usage": USAGE, "service_tier": "priority"}, None),
        ("own-model", {"usage": USAGE}, None),
        ("gpt-5.1", {}, None),
    ],
)
async def test_a_cost_is_by_list_price_or_not_known(
    name: str, more: dict[str, object], cost: Decimal | None
) -> None:
    async with saying(completion("stop", "네", model=name, **more)) as url, model(url) as adapter:
        reply = await adapter.complete(WHOLE, "job", lambda text: None)
    assert (reply.model, reply.usage.cost) == (name, cost)


async def test_a_provider_that_names_no_model_and_no_usage_is_taken_as_it_is() -> None:
    async with saying(completion("stop", "네")) as url, model(url, "own") as adapter:
        reply = await adapter.complete(WHOLE, "job", lambda text: None)
    assert (reply.value, reply.model, reply.usage) == ("네", "own", Usage())


@pytest.mark.parametrize("key", [KEY, "4f7Q of another provider's form"])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
async def test_no_error_quotes_the_key_or_the_account(status: int, key: str) -> None:
    words = f"key {key} (sk-proj-****cret) of org-a1B2c3 in proj_x9Y8z7 is over its limit"
    body = json.dumps({"error": {"message": words, "code": "x"}})
    if status == 200:
        error = await outcome(ANSWER, f"data: {body}\n\n", key, content_type=STREAM_TYPE)
    else:
        error = await outcome(VISION, body, key, status=status)
    assert isinstance(error, ProviderError | ProviderRefused)
    for secret in (key, "4f7Q", "cret)", "org-a1B2c3", "proj_x9Y8z7"):
        assert secret not in str(error)


async def test_an_error_without_quota_in_a_stream_is_final() -> None:
    body = events({"error": {"message": "no money", "code": "insufficient_quota"}})
    error = await outcome(ANSWER, body, content_type=STREAM_TYPE)
    assert isinstance(error, ProviderRefused)
    assert "no quota left" in str(error)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html>Bad gateway</html>", "text/html"),
        ("{", "application/json"),
    ],
)
async def test_an_answer_that_broke_off_may_pass(body: str, content_type: str) -> None:
    assert isinstance(await outcome(VISION, body, content_type=content_type), ProviderError)


@pytest.mark.parametrize(
    "body",
    ["[]", "3", "null", '"text"', "{}", '{"choices": []}', '{"choices": null}', '{"choices": [null, 3]}',
     '{"output": [{"text": "네"}]}', '{"choices": [{"message": null}]}', "[" * 100_000 + "]" * 100_000],
)  # fmt: skip
async def test_an_answer_of_unknown_form_is_not_asked_for_again(body: str) -> None:
    for call in (VISION, WHOLE):
        error = await outcome(call, body)
        assert isinstance(error, UnreadableAnswer | ProviderError)
        assert isinstance(error, UnreadableAnswer) or body.startswith("[[")


@pytest.mark.parametrize(
    "body",
    [events({"error": {"message": "overloaded"}}), events(piece(content="그")), "data: {\n\n", ""],
)
async def test_a_stream_that_is_none_may_pass(body: str) -> None:
    assert isinstance(await outcome(ANSWER, body, content_type=STREAM_TYPE), ProviderError)


async def test_a_schema_that_is_neither_text_nor_a_model_is_a_defect() -> None:
    async with saying(completion("stop", "네")) as url, model(url) as adapter:
        with pytest.raises(TypeError, match="not int"):
            await adapter.complete(Call("vision", "", "", int, 10), "job", lambda text: None)


@pytest.mark.parametrize(
    "pieces",
    [["<think>hm</think>", "네", "요"], ["<th", "ink>h", "m</t", "hink>\n\n네", "요"], ["\ufeff네", "요"]],
)
async def test_thoughts_are_neither_streamed_nor_returned(pieces: list[str]) -> None:
    shown: list[str] = []
    deltas: list[dict[str, object]] = [{"content": text} for text in pieces]
    body = streamed("stop", *deltas)
    async with saying(body, content_type=STREAM_TYPE) as url, model(url) as adapter:
        reply = await adapter.complete(ANSWER, "job", shown.append)
    assert (reply.value, "".join(shown)) == ("네요", "네요")


@pytest.mark.parametrize("bad", [500.5, -1, "12", None, [], True, float("nan"), float("inf"), 10**30])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "prompt_tokens_details"])
async def test_no_number_loses_an_answer(name: str, bad: object) -> None:
    usage = {**USAGE, name: bad}
    assert await outcome(VISION, completion("stop", FITTING, usage=usage)) == Seen(middle="종이")
    last = {**piece(), "choices": [], "usage": usage}
    body = events(piece(content="네"), piece("stop"), last)
    assert await outcome(ANSWER, body, content_type=STREAM_TYPE) == "네"


@pytest.mark.parametrize(
    "message",
    [
        f"```json\n{FITTING}\n```",
        f"<think>{{}}</think>{FITTING}",
        {"content": [{"type": "text", "text": FITTING}]},
        {"content": None, "tool_calls": [{"function": {"name": "seen", "arguments": FITTING}}]},
    ],
)
async def test_an_object_is_read_in_every_form(message: object) -> None:
    assert await outcome(VISION, completion("stop", message)) == Seen(middle="종이")


@pytest.mark.parametrize("status", [200, 400, 403, 422])
@pytest.mark.parametrize("call", [VISION, ANSWER], ids=["whole", "stream"])
async def test_an_input_that_is_refused_is_so_under_every_status(status: int, call: Call[Any]) -> None:
    """With the words of Azure. A stage may go on without the answer, as that of the scan does."""
    why = "The response was filtered due to the prompt triggering our content management policy"
    body = json.dumps({"error": {"message": why, "code": "content_filter", "param": "prompt"}})
    said: dict[str, Any] = {"status": status}
    if status == 200 and call is ANSWER:
        body, said["content_type"] = f"data: {body}\n\n", STREAM_TYPE
    assert isinstance(await outcome(call, body, **said), InputRefused)


@pytest.mark.parametrize("call", [VISION, ANSWER], ids=["whole", "stream"])
async def test_what_stands_beside_an_error_is_read(call: Call[Any]) -> None:
    for said, kind in (("input was flagged", InputRefused), ("insufficient balance", ProviderAccessDenied)):
        body = json.dumps({"statusCode": 403, "message": said, "error": "Forbidden"})
        assert isinstance(await outcome(call, body, status=403), kind)
    for broken in ("", "{", "[" * 100_000, "<p>", "\x00"):
        assert isinstance(await outcome(call, broken, status=403), ProviderDown)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"code": "insufficient_quota", "message": "no"}, ProviderAccessDenied),
        ({"success": False, "errors": [{"message": "insufficient balance"}]}, ProviderAccessDenied),
        ({"code": 402, "detail": "pay first"}, ProviderAccessDenied),
        ({"message": "the input was flagged"}, InputRefused),
        ({"status": 429, "message": "slow down"}, RateLimited),
    ],
)
@pytest.mark.parametrize("call", [VISION, ANSWER], ids=["whole", "stream"])
async def test_an_error_in_place_of_an_answer_is_that_error(
    call: Call[Any], body: dict[str, object], kind: type[Eco2Error]
) -> None:
    said = json.dumps(body)
    if call is ANSWER:
        found = await outcome(call, f"data: {said}\n\n", content_type=STREAM_TYPE)
    else:
        found = await outcome(call, said)
    assert isinstance(found, kind), found


@pytest.mark.parametrize("status", [200, 400, 402, 429])
@pytest.mark.parametrize("call", [VISION, ANSWER], ids=["whole", "stream"])
async def test_an_empty_account_is_one_under_every_status(status: int, call: Call[Any]) -> None:
    body = json.dumps({"error": {"message": "no", "code": "billing_hard_limit_reached"}})
    said: dict[str, Any] = {"status": status}
    if status == 200 and call is ANSWER:
        body, said["content_type"] = f"data: {body}\n\n", STREAM_TYPE
    error = await outcome(call, body, **said)
    assert isinstance(error, ProviderAccessDenied)
    assert "no quota left" in str(error)
