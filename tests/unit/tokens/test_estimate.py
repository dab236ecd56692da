"""Estimates against the fake provider's tokenizer: close after 50 calls, too high before, hard to spoil."""

import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from pydantic import BaseModel

from bench.tokens import MODEL, Case, calls, prompt
from eco2.call import Call, Usage
from eco2.fake.provider import charge
from eco2.fake.tokens import count
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import taxonomy
from eco2.tokens.estimate import (
    DRIFT_CALLS,
    HEAD_ROOM,
    MAX_SAMPLES,
    MIN_SAMPLES,
    Counting,
    Estimate,
    Estimator,
)

KOREAN = (
    "이 물건은 어떻게 분리배출하나요?",
    "뚜껑은?",
    "이사하면서 나온 건데 크기가 좀 커서 종량제봉투에 안 들어가요. 돈을 내야 하나요?",
)
ENGLISH = (
    "How do I dispose of this?",
    "Lid?",
    "Where does the lid go? It has some sauce left in it and I could not wash it off.",
)


def scans(questions: Sequence[str], seed: int = 1) -> Iterator[Case]:
    """Endless scans of any item in any state."""
    dice = random.Random(seed)
    items, tags = list(taxonomy().items), [tag.value for tag in Tag]
    while True:
        seen = dice.sample(tags, dice.choice((0, 0, 1, 2)))
        yield Case(dice.choice(items), seen, dice.choice(questions))


def asked(questions: Sequence[str], kind: str, number: int, seed: int = 1) -> list[Call[Any]]:
    """Calls of one kind, as the stages make them."""
    at = ("vision", "answer").index(kind)
    return [calls(case)[at] for case in islice(scans(questions, seed), number)]


def off(estimate: Estimate, counted: int) -> float:
    """The error, as a share of what was counted; positive if the estimate is too high."""
    return estimate.prompt / counted - 1


def learning(estimator: Estimator, sent: Sequence[Call[Any]], factor: float = 1.0) -> list[float]:
    """The error of each estimate, each learnt from before the next; the model counts `factor` times o200k."""
    errors = []
    for call in sent:
        counted = round(prompt(call).tokens * factor)
        estimate = estimator.estimate(call)
        errors.append(off(estimate, counted))
        estimator.learn(estimate, Usage(input_tokens=counted, output_tokens=120))
    return errors


def close(errors: Sequence[float]) -> bool:
    """Median within 5 %, 95th percentile within 15 %."""
    sizes = sorted(abs(error) for error in errors)
    return statistics.median(sizes) <= 0.05 and sizes[int(0.95 * len(sizes))] <= 0.15


# --- the scan's own prompts


@pytest.mark.parametrize("kind", ["vision", "answer"])
@pytest.mark.parametrize("questions", [KOREAN, ENGLISH, KOREAN + ENGLISH], ids=["ko", "en", "mixed"])
def test_after_50_calls_the_estimates_are_close(kind: str, questions: Sequence[str]) -> None:
    errors = learning(Estimator(MODEL), asked(questions, kind, 350))
    assert close(errors[50:200])
    assert close(errors[200:])


@pytest.mark.parametrize("kind", ["vision", "answer"])
def test_the_untaught_guess_is_not_close(kind: str) -> None:
    estimator = Estimator(MODEL)
    sent = asked(KOREAN + ENGLISH, kind, 100)
    assert not close([off(estimator.estimate(call), prompt(call).tokens) for call in sent])


@pytest.mark.parametrize("kind", ["vision", "answer"])
@pytest.mark.parametrize("questions", [KOREAN, ENGLISH], ids=["ko", "en"])
def test_no_first_estimate_is_too_low_whatever_the_call(kind: str, questions: Sequence[str]) -> None:
    for call in asked(questions, kind, 200):
        assert 0 < off(Estimator(MODEL).estimate(call), prompt(call).tokens) < 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["vision", "answer"])
def test_the_calls_after_the_first_are_not_too_low_either(kind: str, seed: int) -> None:
    errors = learning(Estimator(MODEL), asked(KOREAN + ENGLISH, kind, 30, seed))
    assert min(errors[:10]) >= 0
    assert min(errors) > -0.03


@pytest.mark.parametrize("kind", ["vision", "answer"])
def test_estimates_add_up_to_a_little_more_than_was_counted(kind: str) -> None:
    """Or a minute's budget, spent on estimates, would be overrun."""
    errors = learning(Estimator(MODEL), asked(KOREAN + ENGLISH, kind, 600))
    assert 0 <= statistics.mean(errors[100:]) < 0.01


def test_one_language_alone_does_not_spoil_the_other() -> None:
    estimator = Estimator(MODEL)
    learning(estimator, asked(ENGLISH, "answer", 2 * MAX_SAMPLES))
    errors = learning(estimator, asked(KOREAN, "answer", 60))
    assert errors[0] > -0.15
    assert close(errors[10:])


def test_kinds_do_not_mix() -> None:
    estimator = Estimator(MODEL)
    vision, answer = asked(KOREAN, "vision", 60), asked(KOREAN, "answer", 60)
    both = [call for pair in zip(vision, answer, strict=True) for call in pair]
    assert learning(estimator, both)[1::2] == learning(Estimator(MODEL), answer)


def test_equal_calls_in_equal_order_are_estimated_equally() -> None:
    sent = asked(KOREAN + ENGLISH, "answer", 80)
    assert learning(Estimator(MODEL), sent) == learning(Estimator(MODEL), sent)


# --- what the provider counts


@pytest.mark.parametrize("counting", ["request", "input", "usage"])
def test_the_cost_is_what_the_fake_provider_would_count(counting: Counting) -> None:
    estimator = Estimator(MODEL, counting)
    dice, shares = random.Random(2), []
    for call in asked(KOREAN, "answer", 200):
        estimate = estimator.estimate(call)
        completion = dice.randint(90, 130)
        counted = charge(counting, prompt(call).tokens, completion, estimate.max_completion_tokens)
        shares.append(estimate.cost / counted)
        estimator.learn(estimate, Usage(input_tokens=prompt(call).tokens, output_tokens=completion))
    assert min(shares) >= 0.95
    assert max(shares[50:]) <= 1.15


def short(max_tokens: int = 400) -> Call[str]:
    """A call whose prompt is far shorter than its answer."""
    return Call("short", "Write.", "A poem about rain.", str, max_tokens)


def answered(estimator: Estimator, call: Call[str], *completions: int) -> Estimate:
    """The estimate after these answers."""
    for completion in completions:
        estimator.learn(estimator.estimate(call), Usage(input_tokens=20, output_tokens=completion))
    return estimator.estimate(call)


def test_until_enough_is_known_an_answer_may_be_as_long_as_its_call_allows() -> None:
    estimate = answered(Estimator(MODEL), short(), *[100] * (MIN_SAMPLES - 1))
    assert (estimate.completion, estimate.max_completion_tokens, estimate.cost) == (400, 400, 400)


def test_then_99_of_100_answers_and_some_head_room_are_asked_for() -> None:
    estimate = answered(Estimator(MODEL), short(), *[100] * 297, 300, 300, 300)
    assert estimate.completion == 100
    assert estimate.max_completion_tokens == estimate.cost == 100 * HEAD_ROOM
    estimate = answered(Estimator(MODEL), short(), *[100] * 296, *[300] * 4)
    assert estimate.completion == 300
    assert estimate.max_completion_tokens == 375


def test_nothing_is_asked_for_that_the_call_does_not_allow() -> None:
    estimate = answered(Estimator(MODEL), short(), *[390] * MIN_SAMPLES)
    assert (estimate.completion, estimate.max_completion_tokens) == (390, 400)
    estimator = Estimator(MODEL)
    answered(estimator, short(), *[390] * MIN_SAMPLES)
    estimate = estimator.estimate(short(max_tokens=50))
    assert (estimate.completion, estimate.max_completion_tokens) == (50, 50)


def test_answers_that_were_cut_off_give_the_call_its_full_length_again() -> None:
    estimator = Estimator(MODEL)
    cut = answered(estimator, short(), *[100] * MAX_SAMPLES).max_completion_tokens
    assert answered(estimator, short(), *[cut] * 4).max_completion_tokens == 400


def test_old_answers_are_forgotten() -> None:
    estimate = answered(Estimator(MODEL), short(), *[300] * MAX_SAMPLES, *[80] * MAX_SAMPLES)
    assert estimate.completion == 80


def test_an_answer_may_always_be_as_long_as_the_prompt_since_that_is_free() -> None:
    call = asked(KOREAN, "vision", 1)[0]
    estimator = Estimator(MODEL)
    for _ in range(MIN_SAMPLES):
        estimator.learn(estimator.estimate(call), Usage(input_tokens=prompt(call).tokens, output_tokens=40))
    estimate = estimator.estimate(call)
    assert estimate.completion == 40
    assert estimate.max_completion_tokens == call.max_tokens
    assert estimate.cost == estimate.prompt > call.max_tokens


@pytest.mark.parametrize("counting", ["input", "usage"])
def test_where_a_long_answer_is_not_paid_for_in_advance_its_length_is_left_alone(counting: Counting) -> None:
    estimate = answered(Estimator(MODEL, counting), short(), *[100] * MAX_SAMPLES)
    assert (estimate.completion, estimate.max_completion_tokens) == (100, 400)
    assert estimate.cost == estimate.prompt + (100 if counting == "usage" else 0)


# --- what is not to be believed


@pytest.mark.parametrize("usage", [Usage(), Usage(-5, 0, -5), Usage(1, 0, 10**9), Usage(10**9, 0, 0)])
def test_an_absurd_usage_is_not_learnt_from(usage: Usage) -> None:
    sent = asked(KOREAN, "answer", 100)
    estimator, spared = Estimator(MODEL), Estimator(MODEL)
    for call in sent:
        estimator.learn(estimator.estimate(call), usage)
        learning(estimator, [call])
        learning(spared, [call])
    assert estimator.estimate(sent[0]) == spared.estimate(sent[0])


def test_a_provider_that_only_reports_absurd_usages_is_met_with_the_first_guess() -> None:
    call = asked(KOREAN, "answer", 1)[0]
    estimator = Estimator(MODEL)
    first = estimator.estimate(call)
    for _ in range(100):
        estimator.learn(estimator.estimate(call), Usage())
    assert estimator.estimate(call) == first


def test_a_wrong_usage_now_and_then_is_not_learnt_from() -> None:
    sent = asked(KOREAN, "answer", 200)
    estimator, spared = Estimator(MODEL), Estimator(MODEL)
    for number, call in enumerate(sent):
        if number >= 20:
            wrong = prompt(call).tokens * (3 if number % 2 else 0.3)
            estimator.learn(estimator.estimate(call), Usage(input_tokens=int(wrong)))
        learning(estimator, [call])
        learning(spared, [call])
    assert estimator.estimate(sent[0]).prompt == spared.estimate(sent[0]).prompt


def test_wrong_usages_at_the_start_are_got_over() -> None:
    sent = asked(KOREAN, "answer", 100)
    estimator = Estimator(MODEL)
    learning(estimator, sent[:25], factor=3.0)
    assert close(learning(estimator, sent[25:])[2 * DRIFT_CALLS :])


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.3, 2.5])
def test_another_model_behind_the_name_is_learnt_within_a_few_calls(factor: float) -> None:
    sent = asked(KOREAN + ENGLISH, "answer", 400)
    estimator = Estimator(MODEL)
    assert close(learning(estimator, sent[:200])[50:])
    errors = learning(estimator, sent[200:], factor)
    assert not close(errors[:5])
    assert close(errors[2 * DRIFT_CALLS :])


def test_calls_that_are_off_to_both_sides_are_no_other_model() -> None:
    sent = asked(KOREAN, "answer", 200)
    estimator = Estimator(MODEL)
    learning(estimator, sent[:100])
    before = estimator.estimate(sent[0]).prompt
    for number, call in enumerate(sent[100:]):
        learning(estimator, [call], factor=1.3 if number % 2 else 0.7)
        assert estimator.estimate(sent[0]).prompt == pytest.approx(before, rel=0.04)


def test_estimators_of_two_models_know_nothing_of_each_other() -> None:
    sent = asked(KOREAN, "answer", 60)
    one, other = Estimator(MODEL), Estimator("gpt-5-mini")
    learning(other, sent, factor=2.0)
    assert one.estimate(sent[0]) == Estimator(MODEL).estimate(sent[0])


# --- calls of other shapes


class Shape(BaseModel):
    side: int


@pytest.mark.parametrize(
    ("system", "text"),
    [("", ""), ("", "👩‍👩‍👧‍👦" * 20), ("\ud800", "a\udfff"), ("é" * 50, "漢字かな交じり文" * 9)],
)
def test_any_text_has_an_estimate(system: str, text: str) -> None:
    plain = Estimator(MODEL).estimate(Call("any", system, text, str, 10))
    shaped = Estimator(MODEL).estimate(Call("any", system, text, Shape, 10))
    assert shaped.prompt > plain.prompt >= 1
    sound = text.encode(errors="replace").decode()
    assert plain.cost >= plain.prompt >= count(sound) * 0.6


def test_a_picture_counts_by_the_formula_of_the_model() -> None:
    call = asked(KOREAN, "vision", 1)[0]
    blind = Call(call.kind, call.system, call.text, call.schema, call.max_tokens)
    for model, tokens in (("gpt-4o", 85), ("gpt-5.1", 70), ("gpt-4o-mini", 2833)):
        estimator = Estimator(model)
        assert estimator.estimate(call).prompt - estimator.estimate(blind).prompt == tokens


def test_a_picture_may_weigh_far_more_than_the_text_beside_it() -> None:
    call = Call("look", "", "What is it?", str, 10, image="https://example.org/can.jpg")
    estimator = Estimator(MODEL)
    for _ in range(MIN_SAMPLES):
        estimator.learn(estimator.estimate(call), Usage(input_tokens=3000))
    assert estimator.estimate(call).prompt == pytest.approx(3000, rel=0.05)


def test_a_provider_that_counts_pictures_otherwise_is_learnt() -> None:
    sent = asked(KOREAN, "vision", 100)
    estimator = Estimator("gpt-4o-mini")  # 2,748 tokens more than what is counted here
    assert close(learning(estimator, sent)[50:])
