"""Every request that the adapter can build is one that the API documents; so is every schema of the scan."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from eco2.call import Answer, Call, Effort, Reply
from eco2.errors import ProviderError
from eco2.fake import request as documented
from eco2.fake import strict_schema
from eco2.llm.openai import MIN_EFFORT, OpenAIModel
from eco2.llm.prices import PRICES
from eco2.pipeline import Label
from eco2.stages import scan
from eco2.stages.request import ScanInput
from eco2.stages.vision import Sight, Unfit, repair_call
from tests.support.conversations import tool_calls
from tests.unit.stages.test_scan import Desk

MODELS = sorted({*PRICES, *MIN_EFFORT, "own-model"})
Item = TypeVar("Item")


class Colour(StrEnum):
    """Written for programmers."""

    RED = "빨강"
    BLUE = "파랑"


class Nested(BaseModel):
    """Written for programmers."""

    title: str = Field(description="Written for the model.")
    colours: list[Colour] = Field(min_length=1, max_length=3)
    weight: float | None = Field(ge=0)


class Tree(BaseModel):
    kind: Literal["leaf", "branch"]
    inner: Nested
    children: list["Tree"]


class Box(BaseModel, Generic[Item]):
    item: Item


SCHEMAS: tuple[type[Any], ...] = (str, Sight, Nested, Tree, Box[int], type("한글이름", (Nested,), {}))

texts = st.text(st.characters(categories=("L", "N", "P", "S", "Z", "Cc", "Cs")), max_size=60)
images = st.sampled_from([None, "https://example.com/a.jpg", "data:image/jpeg;base64,/9j/4AAQ"])
calls: st.SearchStrategy[Call[Any]] = st.builds(
    Call,
    kind=texts,
    system=texts,
    text=texts,
    schema=st.sampled_from(SCHEMAS),
    max_tokens=st.integers(1, 10_000),
    image=images,
    stream=st.booleans(),
)


async def sent(call: Call[Any], model: str = "gpt-5.1", job: str = "job") -> httpx2.Request:
    """The one request that the adapter sends for this call."""
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(500)

    adapter = OpenAIModel("key", None, model)
    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    adapter._client = adapter._client.with_options(http_client=transport)
    with pytest.raises(ProviderError):
        await adapter.complete(call, job, lambda text: None)
    await adapter.aclose()
    (request,) = requests
    return request


def body(request: httpx2.Request) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(request.content)
    return decoded


def schema_of(request: httpx2.Request) -> dict[str, Any]:
    schema: dict[str, Any] = body(request)["response_format"]["json_schema"]["schema"]
    return schema


ADAPTERS = {model: OpenAIModel("key", None, model) for model in MODELS}


@settings(max_examples=200, deadline=None)
@given(call=tool_calls(), model=st.sampled_from(MODELS))
def test_every_conversation_with_tools_is_documented(call: Call[str], model: str) -> None:
    parsed = documented.parse(ADAPTERS[model]._body(call))
    first = [] if call.messages and not call.text and call.image is None else ["user"]
    roles = [message.role for message in parsed.messages]
    assert roles == ["system", *first, *(message.role for message in call.messages)]
    for tool, spec in zip(call.tools, parsed.tools or [], strict=True):
        strict_schema.check(msgspec.json.decode(spec.function.parameters), tool.name)
        assert (spec.function.name, spec.function.description) == (tool.name, tool.description)
        assert "programmers" not in bytes(spec.function.parameters).decode()
    assert (parsed.tool_choice is None) == (not call.tools)
    said = [message for message in parsed.messages if isinstance(message, documented.Assistant)]
    asked = [one for message in call.messages for one in message.tool_calls]
    sent_calls = [one for message in said for one in message.tool_calls or ()]
    assert [one.id for one in sent_calls] == [one.id for one in asked]
    for one, wanted in zip(sent_calls, asked, strict=True):
        assert type(wanted.arguments).model_validate_json(one.function.arguments) == wanted.arguments


@pytest.mark.parametrize("effort", [None, "low"])
def test_options_are_sent_as_they_are_set_and_only_then(effort: Effort | None) -> None:
    plain = Call("kind", "", "", str, 10)
    bare = json.loads(ADAPTERS["gpt-5.1"]._body(plain))
    assert set(bare) == {"model", "messages", "max_completion_tokens"}
    chosen = replace(plain, seed=0, temperature=0.0, effort=effort)
    more = json.loads(ADAPTERS["gpt-5.1"]._body(chosen))
    wanted = {"seed": 0, "temperature": 0.0} | ({"reasoning_effort": effort} if effort else {})
    assert {name: value for name, value in more.items() if name not in bare} == wanted
    assert json.loads(ADAPTERS["gpt-5"]._body(chosen))["reasoning_effort"] == (effort or "minimal")


@settings(max_examples=60, deadline=None)  # each makes a client
@given(call=calls, model=st.sampled_from(MODELS), job=texts)
def test_every_request_is_documented(call: Call[Any], model: str, job: str) -> None:
    request = asyncio.run(sent(call, model, job))
    parsed = documented.parse(request.content)
    assert (parsed.model, parsed.limit) == (model, call.max_tokens)
    assert bool(parsed.stream) == (call.stream and call.schema is str)
    assert [type(message).__name__ for message in parsed.messages] == ["System", "User"]
    content = parsed.messages[1].content
    photos = [part.image_url for part in content or () if isinstance(part, documented.ImagePart)]
    assert photos == ([] if call.image is None else [documented.ImageUrl(call.image, "low")])
    match parsed.response_format:
        case documented.JsonSchema(json_schema=spec):
            strict_schema.check(msgspec.json.decode(spec.schema), spec.name)
            assert spec.strict
            assert call.schema is not str
        case other:
            assert (other, call.schema) == (None, str)


class Recorder(Desk):
    """The scan's desk, which keeps every call."""

    made: list[Call[Any]]

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        self.made.append(call)
        return await super().call(call)


async def calls_of_a_scan(question: str, image: str) -> list[Call[Any]]:
    """All that the scan asks of a model, its repair included."""
    desk = Recorder(ScanInput(image_url=image, user_input=question), (Label("water bottle", 0.9),))
    desk.made = []
    for stage in scan.stages:
        desk.outputs.add(await stage.run(desk))
    return [*desk.made, repair_call(desk.input, Unfit(text="{}", problem="p", model="m"))]


async def test_every_schema_of_the_scan_is_within_the_documented_limits() -> None:
    """OpenAI's guide "Structured outputs", section on supported schemas."""
    kinds = []
    for call in await calls_of_a_scan("?", "data:image/jpeg;base64,/9j/4AAQ"):
        kinds.append(call.kind)
        if call.schema is str:
            continue
        schema = schema_of(await sent(call))
        strict_schema.check(schema, call.kind)
        nodes = list(mappings(schema))
        enums = [node["enum"] for node in nodes if isinstance(node.get("enum"), list)]
        names = [name for node in nodes for key in ("properties", "$defs") for name in node.get(key, {})]
        assert sum(len(values) for values in enums) <= 1000
        assert all(len("".join(values)) <= 15_000 for values in enums if len(values) > 250)
        assert len("".join([*names, *(value for values in enums for value in values)])) <= 120_000
        assert sum(len(node.get("properties", {})) for node in nodes) <= 5000
    assert kinds == ["vision", "answer", "vision"]


def mappings(node: object) -> Iterator[dict[str, Any]]:
    """Every JSON object within `node`."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from mappings(inner)


async def test_what_differs_between_jobs_comes_last() -> None:
    one = await calls_of_a_scan("이거 뭐예요?", "data:image/jpeg;base64,AAAA")
    two = await calls_of_a_scan("Where does this go, please?", "https://example.com/b.jpg")
    for first, second in zip(one, two, strict=True):
        (a, b) = body(await sent(first)), body(await sent(second))
        assert a["messages"][0] == b["messages"][0]
        assert a.get("response_format") == b.get("response_format")
        assert a["messages"][1] != b["messages"][1]


async def test_what_is_for_programmers_is_not_paid_for() -> None:
    schema = schema_of(await sent(Call("kind", "", "", Tree, 10)))
    assert "programmers" not in json.dumps(schema)
    properties: Mapping[str, Any] = schema["$defs"]["Nested"]["properties"]
    assert properties["title"] == {"type": "string", "description": "Written for the model."}


@pytest.mark.parametrize("model", MODELS)
async def test_only_models_that_would_think_are_told_not_to(model: str) -> None:
    effort = body(await sent(Call("kind", "", "", str, 10), model)).get("reasoning_effort")
    assert effort == MIN_EFFORT.get(model)


async def test_a_header_cannot_be_broken_by_a_name() -> None:
    request = await sent(Call("분류\r\nx-evil: 1", "", "", str, 10), job="job 1")
    assert request.headers["x-eco2-job"] == "job 1"
    assert request.headers["x-eco2-kind"].isascii()
    assert "x-evil" not in request.headers
