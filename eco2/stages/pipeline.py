"""The scan as a pipeline: vision, rule, answer, reward, and what clients read at the end."""

from collections.abc import Sequence

from eco2.pipeline import JSON, Outputs, Pipeline, Stage
from eco2.sizing import JobSize
from eco2.stages import answer, reward, rule, vision
from eco2.stages.catalog import categories
from eco2.stages.integrity import check
from eco2.stages.language import Language
from eco2.stages.request import ScanInput, check_local, parse

SIZE = JobSize(calls=2, tokens=2000.0, latency=26.0)
"""Tokens as `docs/prompts.md` counts them; `vision` takes 12 s and `answer` 14 s at GPT-5.1 under load."""


def result(outputs: Outputs | None) -> JSON:
    """The result's own part: `pipeline_result` and `reward`, both null for a job that did not complete."""
    if outputs is None:
        return {"pipeline_result": None, "reward": None}
    seen, rules = outputs.get(vision.Seen), outputs.get(rule.Rules)
    text, won = outputs.get(answer.Answer).text, outputs.get(reward.Reward).won
    return {
        "pipeline_result": {
            "classification_result": _classification(seen),
            "disposal_rules": _rules(rules),
            "final_answer": {
                "disposal_steps": _numbered(rules.steps if rules.found else [text], rules.language),
                "insufficiencies": rules.insufficiencies,
                "user_answer": text,
            },
        },
        "reward": won.model_dump() if won else None,
    }


def _classification(seen: vision.Seen) -> JSON:
    return {
        "classification": {
            "major_category": seen.major.value,
            "middle_category": seen.middle.value,
            "minor_category": seen.minor,
        },
        "situation_tags": [tag.value for tag in seen.tags],
        "meta": {"user_input": seen.question, "model": seen.model},
    }


def _rules(rules: rule.Rules) -> JSON | None:
    if not rules.found:
        return None
    return {
        "key": rules.key,
        "category": rules.category,
        "item": rules.item,
        "covers": rules.covers,
        "not_accepted": rules.not_accepted,
    }


def _numbered(steps: Sequence[str], language: Language) -> JSON:
    """An object, not a list: the app shows each member as "name: text", in this order.

    Without a rule the only step is the answer, because the app shows nothing but steps.
    """
    name = "단계" if language == "ko" else "Step "
    return {f"{name}{number}": step for number, step in enumerate(steps, start=1)}


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
