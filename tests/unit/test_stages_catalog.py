"""`GET /scan/categories`: everything that a scan can name, as plain JSON."""

import json
from typing import Any

from eco2.stages import scan
from eco2.stages.documents import documents
from eco2.stages.tags import Group, Tag
from eco2.stages.taxonomy import Major, Middle, taxonomy


def categories() -> Any:
    return json.loads(json.dumps(scan.routes["categories"]()))


def test_all_majors_middles_and_items_are_listed_under_each_other() -> None:
    majors = categories()["majors"]
    assert [major["ko"] for major in majors] == [major.value for major in Major]
    middles = [middle for major in majors for middle in major["middles"]]
    assert {middle["ko"] for middle in middles} == {middle.value for middle in Middle}
    assert [len(major["middles"]) for major in majors] == [12, 1, 1, 1, 1, 1, 1, 1]
    listed = {(middle["ko"], item["ko"], item["en"]) for middle in middles for item in middle["items"]}
    assert listed == {(item.middle.value, item.name, item.en) for item in taxonomy().items.values()}


def test_every_class_with_rules_has_items() -> None:
    counts = {
        middle["ko"]: len(middle["items"]) for major in categories()["majors"] for middle in major["middles"]
    }
    assert {middle for middle, count in counts.items() if count} == {middle.value for middle in documents()}


def test_all_tags_are_listed_with_their_groups() -> None:
    tags = categories()["situation_tags"]
    assert [tag["ko"] for tag in tags] == [tag.value for tag in Tag]
    assert {tag["group"] for tag in tags} == {group.value for group in Group}
    assert {tag["ko"] for tag in tags if tag["neutral"]} == {tag.value for tag in Tag if tag.neutral}


def test_everything_has_an_english_name() -> None:
    answer = categories()
    rows = [*answer["majors"], *answer["situation_tags"]]
    rows += [middle for major in answer["majors"] for middle in major["middles"]]
    assert all(row["en"].isascii() and row["en"] for row in rows)
