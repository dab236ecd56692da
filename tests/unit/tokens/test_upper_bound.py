"""Reservations against texts that no mean describes: never below what the fake provider charges."""

import json
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.tokens import MODEL, Case, calls, prompt
from eco2.call import Call, Message, Usage, embedding
from eco2.calls.provider import Budget
from eco2.fake.provider import charge
from eco2.fake.request import parse
from eco2.fake.tokens import count, measure
from eco2.llm.openai import OpenAIModel
from eco2.pacer import Limits
from eco2.ports import Quota
from eco2.stages.request import MAX_QUESTION, ScanInput
from eco2.stages.vision import Unfit, repair_call
from eco2.tokens.estimate import MIN_SAMPLES, Counting, Estimator
from eco2.tokens.upper_bound import is_ordinary, upper_bound
from tests.support.conversations import TOOLS, tool_calls
from tests.unit.tokens.test_estimate import ENGLISH, KOREAN, asked

Write = Callable[[random.Random], str]


def of(first: int, last: int) -> Write:
    return lambda dice: "".join(chr(dice.randint(first, last)) for _ in range(MAX_QUESTION))


def among(alphabet: str, length: int = MAX_QUESTION) -> Write:
    return lambda dice: "".join(dice.choice(alphabet) for _ in range(length))


TEXTS: dict[str, Write] = {
    "cuneiform": of(0x12000, 0x12399),
    "tags": of(0xE0020, 0xE007E),
    "emoji": of(0x1F300, 0x1F6FF),
    "hieroglyphs": of(0x13000, 0x1342E),
    "mathematical letters": of(0x1D400, 0x1D7FF),
    "CJK extension B": of(0x20000, 0x2A6D6),
    "plane 16": of(0x100000, 0x10FFFD),
    "control": of(0x01, 0x1F),
    "one control": among("\x01"),
    "C1 control": of(0x80, 0x9F),
    "private use": of(0xE000, 0xF8FF),
    "jamo": of(0x1100, 0x11FF),
    "any syllable": of(0xAC00, 0xD7A3),
    "rare syllables": among("뷁쀍쁗쮃쬻퓗횹"),
    "Ethiopic": of(0x1200, 0x1357),
    "Tibetan": of(0x0F00, 0x0F6C),
    "Thai": of(0x0E01, 0x0E3A),
    "Khmer": of(0x1780, 0x17DD),
    "N'Ko": of(0x07C0, 0x07FA),
    "Arabic": of(0x0600, 0x06FF),
    "Cyrillic": of(0x0400, 0x052F),
    "CJK": of(0x4E00, 0x9FA5),
    "accents": lambda dice: "".join("a" + chr(dice.randint(0x300, 0x36F)) for _ in range(MAX_QUESTION // 2)),
    "zero width": among("\u200b\u200d\u2060\ufeff"),
    "quotes and backslashes": among('"\\'),
    "random letters": among(string.ascii_lowercase),
    "random capitals": among("QXZJKVW"),
    "letters and digits": among(string.ascii_letters + string.digits),
    "printable": among(string.printable[:94]),
    "punctuation": among(string.punctuation),
    "a1b2": lambda dice: "".join(dice.choice("abcxyz") + dice.choice("0123456789") for _ in range(1000)),
    "lines": among("a\n1\t"),
    "short cuneiform": lambda dice: TEXTS["cuneiform"](dice)[:40],
    "short a1b2": lambda dice: TEXTS["a1b2"](dice)[:100],
}


def scan_of(question: str) -> Sequence[Call[Any]]:
    """The calls of a scan with this question, and its repair."""
    vision, answer = calls(Case("우유팩", question=question))
    request = ScanInput(image_url=vision.image or "", user_input=question)
    repair = repair_call(request, Unfit(text=question, problem="p", model="m"))
    return vision, answer, repair


def taught(kind: str) -> Estimator:
    """An estimator that knows ordinary calls of this kind well."""
    estimator = Estimator(MODEL)
    for call in asked(KOREAN + ENGLISH, kind, 2 * MIN_SAMPLES):
        estimator.learn(estimator.estimate(call), Usage(prompt(call).tokens, 0, 110))
    return estimator


TAUGHT = {kind: taught(kind) for kind in ("vision", "answer")}


@pytest.mark.parametrize("name", TEXTS)
def test_no_reservation_is_below_what_is_charged(name: str) -> None:
    for seed in range(3):
        for call in scan_of(TEXTS[name](random.Random(seed)).replace("\0", "")):
            counted = prompt(call).tokens
            for estimator in (Estimator(MODEL), TAUGHT[call.kind]):
                estimate = estimator.estimate(call)
                assert estimate.cost >= charge("request", counted, 0, estimate.max_completion_tokens)


@pytest.mark.parametrize("name", TEXTS)
def test_the_bound_holds_for_the_text_alone(name: str) -> None:
    for seed in range(5):
        text = TEXTS[name](random.Random(seed))
        assert upper_bound(text) >= count(text)
        assert upper_bound(json.dumps(text)) >= count(json.dumps(text))


@pytest.mark.parametrize("name", [name for name in TEXTS if "short" not in name])
def test_one_users_text_changes_no_estimate_of_others(name: str) -> None:
    for kind, place in (("vision", 0), ("answer", 1)):
        estimator, (usual,) = taught(kind), asked(KOREAN, kind, 1)
        before = estimator.estimate(usual).prompt
        for seed in range(60):
            call = scan_of(TEXTS[name](random.Random(seed)).replace("\0", ""))[place]
            estimator.learn(estimator.estimate(call), Usage(prompt(call).tokens, 0, 110))
        assert estimator.estimate(usual).prompt == before


@pytest.mark.parametrize("question", [*KOREAN, *ENGLISH, "이거 뭐예요? 😀", "PET 500ml 2개, 뚜껑 분리?"])
def test_an_ordinary_question_reserves_by_the_mean(question: str) -> None:
    for kind, call in zip(("vision", "answer"), scan_of(question), strict=False):
        reserved = TAUGHT[kind].estimate(call)
        bare = TAUGHT[kind].estimate(replace(call, user_text=""))
        assert reserved.prompt <= 1.03 * bare.prompt
        assert reserved.usual


@pytest.mark.parametrize(
    ("sentence", "most"),
    [
        ("이 물건은 플라스틱인데 라벨이 안 떨어져요. 어떻게 버려야 하나요? ", 1.6),
        ("Where does this bottle go, please? ", 2.2),
    ],
)
def test_a_long_ordinary_question_is_not_reserved_absurdly(sentence: str, most: float) -> None:
    question = (sentence * 100)[:MAX_QUESTION]
    for kind, call in zip(("vision", "answer"), scan_of(question), strict=False):
        assert TAUGHT[kind].estimate(call).prompt <= most * prompt(call).tokens


def test_what_is_rare_is_bounded_also_where_no_stage_says_whose_text_it_is() -> None:
    text = TEXTS["cuneiform"](random.Random(1))
    call = Call("own", "Summarise.", text, str, 100)
    assert Estimator(MODEL).estimate(call).prompt >= count(text)


def test_only_short_and_usual_texts_are_ordinary() -> None:
    assert all(is_ordinary(question) for question in (*KOREAN, *ENGLISH))
    assert not is_ordinary(ENGLISH[2] * 3)
    for name in ("cuneiform", "a1b2", "rare syllables", "private use", "control", "accents"):
        assert not is_ordinary(json.dumps(TEXTS[name](random.Random(1))[:60], ensure_ascii=False))


# --- conversations, several images, tools, and texts to embed


ADAPTER = OpenAIModel("key", None, MODEL)


def counted(call: Call[Any], model: str = MODEL) -> int:
    """The tokens of the request that the adapter sends."""
    body = json.loads(ADAPTER._body(call)) | {"model": model}
    return measure(parse(json.dumps(body).encode()), "").tokens


@settings(max_examples=300, deadline=None)
@given(call=tool_calls(), model=st.sampled_from([MODEL, "gpt-4.1-mini", "gpt-5.1"]))
def test_no_reservation_of_a_conversation_is_below_what_is_charged(call: Call[str], model: str) -> None:
    estimate = Estimator(model).estimate(call)
    longest = estimate.max_completion_tokens
    assert estimate.cost >= charge("request", counted(call, model), 0, longest)
    assert Estimator(model, "input").estimate(call).cost >= counted(call, model)


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(tool_calls(), min_size=5, max_size=20))
def test_what_conversations_teach_makes_no_reservation_too_low(calls: list[Call[str]]) -> None:
    estimator = Estimator(MODEL, "input")
    for call in calls:
        estimate, tokens = estimator.estimate(call), counted(call)
        assert estimate.cost >= tokens or not call.messages  # the other calls are estimated by a mean
        estimator.learn(estimate, Usage(tokens, 0, 110))


@pytest.mark.parametrize("name", TEXTS)
def test_no_reservation_of_texts_to_embed_is_below_what_is_charged(name: str) -> None:
    texts = [TEXTS[name](random.Random(seed)) for seed in range(5)]
    for given_texts in (texts, texts[:1], [text[:1] for text in texts]):
        call, tokens = embedding(given_texts, "text-embedding-3-small"), sum(map(count, given_texts))
        estimator = Estimator("text-embedding-3-small")
        for _ in range(3):
            estimate = estimator.estimate(call)
            assert estimate.cost >= tokens
            assert estimate.max_completion_tokens == 0
            estimator.learn(estimate, Usage(tokens))


@pytest.mark.parametrize("counting", ["request", "input", "usage"])
def test_what_an_embedding_was_counted_as_replaces_its_reservation(counting: Counting) -> None:
    estimator = Estimator("text-embedding-3-small", counting)
    budget = Budget(cast(Quota, None), estimator, counting, Limits(1.0, 1000.0))
    estimate = estimator.estimate(embedding(["Where does this bottle go, please? " * 20], "m"))
    assert estimate.cost > 200
    assert budget.counted(estimate, Usage(161)) == 161
    assert budget.counted(estimate, Usage()) is None


def test_an_agents_prose_is_not_reserved_absurdly() -> None:
    said = tuple(Message(role, "Where does this bottle go, please? " * 40) for role in ("user", "assistant"))
    call = Call("agent", "Help with waste.", "", str, 100, messages=said, tools=TOOLS)
    assert counted(call) <= Estimator(MODEL).estimate(call).prompt <= 3 * counted(call)


def test_an_empty_message_does_not_teach_that_instructions_are_short() -> None:
    """Its frame is bounded far above what it counts."""
    estimator, bare = Estimator(MODEL, "input"), Call("agent", "Help with waste. Use the tools.", "", str, 10)
    chat = replace(bare, messages=(Message("user", ""),))
    for _ in range(30):
        estimator.learn(estimator.estimate(chat), Usage(counted(chat), 0, 5))
    assert estimator.estimate(bare).cost >= counted(bare)
