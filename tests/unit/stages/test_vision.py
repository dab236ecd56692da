"""Stage `vision`: one call, and nothing guessed from an answer that does not fit the lists."""

import pytest

from eco2.pipeline import Label
from eco2.stages.labels import best_middle, classify
from eco2.stages.request import ScanInput
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Major, Middle, major_of
from eco2.stages.vision import Seen, Sight, settle, sight_of, vision_call


def sight(middle: Middle, minor: str | None = None, *tags: Tag) -> Sight:
    return Sight(middle_category=middle, minor_category=minor, situation_tags=list(tags))


def test_a_fitting_answer_is_taken_over() -> None:
    seen = settle(sight(Middle.CARTON, " 우유팩 ", Tag.EMPTY, Tag.EMPTY), "m", "q")
    assert (seen.major, seen.middle, seen.minor, seen.tags) == (
        Major.RECYCLABLE,
        Middle.CARTON,
        "우유팩",
        [Tag.EMPTY],
    )
    assert (seen.model, seen.question) == ("m", "q")


@pytest.mark.parametrize("middle", Middle)
def test_the_major_follows_from_the_middle(middle: Middle) -> None:
    seen = settle(sight(middle), "m", "q")
    assert (seen.major, seen.middle) == (major_of(middle), middle)


def test_what_is_not_known_keeps_its_name_and_has_no_state() -> None:
    seen = settle(sight(Middle.UNKNOWN, "고양이", Tag.EMPTY), "m", "q")
    assert (seen.major, seen.middle, seen.minor, seen.tags) == (Major.UNKNOWN, Middle.UNKNOWN, "고양이", [])
    assert seen.name == "고양이"


@pytest.mark.parametrize("given", [None, "", " \n "])
@pytest.mark.parametrize("middle", Middle)
def test_a_thing_without_a_name_is_called_by_its_class(middle: Middle, given: str | None) -> None:
    seen = settle(sight(middle, given), "m", "q")
    assert seen.minor == ("무엇인지 알 수 없는 물건" if middle is Middle.UNKNOWN else middle.value)
    assert seen.name is None


def test_an_output_of_an_older_version_has_a_name_too() -> None:
    old: dict[str, object] = {
        "major": "재활용폐기물",
        "middle": "금속류",
        "minor": None,
        "tags": [],
        "model": "m",
        "question": "q",
    }
    assert Seen.model_validate(old).minor == "금속류"
    assert Seen.model_validate(old | {"minor": "못"}).minor == "못"


def test_a_name_is_cut() -> None:
    assert len(settle(sight(Middle.FOOD, "가" * 99), "m", "q").minor) == 40


def test_answers_outside_the_lists_do_not_fit_the_schema() -> None:
    schema = Sight.model_json_schema()
    assert schema["$defs"]["Middle"]["enum"] == [middle.value for middle in Middle]
    assert schema["$defs"]["Tag"]["enum"] == [tag.value for tag in Tag]
    with pytest.raises(ValueError):
        Sight.model_validate({"middle_category": "우주쓰레기", "minor_category": None, "situation_tags": []})


def test_the_call_has_the_stable_part_apart_from_the_question() -> None:
    one = vision_call(ScanInput(image_url="data:x", user_input="무엇?"))
    two = vision_call(ScanInput(image_url="data:y", user_input="What?"))
    assert one.system == two.system
    assert "무엇?" in one.text
    assert one.image == "data:x"
    assert one.schema is Sight


def test_a_class_is_named_when_its_labels_make_half_of_all() -> None:
    labels = [Label("coffee mug", 0.3), Label("umbrella", 0.35), Label("tea cup", 0.2)]
    middle, item = classify(labels)
    assert middle is Middle.INCOMBUSTIBLE
    assert item is not None
    assert item.name == "도자기컵"


@pytest.mark.parametrize(
    "labels",
    [
        [],
        [Label("tabby cat", 0.99)],
        [Label("coffee mug", 0.49), Label("umbrella", 0.48)],
        [Label("T-shirt", 0.4), Label("hammer", 0.4)],
    ],
)
def test_no_class_is_named_for_less_than_half(labels: list[Label]) -> None:
    assert classify(labels) == (Middle.UNKNOWN, None)
    assert sight_of(labels) == sight(Middle.UNKNOWN)


def test_a_classifier_sees_no_states() -> None:
    seen = sight_of([Label("water bottle", 0.9)])
    assert seen == sight(Middle.CLEAR_PET, "생수병")


def test_the_best_class_is_reported_even_below_half() -> None:
    assert best_middle([Label("hammer", 0.1)]) == (Middle.METAL, 0.1)
    assert best_middle([]) == (Middle.UNKNOWN, 0.0)
