"""The rule documents: how each class of waste is prepared and put out, as data in `data/rules/*.json`.

One document per middle of the recyclables and one per other major, except 미분류: 18. The texts are our own
words for public facts about separate disposal in Korea.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import ValidationInfo, field_validator

from eco2.stages.language import Frozen, Text
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Middle, taxonomy


class Step(Text):
    """One thing to do. `tags`: what in a photo shows that it has not been done.

    `always`: it belongs to every disposal; otherwise it is mentioned only when one of `tags` was seen.
    """

    tags: tuple[Tag, ...] = ()
    always: bool = True


class ItemRule(Frozen):
    """What differs for one item. `common`: whether the document's general steps apply as well;
    `put_out`: replaces the document's last step."""

    steps: tuple[Text, ...] = ()
    common: bool = True
    put_out: Text | None = None


class Document(Frozen):
    """The rules of one class. `key`: the file's name; `covers`: what the class is about."""

    key: str
    middle: Middle
    covers: Text
    prepare: tuple[Step, ...]
    by_item: Mapping[str, ItemRule]
    put_out: Text
    not_accepted: tuple[Text, ...]

    @field_validator("by_item")
    @classmethod
    def _items_exist(cls, by_item: Mapping[str, ItemRule], info: ValidationInfo) -> Mapping[str, ItemRule]:
        known = {item.name for item in taxonomy().items.values() if item.middle is info.data["middle"]}
        if strangers := set(by_item) - known:
            raise ValueError(f"not in items.json under {info.data['middle']}: {', '.join(sorted(strangers))}")
        return by_item

    @field_validator("prepare")
    @classmethod
    def _tags_ask(cls, prepare: tuple[Step, ...]) -> tuple[Step, ...]:
        if idle := [tag for step in prepare for tag in step.tags if tag.neutral]:
            raise ValueError(f"neutral tags ask for nothing: {', '.join(idle)}")
        return prepare


@cache
def documents() -> Mapping[Middle, Document]:
    """All documents by their middle, read and validated once (about 10 ms).

    Raises `ValueError` for a document that is not valid, or a class that has none or two.
    """
    folder = files("eco2.stages").joinpath("data", "rules")
    read = [
        Document.model_validate_json(_with_key(file.name, file.read_text(encoding="utf-8")))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
    ]
    by_middle = {document.middle: document for document in read}
    if len(by_middle) != len(read) or set(by_middle) != set(Middle) - {Middle.UNKNOWN}:
        raise ValueError("data/rules needs exactly one document for each class but 미분류")
    return by_middle


def _with_key(name: str, body: str) -> str:
    """The key is the file's name, so that the two cannot disagree."""
    return body.replace("{", f'{{"key": "{name.removesuffix(".json")}", ', 1)
