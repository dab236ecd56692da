"""The classes of waste: majors, middles and items, and the look-up of an item by a free-text name.

Clients know the lists of majors and middles, so these are fixed; the items are data (`data/items.json`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from pydantic import TypeAdapter

from eco2.stages.language import Frozen, Text


class Class(StrEnum):
    """A class of waste. Its value is its Korean name, as clients read it; `english`: in English."""

    english: str

    def __new__(cls, name: str, english: str = "") -> "Class":  # the default: a look-up by value
        named = str.__new__(cls, name)
        named._value_, named.english = name, english
        return named


class Major(Class):
    """A class of waste with a bag, bin or collection of its own."""

    RECYCLABLE = "재활용폐기물", "recyclables"
    GENERAL = "일반종량제폐기물", "general waste"
    FOOD = "음식물류폐기물", "food waste"
    BULKY = "대형폐기물", "bulky waste"
    INCOMBUSTIBLE = "불연성종량제폐기물", "incombustible waste"
    CONSTRUCTION = "공사장생활폐기물", "household construction waste"
    HAZARDOUS = "생활계유해폐기물", "hazardous household waste"
    UNKNOWN = "미분류", "not identified"


class Middle(Class):
    """A sort of recyclables; of every other major the middle equals the major."""

    PAPER = "종이", "paper"
    CARTON = "종이팩", "beverage cartons"
    CLEAR_PET = "무색페트병", "clear PET bottles"
    PLASTIC = "플라스틱류", "plastics"
    FILM = "비닐류", "plastic bags and film"
    FOAM = "발포합성수지", "foam plastic"
    GLASS = "유리병", "glass bottles"
    METAL = "금속류", "metal"
    CLOTHING = "의류및원단", "clothes and fabric"
    BATTERY = "전지", "batteries"
    LIGHTING = "조명제품", "lamps"
    ELECTRONICS = "전기전자제품", "electrical and electronic devices"
    GENERAL = "일반종량제폐기물", "general waste"
    FOOD = "음식물류폐기물", "food waste"
    BULKY = "대형폐기물", "bulky waste"
    INCOMBUSTIBLE = "불연성종량제폐기물", "incombustible waste"
    CONSTRUCTION = "공사장생활폐기물", "household construction waste"
    HAZARDOUS = "생활계유해폐기물", "hazardous household waste"
    UNKNOWN = "미분류", "not identified"


def major_of(middle: Middle) -> Major:
    """Returns the major that `middle` belongs to."""
    try:
        return Major(middle.value)
    except ValueError:
        return Major.RECYCLABLE


class Item(Frozen):
    """A thing that people throw away. `also`: other names that people or models use for it."""

    name: str
    en: str
    middle: Middle
    also: tuple[str, ...] = ()

    @property
    def text(self) -> Text:
        return Text(ko=self.name, en=self.en)


@dataclass(frozen=True)
class Taxonomy:
    """All items, by name. `named`: each name of each item in its plain form, by middle, for `find`."""

    items: Mapping[str, Item]
    named: Mapping[Middle, Sequence[tuple[str, Item]]]

    def find(self, middle: Middle, minor: str | None) -> Item | None:
        """Finds the item of `middle` by a free text: by equal name, else by the longest name within it."""
        wanted = plain(minor or "")
        found = [
            (name == wanted, len(name), item)
            for name, item in self.named[middle]
            if name == wanted or (len(name) > 1 and name in wanted)
        ]
        return max(found, key=lambda match: match[:2])[2] if found else None


def plain(name: str) -> str:
    """Returns the letters and digits of a name, without case."""
    return "".join(char for char in name.casefold() if char.isalnum())


@cache
def taxonomy() -> Taxonomy:
    """Reads the taxonomy once. Raises `ValueError` if the data file is not valid."""
    source = files("eco2.stages").joinpath("data", "items.json").read_text(encoding="utf-8")
    items = TypeAdapter(list[Item]).validate_python(
        [
            {"middle": middle, "name": name, "en": en, "also": also}
            for middle, rows in json.loads(source).items()
            for name, en, *also in rows
        ]
    )
    by_name = {item.name: item for item in items}
    if len(by_name) != len(items):
        raise ValueError("two items in items.json have the same name")
    named: Mapping[Middle, list[tuple[str, Item]]] = {middle: [] for middle in Middle}
    for item in items:
        named[item.middle] += [(plain(name), item) for name in (item.name, item.en, *item.also)]
    return Taxonomy(by_name, named)
