"""Made-up instances fit the schemas that they are made for; pydantic, which wrote those, is the judge."""

from enum import Enum
from random import Random
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from eco2.fake.api_error import ApiError
from eco2.fake.instance import check_finite, instance
from eco2.fake.strict_schema import check

STRICT = ConfigDict(extra="forbid")


class Major(Enum):
    PAPER = "종이"
    GLASS = "유리병"


class Part(BaseModel):
    model_config = STRICT
    name: Annotated[str, Field(min_length=6, max_length=9)]
    weight: Annotated[float, Field(gt=0.25, lt=0.26)]


class Tree(BaseModel):
    model_config = STRICT
    major: Major
    left: "Tree | None"
    right: "Tree | None"
    children: list["Tree"]
    parts: Annotated[list[Part], Field(min_length=2, max_length=5)]
    even: Annotated[int, Field(ge=-7, le=7, multiple_of=2)]
    tags: list[Literal["dirty", "clean"]]


SCALARS: st.SearchStrategy[Any] = st.sampled_from(
    [
        str,
        int,
        float,
        bool,
        Literal["a", "b"],
        Literal["only"],
        Major,
        Annotated[int, Field(gt=3, lt=5)],
        Annotated[int, Field(le=-1000)],
        Annotated[float, Field(ge=1e6)],
        Annotated[str, Field(max_length=2)],
    ]
)


def _model(fields: list[Any]) -> type[BaseModel]:
    named: dict[str, Any] = {f"f{index}": (kind, ...) for index, kind in enumerate(fields)}
    return create_model("M", __config__=STRICT, **named)


TYPES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: kind | None),
        st.lists(inner, min_size=1, max_size=3).map(_model),
    ),
    max_leaves=6,
)


def made(model: type[BaseModel], seed: int) -> object:
    schema = model.model_json_schema()
    if "$ref" in schema:  # a recursive model; OpenAI's client puts the definition in place of the root, too
        schema |= schema["$defs"][schema.pop("$ref").rpartition("/")[2]]
    check(schema, "test")
    check_finite(schema, "test")
    return instance(schema, Random(seed))


@given(st.lists(TYPES, min_size=1, max_size=4), st.integers(0, 1000))
def test_an_instance_fits_any_strict_schema(fields: list[Any], seed: int) -> None:
    model = _model(fields)
    TypeAdapter(model).validate_json(TypeAdapter(object).dump_json(made(model, seed)), strict=True)


@given(st.integers(0, 10_000))
def test_references_recursion_and_bounds_are_respected(seed: int) -> None:
    Tree.model_validate(made(Tree, seed))


def test_the_same_draws_make_the_same_instance_and_others_differ() -> None:
    assert made(Tree, 7) == made(Tree, 7)
    assert len({repr(made(Tree, seed)) for seed in range(20)}) > 10


def test_every_value_of_an_enum_is_drawn() -> None:
    majors = {Tree.model_validate(made(Tree, seed)).major for seed in range(50)}
    assert majors == set(Major)


def leaf(**node: object) -> dict[str, object]:
    return {"type": "object", "properties": {"x": node}, "required": ["x"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array", "items": {"type": "string"}}, "root"),
        (leaf(type="string") | {"anyOf": [leaf(type="string")]}, "root"),
        ({"type": "object", "properties": {}, "required": []}, "additionalProperties"),
        (leaf(type="string") | {"additionalProperties": True}, "additionalProperties"),
        (leaf(type="string") | {"required": []}, "'required'"),
        (leaf(type="string") | {"required": ["x", "y"]}, "'required'"),
        (leaf(type="string", pattern="a+"), "pattern not permitted"),
        (leaf(type="string", default="a"), "default not permitted"),
        (leaf(type="string", format="uri"), "'format'"),
        (leaf(type="array"), "'items'"),
        (leaf(type="date"), "'type'"),
        (leaf(), "'type'"),
        (leaf(type="string", enum=[]), "'enum'"),
        (leaf(**{"$ref": "#/$defs/none"}), "points nowhere"),
        (leaf(**{"$ref": "#", "description": "a", "type": "object"}), "cannot stand beside"),
        (leaf(anyOf=[]), "'anyOf'"),
        (leaf(anyOf=[{"type": "string", "oneOf": []}]), "oneOf not permitted"),
        (leaf(type="object", properties={"y": {"type": "string"}}, required=["y"]), "properties/x"),
    ],
)
def test_what_is_not_strict_is_refused_with_the_place_and_the_rule(
    schema: dict[str, object], problem: str
) -> None:
    with pytest.raises(ApiError, match=problem) as caught:
        check(schema, "seen")
    assert (caught.value.status, caught.value.param) == (400, "response_format")


def test_too_deep_a_schema_is_refused() -> None:
    schema = leaf(type="string")
    for _ in range(10):
        schema = leaf(**schema)
    with pytest.raises(ApiError, match="levels of nesting"):
        check(schema, "deep")


def test_a_recursion_without_an_end_is_refused() -> None:
    schema = leaf(**{"$ref": "#"})
    check(schema, "endless")
    with pytest.raises(ApiError, match="without end"):
        check_finite(schema, "endless")


def test_bounds_that_exclude_every_number_are_refused() -> None:
    with pytest.raises(ApiError, match="No number fits"):
        instance(leaf(type="integer", minimum=3, maximum=2), Random(0))
