"""The token report is current, its figures are within the limits, and no fact is missing from a prompt."""

from statistics import median

import pytest

from bench.tokens import REPORT, Case, all_items, cases, missing, report, scan
from eco2.fake.tokens import CACHE_MIN_TOKENS
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import taxonomy


def test_the_report_is_current() -> None:
    assert REPORT.read_text(encoding="utf-8") == report(), "type  python -m bench.tokens --write"


@pytest.mark.parametrize("question", ["이 물건은 어떻게 분리배출하나요?", "How do I dispose of this?"])
def test_prompts_and_scans_are_within_their_limits(question: str) -> None:
    scans = all_items(question)
    assert len(scans) == len(taxonomy().items)
    assert median(made.answer.tokens for made in scans) <= 1200
    assert max(made.answer.tokens for made in scans) <= 1200
    assert median(made.total for made in scans) <= 2700
    assert max(made.total for made in scans) <= 2700


def test_the_limits_hold_in_the_worst_state_too() -> None:
    worst = [scan(Case(item, tags=[tag.value for tag in Tag])) for item in taxonomy().items]
    assert max(made.answer.tokens for made in worst) <= 1200


def test_what_is_the_same_in_every_job_comes_first_and_is_worth_a_cache() -> None:
    one, two = scan(Case("우유팩")), scan(Case("소파", question="How big may it be?"))
    assert one.vision.stable_text == two.vision.stable_text
    assert one.vision.stable >= CACHE_MIN_TOKENS
    assert one.answer.stable_text == two.answer.stable_text


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.item)
def test_the_needed_facts_are_in_the_prompt(case: Case) -> None:
    assert case.facts
    assert missing(case, scan(case)) == []


def test_the_cases_are_thirty_of_most_classes_with_and_without_tags() -> None:
    listed = cases()
    assert len({case.item for case in listed}) == 30
    assert len({taxonomy().items[case.item].middle for case in listed}) >= 14
    assert {tag for case in listed for tag in case.tags} <= {tag.value for tag in Tag}


def test_a_fact_that_is_not_there_is_found_missing() -> None:
    case = Case("우유팩", facts={"태운다": "태워 주세요", "헹군다": "헹궈"})
    assert missing(case, scan(case)) == ["태운다"]
