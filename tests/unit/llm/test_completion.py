"""Answers in other forms: numbers, parts, fences, thoughts. What is unambiguous is read, the rest dropped."""

import json
import math
import random
import unicodedata
from typing import Literal

import pytest
from pydantic import BaseModel, ValidationError

from eco2.call import Vectors
from eco2.llm import objects
from eco2.llm.completion import (
    MAX_COUNTED,
    Called,
    TokenCounts,
    decode_json,
    joined,
    parse_completion,
    parse_ending,
    parse_usage,
    parse_vectors,
)
from eco2.llm.thoughts import ThoughtFilter, without_thoughts


class Seen(BaseModel):
    middle: Literal["종이", "유리병"]
    tags: list[str]


FITTING = '{"middle": "종이", "tags": ["{"]}'
SEEN = Seen(middle="종이", tags=["{"])


@pytest.mark.parametrize(
    "bad", [500.5, -1, "12", None, [], {}, True, math.nan, math.inf, -math.inf, 1e300, MAX_COUNTED + 1]
)
def test_a_number_that_makes_no_sense_is_dropped_and_the_others_stay(bad: object) -> None:
    assert parse_usage({"prompt_tokens": bad, "completion_tokens": 7}) == TokenCounts(None, 7, None)
    assert parse_usage({"prompt_tokens": 9, "completion_tokens": bad}) == TokenCounts(9, None, None)
    details = {"prompt_tokens": 9, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": bad}}
    assert parse_usage(details) == TokenCounts(9, 7, None)
    assert parse_usage({**details, "prompt_tokens_details": bad}) == TokenCounts(9, 7, None)
    assert parse_usage(bad) in (None, TokenCounts())


def test_whole_floats_are_numbers_and_more_cached_tokens_than_there_are_none() -> None:
    usage = {"prompt_tokens": 9.0, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 10}}
    assert parse_usage(usage) == TokenCounts(9, 0, None)


def test_an_integer_of_thousands_of_digits_is_read() -> None:
    data = decode_json(b'{"choices": [], "usage": {"prompt_tokens": ' + b"9" * 10_000 + b"}}")
    completion = parse_completion(data)
    assert completion is not None
    assert completion.usage == TokenCounts()


@pytest.mark.parametrize(
    ("message", "text", "refusal"),
    [
        ({"content": "네"}, "네", ""),
        ({"content": [{"type": "text", "text": "네"}, {"type": "text", "text": "요"}]}, "네요", ""),
        (
            {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "output_text", "text": "네"}]},
            "네",
            "",
        ),
        ({"content": [{"type": "text", "text": {"value": "네"}}, "요", 3, None]}, "네요", ""),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "", "no"),
        ({"content": {"middle": "종이"}}, '{"middle": "종이"}', ""),
        ({"content": {"type": "text", "text": "네"}}, "네", ""),
        ({"content": "네", "refusal": ""}, "네", ""),
        ({"content": None, "refusal": "no"}, "", "no"),
        ({"content": 3}, "", ""),
        ("네", "네", ""),
    ],
)
def test_the_text_is_read_from_every_form_of_a_message(message: object, text: str, refusal: str) -> None:
    completion = parse_completion({"choices": [{"message": message}]})
    assert completion is not None
    assert (completion.text, completion.refusal) == (text, refusal)


def test_the_tools_that_are_called_are_read_and_nothing_else() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "answer", "arguments": FITTING}}
    older = {"function_call": {"name": "answer", "arguments": FITTING}}
    decoded = {"function": {"name": "answer", "arguments": {"middle": "종이"}}}
    for message, called in (
        ({"tool_calls": [call]}, [("c1", "answer", FITTING)]),
        ({"tool_calls": [call, call]}, [("c1", "answer", FITTING)] * 2),
        (older, [("", "answer", FITTING)]),
        ({"tool_calls": [decoded]}, [("", "answer", '{"middle": "종이"}')]),
        ({"tool_calls": [{"id": 3, "function": {"name": None, "arguments": []}}]}, [("", "", "")]),
        ({"tool_calls": [3, {}, {"function": "f"}]}, []),
        ({"tool_calls": 3}, []),
    ):
        completion = parse_completion({"choices": [{"message": {"content": None, **message}}]})
        assert completion is not None
        assert [(one.id, one.name, one.arguments) for one in completion.called] == called


def part(arguments: str, index: object = 0, id_: str = "", name: str = "") -> Called:
    return Called(index, id_, name, arguments)


@pytest.mark.parametrize(
    "parts",
    [
        [part("", 0, "a", "f"), part("{"), part("}"), part("", 1, "b", "g"), part("[", 1), part("]", 1)],
        [part("", 0, "a", "f"), part("", 1, "b", "g"), part("{"), part("[", 1), part("}"), part("]", 1)],
        [part("{", 0, "a", "f"), part("}", 0, "a", "f"), part("[]", 1, "b", "g")],
        [part("{}", 0, "a", "f"), part("[]", 0, "b", "g")],
        [part("{}", None, "a", "f"), part("[", None, "b", "g"), part("]", None)],
    ],
    ids=["in order", "in turn", "repeated", "one index", "no index"],
)
def test_the_parts_of_called_tools_are_joined_in_every_form(parts: list[Called]) -> None:
    called: tuple[Called, ...] = ()
    for each in parts:
        called = joined(called, (each,))
    assert [(one.id, one.name, one.arguments) for one in called] == [("a", "f", "{}"), ("b", "g", "[]")]
    assert joined((), tuple(parts)) == called


VECTORS = Vectors([(1.0, 0.5), (-0.25, 3.0)])


def test_vectors_are_read_as_numbers_or_base64_in_the_order_of_the_texts() -> None:
    for first, second in (VECTORS, VECTORS.pack()):
        rows = [{"index": 1, "embedding": second}, {"index": 0, "embedding": first}]
        assert parse_vectors({"data": rows}, 2) == VECTORS
        bare: list[dict[str, object]] = [{"embedding": first}, {"embedding": second}]
        assert parse_vectors({"data": bare}, 2) == VECTORS


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"data": []},
        {"data": [1]},
        {"data": [{"embedding": [0.5]}, {"embedding": [0.5]}]},
        {"data": [{"embedding": "no base64"}]},
        {"data": [{"embedding": "AAA="}]},
        {"data": [{"embedding": ["x"]}]},
        {"data": [{"embedding": [1e300]}]},
        {"data": [{"embedding": None}]},
    ],
)
def test_anything_else_is_no_vectors(data: object) -> None:
    assert parse_vectors(data, 1) is None


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("stop", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "filter"),
     ("tool_use", "tool"), ("overheated", "unknown"), (3, "unknown"), (None, None), ("", None)],
)  # fmt: skip
def test_stop_words_of_others_mean_the_same(reason: object, ending: str | None) -> None:
    assert parse_ending(reason) == ending


@pytest.mark.parametrize(
    "text",
    [
        FITTING,
        f"```json\n{FITTING}\n```",
        f"```\n{FITTING}```",
        f"\ufeff{FITTING}",
        f"Here you are:\n\n{FITTING}\n\nAnything {{else}}?",
        f"[{FITTING}]",
        json.dumps(FITTING),
        unicodedata.normalize("NFD", FITTING),
        f'{{"answer": {FITTING}}}',
        f"{FITTING}\n{FITTING}",
        f'{{"middle": "우주"}} or rather {FITTING}',
        "{" * 50 + FITTING,
    ],
)
def test_the_one_object_that_fits_is_found(text: str) -> None:
    assert objects.read(Seen, text) == SEEN


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "no", '{"middle": "우주", "tags": []}', FITTING[:-1],
     FITTING + FITTING.replace("종이", "유리병"),
     '"no"', '"{', json.dumps(FITTING[:-1]), "{" * 100_000, '{"a":' * 50_000, "{}" * 50_000],
)  # fmt: skip
def test_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ValidationError):
        objects.read(Seen, text)


THOUGHTS = [
    ("<think>hm</think>네", "네"),
    ("\ufeff\n<think>\nhm <b> 1 < 2\n</think>\n\n네 1 < 2", "네 1 < 2"),
    ("<THINKING depth='3'>hm</THINKING>네", "네"),
    ("네 <think>hm</think>요", "네 요"),
    ("<think>a</think>네<reasoning>b</reasoning>요", "네요"),
    ("<think>never closed", ""),
    ("네 <think", "네 <think"),
    ("a <b>c</b> <thinker> < > <<", "a <b>c</b> <thinker> < > <<"),
    ("<think></think>", ""),
    ("<seed:think>hm</seed:think>네", "네"),
    ("[THINK]hm [1][/THINK]네 [1] [THIS]", "네 [1] [THIS]"),
    ("◁think▷hm◁/think▷네 ◁", "네 ◁"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "visible"), THOUGHTS)
def test_thoughts_are_never_shown_however_the_pieces_fall(text: str, visible: str) -> None:
    assert without_thoughts(text) == visible
    for seed in range(30):
        dice, shown, rest, parts = random.Random(seed), ThoughtFilter(), text, list[str]()
        while rest:
            cut = dice.randint(1, 4)
            parts.append(shown.add(rest[:cut]))
            rest = rest[cut:]
        assert "".join([*parts, shown.end()]) == visible


@pytest.mark.parametrize("width", [1, 3, 100])
def test_a_lone_closing_tag_is_never_shown(width: int) -> None:
    text, shown = "hm</think>네</reasoning > 요", ThoughtFilter()
    pieces = [shown.add(text[at : at + width]) for at in range(0, len(text), width)]
    assert "".join([*pieces, shown.end()]) == "hm네 요"


def test_in_front_of_a_lone_closing_tag_all_is_a_thought() -> None:
    assert without_thoughts("I should say {1}.\n</think>\n\n네") == "네"


def test_text_is_not_held_back_without_a_reason() -> None:
    shown = ThoughtFilter()
    assert [shown.add(piece) for piece in ("네", " <", "3", " x", "<thi", "ng>")] == [
        "네",
        " ",
        "<3",
        " x",
        "",
        "<thing>",
    ]


@pytest.mark.parametrize("data", [None, 3, "x", [], {}, {"id": "1"}])
def test_what_is_no_completion_is_none(data: object) -> None:
    assert parse_completion(json.loads(json.dumps(data))) is None
