"""Token counts: OpenAI's published examples for images, its frame for messages, its rules for the cache."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.fake.config import Charge
from eco2.fake.content import limited, prose
from eco2.fake.models import family
from eco2.fake.provider import charge
from eco2.fake.request import parse
from eco2.fake.tokens import Prompt, PromptCache, count, measure

SYSTEM = {"role": "system", "content": "You sort waste."}


@pytest.mark.parametrize(
    ("model", "size", "low", "tokens"),
    [
        ("gpt-4o", (1024, 1024), False, 765),  # these three: the guide's examples
        ("gpt-4o", (2048, 4096), False, 1105),
        ("gpt-4o", (4096, 8192), True, 85),
        ("gpt-4o-mini", (512, 512), True, 2833),
        ("gpt-5.1", (512, 384), True, 70),
        ("gpt-5", (512, 512), False, 210),
        ("gpt-4.1-mini", (1024, 1024), False, 1659),  # 1,024 patches × 1.62
        ("gpt-4.1-nano", (1800, 2400), False, 3572),  # the guide: 1,452 patches, × 2.46
        ("gpt-4.1-nano", (2400, 1800), False, 3572),
        ("gpt-5-mini", (512, 512), True, 415),  # 256 patches × 1.62
        ("some-new-model", (10, 10), True, 85),
    ],
)
def test_images_weigh_what_the_guide_says(model: str, size: tuple[int, int], low: bool, tokens: int) -> None:
    assert family(model).image_tokens(*size, low) == tokens


def measured(messages: list[object], schema: str = "", model: str = "gpt-4o") -> Prompt:
    return measure(parse(msgspec.json.encode({"model": model, "messages": messages})), schema)


def test_a_prompt_is_its_texts_and_the_frame_of_each_message() -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "이거"}, {"type": "text", "text": "뭐야?"}]}
    frame = 3 + (3 + 1) + (3 + 1)
    assert measured([SYSTEM, user]).tokens == frame + count("You sort waste.") + count("이거") + count(
        "뭐야?"
    )
    named = {"role": "user", "content": "hi", "name": "ann"}
    assert measured([named]).tokens == 3 + 3 + 1 + 1 + 1 + count("ann")


def test_an_image_adds_its_tokens_whatever_the_length_of_its_url() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a/" + "b" * 9000, "detail": "low"}}
    parts = [{"type": "text", "text": "이거"}]
    without = measured([{"role": "user", "content": parts}])
    assert measured([{"role": "user", "content": [*parts, image]}]).tokens == without.tokens + 85


def test_special_tokens_in_a_text_are_plain_text() -> None:
    assert count("<|endoftext|>") > 1


def test_the_stable_part_is_the_schema_and_the_leading_system_messages() -> None:
    user = {"role": "user", "content": "hi"}
    schema = '{"type": "object"}'
    prompt = measured([SYSTEM, user, SYSTEM], schema)
    assert prompt.stable == count(schema) + 4 + count("You sort waste.")
    assert prompt.tokens == prompt.stable + 3 + 5 + 4 + count("You sort waste.")


def test_the_second_call_with_a_long_prefix_is_cached_in_steps_for_five_minutes() -> None:
    cache, prompt = PromptCache(), Prompt(tokens=1500, stable=1300, stable_text="a")
    assert [cache.cached("m", prompt, now) for now in (0.0, 299.0, 597.0, 900.0)] == [0, 1280, 1280, 0]
    assert cache.cached("other", prompt, 901.0) == 0
    short = Prompt(tokens=2000, stable=1023, stable_text="b")
    assert [cache.cached("m", short, now) for now in (0.0, 1.0)] == [0, 0]


@pytest.mark.parametrize(
    ("counting", "limit", "charged"),
    [
        ("request", 300, 300),
        ("request", 50, 100),
        ("request", None, 100),
        ("input", 300, 100),
        ("usage", 300, 120),
    ],
)
def test_what_the_window_counts(counting: Charge, limit: int | None, charged: int) -> None:
    assert charge(counting, prompt=100, completion=20, limit=limit) == charged


@pytest.mark.parametrize("tokens", [1, 2, 3, 17, 39, 40, 41, 80, 159, 160, 161, 500])
def test_a_text_has_exactly_the_tokens_asked_for(tokens: int) -> None:
    content = prose(tokens, 40)
    assert content.tokens == count(content.text) == tokens
    assert len(content.pieces) <= min(40, tokens)
    assert all(content.pieces)


def test_forty_chunks_are_forty() -> None:
    assert len(prose(160, 40).pieces) == 40


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(1, 50), st.integers(1, 30))
def test_any_text_is_cut_between_characters(text: str, chunks: int, limit: int) -> None:
    whole = limited(text, chunks, None)
    assert whole.text == text
    assert len(whole.pieces) <= chunks
    assert whole.tokens == count(text)
    part = limited(text, chunks, limit)
    assert text.startswith(part.text)
    assert part.tokens <= limit
    assert part.complete == (count(text) <= limit)
