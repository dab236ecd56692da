"""`GET /scan/categories`: the classes, items and situation tags that a scan can name, in both languages."""

from functools import cache

from eco2.pipeline import JSON
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import ENGLISH, Major, Middle, major_of, taxonomy


@cache
def categories() -> JSON:
    """`{majors: [{ko, en, middles: [{ko, en, items: [{ko, en}]}]}], situation_tags: [{ko, en, group,
    neutral}]}`, in the order of the lists; built once."""
    return {
        "majors": [
            {
                "ko": major.value,
                "en": ENGLISH[major.value],
                "middles": [_middle(middle) for middle in Middle if major_of(middle) is major],
            }
            for major in Major
        ],
        "situation_tags": [
            {"ko": tag.value, "en": tag.english, "group": tag.group.value, "neutral": tag.neutral}
            for tag in Tag
        ],
    }


def _middle(middle: Middle) -> JSON:
    items = [item for item in taxonomy().items.values() if item.middle is middle]
    return {
        "ko": middle.value,
        "en": ENGLISH[middle.value],
        "items": [{"ko": item.name, "en": item.en} for item in items],
    }
