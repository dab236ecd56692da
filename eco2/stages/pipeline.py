"""The scan as a pipeline: vision, rule, answer, reward, the result and the list of categories."""

from collections.abc import Sequence
from functools import cache

from eco2.pipeline import JSON, Outputs, Pipeline, Stage
from eco2.sizing import JobSize
from eco2.stages import answer, reward, rule, vision
from eco2.stages.integrity import check
from eco2.stages.language import Language
from eco2.stages.request import ScanInput, check_local, parse
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Major, Middle, major_of, taxonomy

SIZE = JobSize(calls=2, tokens=2000.0, latency=26.0)
"""Tokens as `docs/prompts.md` counts them; `vision` takes 12 s and `answer` 14 s at GPT-5.1 under load."""


def result(outputs: Outputs | None) -> JSON:
    """Builds `pipeline_result` and `reward`, both null for a job that did not complete."""
    if outputs is None:
        return {"pipeline_result": None, "reward": None}
    seen, rules = outputs.get(vision.Seen), outputs.get(rule.Rules)
    text, won = outputs.get(answer.Answer).text, outputs.get(reward.Reward).won
    return {
        "pipeline_result": {
            "classification_result": {
                "classification": {
                    "major_category": seen.major.value,
                    "middle_category": seen.middle.value,
                    "minor_category": seen.minor,
                },
                "situation_tags": [tag.value for tag in seen.tags],
                "meta": {"user_input": seen.question, "model": seen.model},
            },
            "disposal_rules": {
                "key": rules.key,
                "category": rules.category,
                "item": rules.item,
                "covers": rules.covers,
                "not_accepted": rules.not_accepted,
            }
            if rules.found
            else None,
            "final_answer": {
                "disposal_steps": numbered(rules.steps if rules.found else [text], rules.language),
                "insufficiencies": rules.insufficiencies,
                "user_answer": text,
            },
        },
        "reward": won.model_dump() if won else None,
    }


def numbered(steps: Sequence[str], language: Language) -> JSON:
    """Builds an object, not a list: the app shows each member as "name: text", in this order.

    Without a rule the only step is the answer, because the app shows nothing but steps.
    """
    name = "단계" if language == "ko" else "Step "
    return {f"{name}{number}": step for number, step in enumerate(steps, start=1)}


@cache
def categories() -> JSON:
    """Lists the classes, items and situation tags that a scan can name, for `GET /scan/categories`.

    `{majors: [{ko, en, middles: [{ko, en, items: [{ko, en}]}]}], situation_tags: [{ko, en, group, neutral}]}`
    """
    items = taxonomy().items.values()
    return {
        "majors": [
            {
                "ko": major.value,
                "en": major.english,
                "middles": [
                    {
                        "ko": middle.value,
                        "en": middle.english,
                        "items": [
                            {"ko": item.name, "en": item.en} for item in items if item.middle is middle
                        ],
                    }
                    for middle in Middle
                    if major_of(middle) is major
                ],
            }
            for major in Major
        ],
        "situation_tags": [
            {"ko": tag.value, "en": tag.english, "group": tag.group.value, "neutral": tag.neutral}
            for tag in Tag
        ],
    }


scan: Pipeline[ScanInput] = Pipeline(
    name="scan",
    input=ScanInput,
    stages=(
        Stage("vision", vision.run, vision.Seen),
        Stage("rule", rule.run, rule.Rules),
        Stage("answer", answer.run, answer.Answer),
        Stage("reward", reward.run, reward.Reward),
    ),
    result=result,
    parse=parse,
    uploads={"image": "image_url"},
    upload_type="image/*",
    codes={400: "IMAGE_URL_REQUIRED", 413: "IMAGE_TOO_LARGE", 415: "UNSUPPORTED_IMAGE"},
    routes={"categories": categories},
    check=check,
    check_local=check_local,
)
