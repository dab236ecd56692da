"""The check at start: it passes on the data that is shipped, and names each gap in data that is not whole."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from eco2.errors import ConfigurationError
from eco2.stages import integrity
from eco2.stages.documents import Document, documents
from eco2.stages.integrity import check, problems
from eco2.stages.language import Text
from eco2.stages.reward import DEFAULT, Character, characters
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Middle, taxonomy


def without(table: Mapping[Middle, Document], *gone: Middle) -> dict[Middle, Document]:
    return {middle: document for middle, document in table.items() if middle not in gone}


def test_the_shipped_data_is_complete() -> None:
    check()
    assert list(problems(taxonomy(), documents(), characters())) == []


def test_a_class_without_rules_is_named() -> None:
    found = list(problems(taxonomy(), without(documents(), Middle.FOOD), characters()))
    assert "음식물류폐기물 has no rules" in found


def test_a_recyclable_without_a_character_is_named() -> None:
    cast = {name: who for name, who in characters().items() if name not in (Middle.FOAM, DEFAULT)}
    found = list(problems(taxonomy(), documents(), cast))
    assert found == ["default has no character", "발포합성수지 has no character"]


def test_a_tag_without_an_action_is_named() -> None:
    found = list(problems(taxonomy(), without(documents(), Middle.CLOTHING), characters()))
    assert f"the tag {Tag.UNPAIRED.value!r} leads to no action" in found
    assert not any(Tag.DIRTY.value in problem for problem in found)


def test_a_name_that_leads_to_another_item_is_named() -> None:
    table = taxonomy()
    paper = [(name, item) for name, item in table.named[Middle.PAPER] if item.name != "신문지"]
    broken = replace(table, named={**table.named, Middle.PAPER: paper})
    assert list(problems(broken, documents(), characters())) == [
        "'신문지' does not lead to 신문지",
        "'newspaper' does not lead to 신문지",
    ]


@pytest.mark.parametrize("text", [Text(ko="가", en=""), Text(ko="a", en="a"), Text(ko="가", en="가")])
def test_a_text_in_one_language_is_named(text: Text) -> None:
    cast = {**characters(), DEFAULT: Character(name="이코", dialog=text)}
    (found,) = problems(taxonomy(), documents(), cast)
    assert found.startswith("not in both languages")


def test_a_gap_in_the_data_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "documents", lambda: without(documents(), Middle.FOOD))
    with pytest.raises(ConfigurationError, match=r"음식물류폐기물 has no rules.*correct eco2/stages/data"):
        check()


def test_a_file_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> Mapping[Middle, Document]:
        raise ValueError("Expecting ',' delimiter")

    monkeypatch.setattr(integrity, "documents", unreadable)
    with pytest.raises(ConfigurationError, match="delimiter"):
        check()
