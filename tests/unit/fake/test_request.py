"""Strict validation: what the real API would refuse is refused, with the parameter and the code."""

from typing import Any

import msgspec
import pytest

from eco2.fake.api_error import ApiError, no_key
from eco2.fake.request import ChatRequest, parse, parse_embedding

HELLO = [{"role": "user", "content": "안녕"}]


def request(**fields: object) -> ChatRequest:
    return parse(msgspec.json.encode({"model": "gpt-4o", "messages": HELLO} | fields))


def part(**image: object) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]


def tool(**members: object) -> dict[str, object]:
    function = {"name": "look", "strict": True, "parameters": {}} | members
    return {"type": "function", "function": function}


def chosen(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}}


def calling(*ids: str) -> dict[str, object]:
    function = {"name": "look", "arguments": "{}"}
    return {
        "role": "assistant",
        "tool_calls": [{"id": id_, "type": "function", "function": function} for id_ in ids],
    }


def tool_result(id_: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": id_, "content": "found"}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x", "unknown_parameter"),
        (
            {"messages": part(url="http://a/b", size=3)},
            "messages[0].content[0].image_url.size",
            "unknown_parameter",
        ),
        ({"messages": part()}, "messages[0].content[0].image_url.url", "missing_required_parameter"),
        (
            {"messages": part(url="http://a/b", detail="medium")},
            "messages[0].content[0].image_url.detail",
            None,
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "system", "content": part(url="x")[0]["content"]}]}, None, "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"model": 5}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [tool(strict=False)]}, "tools[0].function.strict", "unsupported_value"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name", "invalid_value"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [tool()], "tool_choice": chosen("other")}, "tool_choice", "invalid_value"),
        ({"tools": [tool()], "tool_choice": "always"}, "tool_choice", "invalid_value"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [*HELLO, tool_result("a")]}, "messages[1].role", "invalid_value"),
        ({"messages": [calling("a"), tool_result("b")]}, "messages[1].role", "invalid_value"),
        ({"messages": [calling("a"), tool_result("a"), tool_result("a")]}, "messages[2].role", None),
        ({"messages": [calling("a", "b"), tool_result("a"), *HELLO]}, "messages", "invalid_value"),
        ({"messages": [calling("a")]}, "messages", "invalid_value"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_value"),
        ({"model": "gpt-5", "temperature": 0.2}, "temperature", "unsupported_value"),
        ({"model": "gpt-5.1", "reasoning_effort": "low", "top_p": 0.2}, "top_p", "unsupported_value"),
        ({"model": "gpt-5", "max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"model": "gpt-5.1", "reasoning_effort": "minimal"}, "reasoning_effort", "unsupported_value"),
    ],
)
def test_a_bad_request_names_its_parameter(
    fields: dict[str, object], param: str | None, code: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        request(**fields)
    refusal = caught.value
    assert (refusal.status, refusal.kind) == (400, "invalid_request_error")
    if param is not None:
        assert refusal.param == param
    if code is not None:
        assert refusal.code == code
    error = msgspec.json.decode(refusal.body())["error"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("spec", "param", "code"),
    [
        ({"name": "a b", "strict": True, "schema": {}}, "response_format.json_schema.name", "invalid_value"),
        ({"strict": True, "schema": {}}, "response_format.json_schema.name", "missing_required_parameter"),
        ({"name": "a", "strict": True}, "response_format.json_schema.schema", "missing_required_parameter"),
        ({"name": "a", "schema": {}}, "response_format.json_schema.strict", "unsupported_value"),
    ],
)
def test_a_bad_response_format_names_its_parameter(spec: dict[str, object], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(response_format={"type": "json_schema", "json_schema": spec})
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"model": "\xff"}', b"[]", b"null"])
def test_a_body_that_is_no_json_object_is_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.2, "max_tokens": 7, "seed": 1, "user": "u", "metadata": {"a": "b"}},
        {"model": "gpt-5.1", "temperature": 0.2},
        {"model": "gpt-5", "reasoning_effort": "minimal", "temperature": 1},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"n": 1, "tools": None, "logprobs": False, "store": False},
        {"messages": part(url="http://a/b", detail="low")},
        {"tools": [tool(), tool(name="b", description="d")], "tool_choice": "required"},
        {"tools": [tool()], "tool_choice": chosen("look"), "parallel_tool_calls": False},
        {"messages": [*HELLO, calling("a", "b"), tool_result("b"), tool_result("a"), *HELLO]},
        {"messages": [{"role": "assistant", "content": "hi", "tool_calls": None}, *HELLO]},
        {"response_format": {"type": "text"}},
    ],
)
def test_good_requests_pass(fields: dict[str, object]) -> None:
    assert request(**fields).messages


def test_either_name_of_the_limit_counts_and_images_are_noticed() -> None:
    assert request(max_tokens=7).limit == 7
    assert request(max_completion_tokens=9).limit == 9
    assert request(messages=part(url="http://a/b")).has_image
    assert not request().has_image


@pytest.mark.parametrize(
    ("header", "known", "status"),
    [
        (None, (), 401),
        ("Bearer ", (), 401),
        ("Basic abc", (), 401),
        ("Bearer other", ("key",), 401),
        ("Bearer key", ("key",), None),
        ("bearer anything", (), None),
    ],
)
def test_keys(header: str | None, known: tuple[str, ...], status: int | None) -> None:
    refusal = no_key(header, known)
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": [[1, 2]]}, "input[0]", "invalid_type"),
        ({}, "input", "missing_required_parameter"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "dimension": 3}, "dimension", "unknown_parameter"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
    ],
)
def test_a_bad_request_for_vectors_names_its_parameter(
    fields: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        parse_embedding(msgspec.json.encode({"model": "text-embedding-3-small"} | fields))
    assert (caught.value.param, caught.value.code) == (param, code)


def test_one_text_to_embed_is_a_list_of_one() -> None:
    request = parse_embedding(msgspec.json.encode({"model": "m", "input": "안녕", "dimensions": 8}))
    assert (request.texts, request.dimensions) == (["안녕"], 8)
