"""Situation tags: the visible states of a thing, as the vision stage reports them.

A neutral tag asks for nothing. Every other one is answered by an action in at least one rule document.
"""

from enum import StrEnum


class Group(StrEnum):
    """A group of tags."""

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
    LIQUID_LEFT = "액체 남음", "liquid left", Group.CONTENTS
    POWDER_LEFT = "가루 남음", "powder left", Group.CONTENTS
    FOOD_LEFT = "음식물 남음", "food left", Group.CONTENTS
    OIL_LEFT = "기름 남음", "oil left", Group.CONTENTS
    CHEMICALS_LEFT = "화학물질 남음", "chemicals left", Group.CONTENTS
    GAS_LEFT = "가스 남음", "gas left", Group.CONTENTS
    GAS_OUT = "가스 비움", "gas let out", Group.CONTENTS, True
    RUBBISH_INSIDE = "쓰레기 들어 있음", "rubbish inside", Group.CONTENTS
    CIGARETTES_INSIDE = "담배꽁초 들어 있음", "cigarette ends inside", Group.CONTENTS
    ICE_PACK_INSIDE = "아이스팩 들어 있음", "ice pack inside", Group.CONTENTS
    PADDING_INSIDE = "완충재 들어 있음", "padding inside", Group.CONTENTS
    WET = "물기 있음", "wet", Group.CONTENTS
    DRY = "마른 상태", "dry", Group.CONTENTS, True

    CLEAN = "깨끗함", "clean", Group.DIRT, True
    RINSED = "헹군 상태", "rinsed", Group.DIRT, True
    SLIGHTLY_DIRTY = "오염 경미", "slightly dirty", Group.DIRT
    DIRTY = "오염 있음", "dirty", Group.DIRT
    VERY_DIRTY = "오염 심함", "very dirty", Group.DIRT
    GREASY = "기름기 있음", "greasy", Group.DIRT
    FOOD_ON_IT = "음식물 묻음", "food on it", Group.DIRT
    STAINED = "양념 물듦", "stained by sauce", Group.DIRT
    MIXED_IN = "이물질 섞임", "foreign matter mixed in", Group.DIRT
    MOULDY = "곰팡이 있음", "mouldy", Group.DIRT
    SOIL_ON_IT = "흙 묻음", "soil on it", Group.DIRT
    DUSTY = "먼지 쌓임", "dusty", Group.DIRT
    SOAPY = "세제 거품 남음", "detergent left", Group.DIRT
    PAINT_ON_IT = "페인트 묻음", "paint on it", Group.DIRT
    EXCREMENT_ON_IT = "배설물 묻음", "excrement on it", Group.DIRT

    LABEL_ON = "라벨 부착", "label on", Group.LABEL_AND_CAP
    LABEL_MUST_GO = "라벨 제거 필요", "label must come off", Group.LABEL_AND_CAP
    LABEL_OFF = "라벨 제거됨", "label removed", Group.LABEL_AND_CAP, True
    GLUE_LEFT = "접착제 자국", "glue left", Group.LABEL_AND_CAP
    STICKER_ON = "스티커 부착", "sticker on", Group.LABEL_AND_CAP
    PRICE_TAG_ON = "가격표 부착", "price tag on", Group.LABEL_AND_CAP
    TAPE_ON = "테이프 부착", "tape on", Group.LABEL_AND_CAP
    ADDRESS_ON = "송장 부착", "shipping label on", Group.LABEL_AND_CAP
    WRAP_ON = "비닐 포장 남음", "film wrap on", Group.LABEL_AND_CAP
    CAP_ON = "뚜껑 닫힘", "cap on", Group.LABEL_AND_CAP
    CAP_MUST_GO = "뚜껑 분리 필요", "cap must come off", Group.LABEL_AND_CAP
    CAP_OFF = "뚜껑 없음", "no cap", Group.LABEL_AND_CAP, True
    CAP_RING_LEFT = "뚜껑 고리 남음", "ring of the cap left", Group.LABEL_AND_CAP, True
    METAL_CAP_ON = "금속 뚜껑 부착", "metal cap on", Group.LABEL_AND_CAP
    FOIL_LID_ON = "은박 뚜껑 남음", "foil lid on", Group.LABEL_AND_CAP
    CORK_IN = "코르크 마개 있음", "cork in", Group.LABEL_AND_CAP
    STRAW_ON = "빨대 부착", "straw attached", Group.LABEL_AND_CAP
    SLEEVE_ON = "컵 홀더 끼움", "cup sleeve on", Group.LABEL_AND_CAP

    PUMP = "펌프 있음", "pump attached", Group.PARTS
    SPRAYER = "분무기 있음", "sprayer attached", Group.PARTS
    SPOUT = "마개 달림", "spout attached", Group.PARTS
    RUBBER_SEAL = "고무 패킹 있음", "rubber seal", Group.PARTS
    GLASS_PART = "유리 부분 있음", "glass part", Group.PARTS
    WOODEN_HANDLE = "나무 손잡이 있음", "wooden handle", Group.PARTS
    STRINGS = "끈 달림", "strings attached", Group.PARTS
    METAL_RING = "금속 고리 있음", "metal rings", Group.PARTS
    STAPLES = "철심 있음", "staples", Group.PARTS
    SPIRAL = "스프링 제본", "spiral binding", Group.PARTS
    PLASTIC_WINDOW = "비닐 창 있음", "plastic window", Group.PARTS
    OTHER_PARTS = "다른 부품 붙음", "parts of other material attached", Group.PARTS
    PARTS_MISSING = "부품 빠짐", "parts missing", Group.PARTS
    BATTERY_INSIDE = "전지 들어 있음", "battery inside", Group.PARTS
    BATTERY_OUT = "전지 분리됨", "battery removed", Group.PARTS, True
    BULB_INSIDE = "전구 끼워짐", "lamp in its fitting", Group.PARTS
    CABLE = "전선 있음", "cable attached", Group.PARTS
    WHEELS = "바퀴 달림", "wheels", Group.PARTS
    UNPAIRED = "한 짝뿐", "only one of a pair", Group.PARTS
    ZIP_OR_BUTTONS = "지퍼·단추 있음", "zip or buttons", Group.PARTS, True

    MIXED_MATERIAL = "복합 재질", "mixed material", Group.MATERIAL
    COATED = "코팅됨", "coated", Group.MATERIAL
    FOIL_PAPER = "금박·은박 종이", "foil paper", Group.MATERIAL
    FOIL_INSIDE = "안쪽 은박", "foil inside", Group.MATERIAL
    COLOURED = "유색", "coloured", Group.MATERIAL
    COLOURLESS = "무색 투명", "colourless and clear", Group.MATERIAL, True
    HEAT_PROOF = "내열유리", "heat-proof glass", Group.MATERIAL
    FILLED = "솜 들어 있음", "filled with padding", Group.MATERIAL
    BIODEGRADABLE = "생분해성 표시", "marked biodegradable", Group.MATERIAL
    PVC = "PVC 표시", "marked PVC", Group.MATERIAL
    RECYCLING_MARK = "분리배출 표시 있음", "recycling mark", Group.MATERIAL, True
    DEPOSIT_MARK = "보증금 표시 있음", "deposit mark", Group.MATERIAL, True

    BROKEN = "파손", "broken", Group.BREAKAGE
    SHATTERED = "깨짐", "shattered", Group.BREAKAGE
    CRACKED = "금 감", "cracked", Group.BREAKAGE
    SCREEN_BROKEN = "화면 깨짐", "broken screen", Group.BREAKAGE
    SWOLLEN = "부풀어 오름", "swollen", Group.BREAKAGE
    LEAKING = "새어 나옴", "leaking", Group.BREAKAGE
    BURNT = "불에 탐", "burnt", Group.BREAKAGE
    TORN = "찢어짐", "torn", Group.BREAKAGE
    CRUMBLED = "부스러짐", "crumbled", Group.BREAKAGE
    SHARP = "날카로움", "sharp", Group.BREAKAGE
    DENTED = "찌그러짐", "dented", Group.BREAKAGE, True
    RUSTY = "녹슮", "rusty", Group.BREAKAGE, True

    NOT_FLATTENED = "펼치지 않음", "not flattened", Group.SIZE
    NOT_SQUASHED = "부피 그대로", "not squashed", Group.SIZE
    FLATTENED = "압착됨", "flattened", Group.SIZE, True
    FOLDED = "딱지로 접힘", "folded tight", Group.SIZE
    SHREDDED = "잘게 찢김", "shredded", Group.SIZE
    TIED_UP = "묶여 있음", "tied up", Group.SIZE, True
    TOO_BIG = "봉투보다 큼", "too big for a bag", Group.SIZE
    LONG = "길이 긺", "long", Group.SIZE
    LARGE_AMOUNT = "양이 많음", "large amount", Group.SIZE
    SEVERAL = "여러 개", "several", Group.SIZE, True
    SORTS_MIXED = "여러 종류 섞임", "several sorts mixed", Group.SIZE
