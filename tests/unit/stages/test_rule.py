"""Stages `rule` and `reward`: pure, right, and fast."""

import time

import pytest

from eco2.stages.documents import Document, documents
from eco2.stages.reward import character_won, earned
from eco2.stages.rule import Rules, apply_rules
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Major, Middle, major_of, taxonomy
from eco2.stages.vision import Seen


def seen(middle: Middle, minor: str | None = None, *tags: Tag) -> Seen:
    return Seen(
        major=major_of(middle),
        middle=middle,
        minor=minor or "",
        tags=list(tags),
        model="m",
        question="어떻게?",
    )


def rules_for(what: Seen) -> Rules:
    return apply_rules(what.middle, what.name, what.tags, "ko")


def test_a_clean_bottle_has_the_common_steps_in_order_and_nothing_missing() -> None:
    rules = rules_for(seen(Middle.CLEAR_PET, "생수병"))
    assert (rules.key, rules.item, rules.insufficiencies) == ("clear_pet", "생수병", [])
    assert [("비우" in step, "라벨" in step, "찌그러" in step) for step in rules.steps[:3]] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert "전용 수거함" in rules.steps[-1]


def test_steps_that_the_photo_shows_as_not_done_are_missing() -> None:
    rules = rules_for(seen(Middle.CLEAR_PET, None, Tag.LABEL_ON, Tag.FULL, Tag.COLOURLESS))
    assert len(rules.insufficiencies) == 2
    assert "비우" in rules.insufficiencies[0]
    assert "라벨" in rules.insufficiencies[1]


def test_a_step_that_only_a_tag_asks_for_is_silent_without_it() -> None:
    plain, wet = rules_for(seen(Middle.PAPER)), rules_for(seen(Middle.PAPER, None, Tag.WET))
    assert [step for step in wet.steps if step not in plain.steps] == ["젖은 종이는 말려 주세요."]
    assert wet.insufficiencies == ["젖은 종이는 말려 주세요."]


def test_a_thing_that_belongs_elsewhere_needs_only_the_steps_that_were_asked_for() -> None:
    soaked = rules_for(seen(Middle.PAPER, None, Tag.MOULDY, Tag.PADDING_INSIDE))
    assert len(soaked.steps) == 2
    assert "완충재" in soaked.steps[0]
    assert "종량제봉투" in soaked.steps[1]
    assert soaked.insufficiencies == soaked.steps


def test_the_step_of_an_item_answers_a_tag_in_place_of_the_general_one() -> None:
    greasy = rules_for(seen(Middle.PAPER, "피자상자", Tag.GREASY))
    assert len(greasy.insufficiencies) == 1
    assert "기름이 밴 부분은 잘라" in greasy.insufficiencies[0]
    assert "수거함" in greasy.steps[-1]


def test_a_tag_that_the_item_allows_asks_for_nothing() -> None:
    assert rules_for(seen(Middle.GLASS, "소주병", Tag.CAP_ON)).insufficiencies == []
    assert len(rules_for(seen(Middle.GLASS, "잼병", Tag.CAP_ON)).insufficiencies) == 1


def test_the_item_adds_steps_and_changes_the_last() -> None:
    rules = rules_for(seen(Middle.GLASS, "소주병"))
    assert "보증금" in rules.steps[-1]
    assert not any("뚜껑은 떼어" in step for step in rules.steps)


def test_no_step_is_repeated() -> None:
    rules = rules_for(seen(Middle.METAL, "부탄가스", Tag.GAS_LEFT))
    assert len(rules.steps) == len(set(rules.steps))


def test_the_language_is_that_of_the_question() -> None:
    korean = apply_rules(Middle.METAL, "부탄가스", [], "ko")
    english = apply_rules(Middle.METAL, "부탄가스", [], "en")
    assert len(korean.steps) == len(english.steps)
    assert all(step.isascii() for step in english.steps)
    assert english.item == "butane gas canister"


def test_the_unknown_has_no_rules() -> None:
    rules = rules_for(seen(Middle.UNKNOWN))
    assert (rules.found, rules.steps, rules.insufficiencies) == (False, [], [])


@pytest.mark.parametrize("tag", [tag for tag in Tag if tag.neutral])
@pytest.mark.parametrize("middle", list(documents()))
def test_a_neutral_tag_never_costs_the_reward(middle: Middle, tag: Tag) -> None:
    assert rules_for(seen(middle, None, tag)).insufficiencies == []


@pytest.mark.parametrize("middle", list(Middle))
def test_only_recyclables_win(middle: Middle) -> None:
    what = seen(middle)
    assert earned(what, rules_for(what)) is (major_of(middle) is Major.RECYCLABLE)


def test_nothing_is_won_while_something_is_to_be_done() -> None:
    what = seen(Middle.CLEAR_PET, "생수병", Tag.LABEL_ON)
    assert not earned(what, rules_for(what))


def test_the_character_belongs_to_the_middle() -> None:
    won = character_won(seen(Middle.CARTON, "우유팩"), "ko")
    assert (won.name, won.type, won.match_reason) == ("팩토리", "종이팩", "종이팩>우유팩")
    assert character_won(seen(Middle.CARTON), "ko").match_reason == "종이팩"


def test_rule_and_reward_take_less_than_5_ms_at_the_99th_percentile() -> None:
    cases = [seen(item.middle, item.name, *list(Tag)[:40]) for item in taxonomy().items.values()]
    cases += [seen(what.middle, "가" * 40) for what in cases]

    def percentile() -> float:
        took = []
        for what in cases * 2:
            began = time.thread_time()
            rules = rules_for(what)
            if earned(what, rules):
                character_won(what, "ko")
            took.append(time.thread_time() - began)
        return sorted(took)[int(len(took) * 0.99)]

    assert min(percentile() for _ in range(3)) < 0.005


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"by_item": {"우유팩": {}}}, r"not in items\.json"),
        ({"prepare": [{"ko": "가", "en": "a", "tags": [Tag.CLEAN]}]}, "neutral tags ask for nothing"),
        ({"prepare": [{"ko": "가", "en": "a", "when": "seen"}]}, "no tag can ask for the step"),
        (
            {"by_item": {"책": {"steps": [{"ko": "가", "en": "a", "tags": ["유색"]}], "allows": ["유색"]}}},
            "allowed, and yet a step is asked for",
        ),
        ({"put_out": {"ko": "가"}}, "en"),
    ],
)
def test_a_document_that_contradicts_itself_is_not_accepted(change: dict[str, object], problem: str) -> None:
    good = documents()[Middle.PAPER].model_dump(mode="json")
    assert Document.model_validate(good) == documents()[Middle.PAPER]
    with pytest.raises(ValueError, match=problem):
        Document.model_validate(good | change)
