"""The rule documents: the preparation and disposal of each class of waste, from `data/rules/*.json`.

One document per middle of the recyclables and one per other major, except 미분류: 18. The texts are our own
words for public facts about separate disposal in Korea.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from eco2.stages.language import Frozen, Text
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Middle, taxonomy

When = Literal["always", "seen", "elsewhere"]


class Step(Text):
    """One thing to do. `tags`: states in a photo that show that it has not been done.

    `when`: "always" belongs to every disposal; "seen" is mentioned only if one of `tags` was seen;
    "elsewhere" too, and then the thing does not belong here at all: the step replaces the last one, and
    every step that no tag asked for.
    """

    tags: tuple[Tag, ...] = ()
    when: When = "always"

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> "Step":
        if idle := [tag for tag in self.tags if tag.neutral]:
            raise ValueError(f"neutral tags ask for nothing: {', '.join(idle)}")
        if self.when != "always" and not self.tags:
            raise ValueError(f"no tag can ask for the step {self.ko!r}")
        return self


class ItemRule(Frozen):
    """The differences for one item. `common`: whether the document's general steps apply as well.

    `allows`: tags that ask for nothing of this item; `put_out`: replaces the document's last step.
    """

    steps: tuple[Step, ...] = ()
    common: bool = True
    allows: tuple[Tag, ...] = ()
    put_out: Text | None = None

    @model_validator(mode="after")
    def _allowed_is_not_asked_for(self) -> "ItemRule":
        if both := set(self.allows) & {tag for step in self.steps for tag in step.tags}:
            raise ValueError(f"allowed, and yet a step is asked for: {', '.join(both)}")
        return self


class Document(Frozen):
    """The rules of one class. `key`: the file's name; `covers`: a description of the class."""

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

    def steps(self) -> Iterator[Step]:
        """Yields every step that tags can ask for, those of single items included."""
        yield from self.prepare
        for rule in self.by_item.values():
            yield from rule.steps

    def texts(self) -> Iterator[Text]:
        """Yields all texts of the document."""
        yield from (self.covers, self.put_out, *self.not_accepted, *self.steps())
        yield from (rule.put_out for rule in self.by_item.values() if rule.put_out)


@cache
def documents() -> Mapping[Middle, Document]:
    """Reads and validates all documents once (about 20 ms); returns them by their middle.

    Raises `ValueError` for a document that is not valid, or a class that has none or two.
    """
    folder = files("eco2.stages").joinpath("data", "rules")
    read = [
        Document.model_validate(
            {**json.loads(file.read_text(encoding="utf-8")), "key": file.name.removesuffix(".json")}
        )
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
    ]
    by_middle = {document.middle: document for document in read}
    if len(by_middle) != len(read) or set(by_middle) != set(Middle) - {Middle.UNKNOWN}:
        raise ValueError("data/rules needs exactly one document for each class but 미분류")
    return by_middle
