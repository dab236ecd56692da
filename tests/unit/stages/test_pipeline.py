"""`GET /scan/categories`: everything that a scan can name, as plain JSON."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eco2.pipeline import Outputs
from eco2.stages import scan
from eco2.stages.answer import Answer
from eco2.stages.documents import documents
from eco2.stages.reward import Reward, Won
from eco2.stages.rule import Rules
from eco2.stages.tags import Group, Tag
from eco2.stages.taxonomy import Major, Middle, major_of, taxonomy
from eco2.stages.vision import Seen

DOCUMENT = Path(__file__).parents[3] / "docs" / "domain.md"


SEEN = Seen(
    major=Major.RECYCLABLE,
    middle=Middle("무색페트병"),
    minor="생수병",
    tags=list(Tag)[:2],
    model="gpt-5.1",
    question='"이거"?',
)
RULES = Rules(
    found=True,
    language="ko",
    key="clear-pet",
    category="무색페트병",
    covers="생수병, 음료수병",
    item="생수병",
    steps=["비우기", "헹구기"],
    insufficiencies=["라벨 제거"],
    not_accepted=["유색 페트"],
)
WON = Won(name="페티", dialog="d", match_reason="무색페트병>생수병", type="무색페트병")
CLASSES = (
    '{"classification":{"major_category":"재활용폐기물","middle_category":"무색페트병","minor_category":"생수병"},'
    '"situation_tags":["내용물 없음","내용물 있음"],"meta":{"user_input":"\\"이거\\"?","model":"gpt-5.1"}}'
)
COMPLETED = (
    f'{{"pipeline_result":{{"classification_result":{CLASSES},"disposal_rules":{{"key":"clear-pet",'
    '"category":"무색페트병","item":"생수병","covers":"생수병, 음료수병","not_accepted":["유색 페트"]},'
    '"final_answer":{"disposal_steps":{"단계1":"비우기","단계2":"헹구기"},"insufficiencies":["라벨 제거"],'
    '"user_answer":"답"}},"reward":{"name":"페티","dialog":"d","match_reason":"무색페트병>생수병","type":"무색페트병"}}'
)
UNKNOWN = (
    f'{{"pipeline_result":{{"classification_result":{CLASSES},"disposal_rules":null,"final_answer":'
    '{"disposal_steps":{"Step 1":"No idea"},"insufficiencies":[],"user_answer":"No idea"}},"reward":null}'
)


@pytest.mark.parametrize(
    ("outputs", "written"),
    [
        (Outputs((SEEN, RULES, Answer(text="답"), Reward(won=WON))), COMPLETED),
        (
            Outputs((SEEN, Rules(found=False, language="en"), Answer(text="No idea"), Reward(won=None))),
            UNKNOWN,
        ),
        (None, '{"pipeline_result":null,"reward":null}'),
    ],
    ids=["completed", "without rules", "failed"],
)
def test_the_result_is_byte_for_byte_what_clients_of_0_1_got(outputs: Outputs | None, written: str) -> None:
    assert msgspec.json.encode(scan.result_json(outputs)).decode() == written


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


def test_the_documented_figures_and_the_example_are_right() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    recyclable = [item for item in taxonomy().items.values() if major_of(item.middle) is Major.RECYCLABLE]
    items = len(taxonomy().items)
    assert f"| {items} ({len(recyclable)} recyclables, {items - len(recyclable)} others)" in text
    assert f"| {len(Tag)} in {len(Group)} groups |" in text
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])
    answer = categories()
    assert set(example) == set(answer)
    assert all(tag in answer["situation_tags"] for tag in example["situation_tags"])
    (shown,) = example["majors"][0]["middles"]
    (whole,) = [middle for middle in answer["majors"][0]["middles"] if middle["ko"] == shown["ko"]]
    assert shown["en"] == whole["en"]
    assert shown["items"][0] in whole["items"]
