"""How a free-text name finds its item, and which language a question is in."""

import pytest

from eco2.stages.language import language_of
from eco2.stages.taxonomy import Middle, taxonomy


@pytest.mark.parametrize(
    ("middle", "minor", "item"),
    [
        (Middle.CARTON, "우유팩", "우유팩"),
        (Middle.CLEAR_PET, "음료 PET병", "음료PET병"),
        (Middle.CLEAR_PET, "빈 콜라 페트병", "음료PET병"),
        (Middle.METAL, "Aluminium Can", "알루미늄캔"),
        (Middle.METAL, "찌그러진 참치캔 하나", "통조림캔"),
        (Middle.INCOMBUSTIBLE, "머그컵", "도자기컵"),
        (Middle.PAPER, "택배 상자(골판지상자)", "골판지상자"),
    ],
)
def test_an_item_is_found_by_its_names_or_the_longest_name_inside(
    middle: Middle, minor: str, item: str
) -> None:
    found = taxonomy().find(middle, minor)
    assert found is not None
    assert found.name == item


@pytest.mark.parametrize("minor", [None, "", "무엇인지 모름", "우유팩"])
def test_what_is_not_of_the_class_is_not_found(minor: str | None) -> None:
    assert taxonomy().find(Middle.GLASS, minor) is None


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("어떻게 버려요?", "ko"),
        ("How do I recycle this?", "en"),
        ("이거 recyclable?", "ko"),
        ("", "ko"),
        ("???", "ko"),
        ("ㅇㅋ", "ko"),
        ("Wie entsorge ich das?", "en"),
    ],
)
def test_the_language_of_a_question(question: str, language: str) -> None:
    assert language_of(question) == language
