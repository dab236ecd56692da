"""Strict validation: what the real API would refuse is refused, with the parameter and the code."""

from typing import Any

import msgspec
import pytest

from eco2.fake.api_error import ApiError, no_key
from eco2.fake.request import ChatRequest, parse

HELLO = [{"role": "user", "content": "안녕"}]


def request(**fields: object) -> ChatRequest:
    return parse(msgspec.json.encode({"model": "gpt-4o", "messages": HELLO} | fields))


def part(**image: object) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]


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
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
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
