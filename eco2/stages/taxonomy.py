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


class Major(StrEnum):
    """A class of waste with a bag, bin or collection of its own."""

    RECYCLABLE = "재활용폐기물"
    GENERAL = "일반종량제폐기물"
    FOOD = "음식물류폐기물"
    BULKY = "대형폐기물"
    INCOMBUSTIBLE = "불연성종량제폐기물"
    CONSTRUCTION = "공사장생활폐기물"
    HAZARDOUS = "생활계유해폐기물"
    UNKNOWN = "미분류"


class Middle(StrEnum):
    """A sort of recyclables; of every other major the middle equals the major."""

    PAPER = "종이"
    CARTON = "종이팩"
    CLEAR_PET = "무색페트병"
    PLASTIC = "플라스틱류"
    FILM = "비닐류"
    FOAM = "발포합성수지"
    GLASS = "유리병"
    METAL = "금속류"
    CLOTHING = "의류및원단"
    BATTERY = "전지"
    LIGHTING = "조명제품"
    ELECTRONICS = "전기전자제품"
    GENERAL = "일반종량제폐기물"
    FOOD = "음식물류폐기물"
    BULKY = "대형폐기물"
    INCOMBUSTIBLE = "불연성종량제폐기물"
    CONSTRUCTION = "공사장생활폐기물"
    HAZARDOUS = "생활계유해폐기물"
    UNKNOWN = "미분류"


ENGLISH: Mapping[str, str] = {
    Major.RECYCLABLE: "recyclables",
    Middle.PAPER: "paper",
    Middle.CARTON: "beverage cartons",
    Middle.CLEAR_PET: "clear PET bottles",
    Middle.PLASTIC: "plastics",
    Middle.FILM: "plastic bags and film",
    Middle.FOAM: "foam plastic",
    Middle.GLASS: "glass bottles",
    Middle.METAL: "metal",
    Middle.CLOTHING: "clothes and fabric",
    Middle.BATTERY: "batteries",
    Middle.LIGHTING: "lamps",
    Middle.ELECTRONICS: "electrical and electronic devices",
    Middle.GENERAL: "general waste",
    Middle.FOOD: "food waste",
    Middle.BULKY: "bulky waste",
    Middle.INCOMBUSTIBLE: "incombustible waste",
    Middle.CONSTRUCTION: "household construction waste",
    Middle.HAZARDOUS: "hazardous household waste",
    Middle.UNKNOWN: "not identified",
}


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
