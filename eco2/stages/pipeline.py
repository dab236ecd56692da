"""The scan as a pipeline: vision, rule, answer, reward, the result and the list of categories."""

from collections.abc import Sequence
from functools import cache

from pydantic import BaseModel

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


class Classification(BaseModel):
    """The thing's classes. `minor_category`: never empty, since the app prints it."""

    major_category: Major
    middle_category: Middle
    minor_category: str


class Meta(BaseModel):
    """The question, and the model that saw the photo."""

    user_input: str
    model: str


class ClassificationResult(BaseModel):
    """The output of `vision` for clients."""

    classification: Classification
    situation_tags: list[Tag]
    meta: Meta


class DisposalRules(BaseModel):
    """The rules that apply, in the language of the answer."""

    key: str
    category: str
    item: str | None
    covers: str
    not_accepted: list[str]


class FinalAnswer(BaseModel):
    """The answer. `disposal_steps`: not a list, since the app shows each member as "name: text", in order."""

    disposal_steps: dict[str, str]
    insufficiencies: list[str]
    user_answer: str


class PipelineResult(BaseModel):
    """The result of a scan that completed. `disposal_rules`: None where there are none for the thing."""

    classification_result: ClassificationResult
    disposal_rules: DisposalRules | None
    final_answer: FinalAnswer


class ScanResult(BaseModel):
    """The scan's members of the result: both None if it did not complete; no reward is None, too."""

    pipeline_result: PipelineResult | None
    reward: reward.Won | None


def result(outputs: Outputs | None) -> ScanResult:
    """Builds the result from all outputs."""
    if outputs is None:
        return ScanResult(pipeline_result=None, reward=None)
    seen, rules = outputs.get(vision.Seen), outputs.get(rule.Rules)
    text = outputs.get(answer.Answer).text
    classification = Classification(
        major_category=seen.major, middle_category=seen.middle, minor_category=seen.minor
    )
    meta = Meta(user_input=seen.question, model=seen.model)
    return ScanResult(
        pipeline_result=PipelineResult(
            classification_result=ClassificationResult(
                classification=classification, situation_tags=seen.tags, meta=meta
            ),
            disposal_rules=DisposalRules(
                key=rules.key,
                category=rules.category,
                item=rules.item,
                covers=rules.covers,
                not_accepted=rules.not_accepted,
            )
            if rules.found
            else None,
            final_answer=FinalAnswer(
                disposal_steps=numbered(rules.steps if rules.found else [text], rules.language),
                insufficiencies=rules.insufficiencies,
                user_answer=text,
            ),
        ),
        reward=outputs.get(reward.Reward).won,
    )


def numbered(steps: Sequence[str], language: Language) -> dict[str, str]:
    """Names the steps. Without a rule the only step is the answer: the app shows nothing but steps."""
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
    result_type=ScanResult,
    parse=parse,
    uploads={"image": "image_url"},
    upload_type="image/*",
    codes={400: "IMAGE_URL_REQUIRED", 413: "IMAGE_TOO_LARGE", 415: "UNSUPPORTED_IMAGE"},
    routes={"categories": categories},
    check=check,
    check_local=check_local,
)
