"""Situation tags: what can be seen of the state of a thing, as the vision stage reports it.

A neutral tag asks for nothing. Every other one is answered by an action in at least one rule document.
"""

from enum import StrEnum


class Group(StrEnum):
    """What a tag is about."""

    CONTENTS = "contents"
    DIRT = "dirt"
    LABEL_AND_CAP = "label and cap"
    PARTS = "parts"
    MATERIAL = "material"
    BREAKAGE = "breakage"
    SIZE = "size"


class Tag(StrEnum):
    """A tag's value is its Korean name, as clients read it."""

    english: str
    group: Group
    neutral: bool

    def __new__(cls, name: str, english: str, group: Group, neutral: bool = False) -> "Tag":
        tag = str.__new__(cls, name)
        tag._value_ = name
        tag.english, tag.group, tag.neutral = english, group, neutral
        return tag

    EMPTY = "내용물 없음", "empty", Group.CONTENTS, True
    FULL = "내용물 있음", "contents inside", Group.CONTENTS
    LEFTOVERS = "내용물 남음", "some contents left", Group.CONTENTS
    WET = "물기 있음", "wet", Group.CONTENTS
    GAS_LEFT = "가스 남음", "gas left", Group.CONTENTS

    CLEAN = "깨끗함", "clean", Group.DIRT, True
    SLIGHTLY_DIRTY = "오염 경미", "slightly dirty", Group.DIRT
    DIRTY = "오염 있음", "dirty", Group.DIRT
    VERY_DIRTY = "오염 심함", "very dirty", Group.DIRT
    GREASY = "기름기 있음", "greasy", Group.DIRT
    FOOD_ON_IT = "음식물 묻음", "food on it", Group.DIRT
    MIXED_IN = "이물질 섞임", "foreign matter mixed in", Group.DIRT
    MOULDY = "곰팡이 있음", "mouldy", Group.DIRT

    LABEL_ON = "라벨 부착", "label on", Group.LABEL_AND_CAP
    LABEL_MUST_GO = "라벨 제거 필요", "label must come off", Group.LABEL_AND_CAP
    LABEL_OFF = "라벨 제거됨", "label removed", Group.LABEL_AND_CAP, True
    CAP_ON = "뚜껑 닫힘", "cap on", Group.LABEL_AND_CAP
    CAP_MUST_GO = "뚜껑 분리 필요", "cap must come off", Group.LABEL_AND_CAP
    CAP_OFF = "뚜껑 없음", "no cap", Group.LABEL_AND_CAP, True
    STRAW_ON = "빨대 부착", "straw attached", Group.LABEL_AND_CAP
    TAPE_ON = "테이프 부착", "tape on", Group.LABEL_AND_CAP
    ADDRESS_ON = "송장 부착", "shipping label on", Group.LABEL_AND_CAP

    PUMP = "펌프 있음", "pump attached", Group.PARTS
    OTHER_PARTS = "다른 부품 붙음", "parts of other material attached", Group.PARTS
    STAPLES = "철심 있음", "staples or spiral binding", Group.PARTS
    BATTERY_INSIDE = "전지 들어 있음", "battery inside", Group.PARTS
    BATTERY_OUT = "전지 분리됨", "battery removed", Group.PARTS, True
    CABLE = "전선 있음", "cable attached", Group.PARTS
    PADDING_INSIDE = "완충재 들어 있음", "padding inside", Group.PARTS
    ZIP_OR_BUTTONS = "지퍼·단추 있음", "zip or buttons", Group.PARTS, True

    MIXED_MATERIAL = "복합 재질", "mixed material", Group.MATERIAL
    COATED = "코팅됨", "coated", Group.MATERIAL
    COLOURED = "유색", "coloured", Group.MATERIAL
    COLOURLESS = "무색 투명", "colourless and clear", Group.MATERIAL, True
    FOIL_INSIDE = "안쪽 은박", "foil inside", Group.MATERIAL

    BROKEN = "파손", "broken", Group.BREAKAGE
    SHATTERED = "깨짐", "shattered", Group.BREAKAGE
    SWOLLEN = "부풀어 오름", "swollen", Group.BREAKAGE
    TORN = "찢어짐", "torn", Group.BREAKAGE
    SHARP = "날카로움", "sharp", Group.BREAKAGE
    RUSTY = "녹슮", "rusty", Group.BREAKAGE, True

    NOT_FLATTENED = "펼치지 않음", "not flattened", Group.SIZE
    FLATTENED = "압착됨", "flattened", Group.SIZE, True
    TOO_BIG = "봉투보다 큼", "too big for a bag", Group.SIZE
    SEVERAL = "여러 개", "several", Group.SIZE, True
