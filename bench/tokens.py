"""Computes how many tokens a scan takes, and checks that the prompt of `answer` holds the facts that a
person needs.

Guarantees: every figure comes from the calls that the stages make, counted as the fake provider counts them
(o200k, the frame of each message, the schema's text, the picture). The facts of `prompt_cases.json` were
written down by hand, from the public rules, and are looked up word by word in the prompts.

    python -m bench.tokens            prints the report
    python -m bench.tokens --write    writes it to docs/prompts.md
"""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import cast

from openai.types.shared_params import ResponseFormatJSONSchema

from eco2.fake.request import ChatRequest, ImagePart, ImageUrl, Message, System, TextPart, User
from eco2.fake.tokens import CACHE_MIN_TOKENS, Prompt, count, measure
from eco2.llm.openai import response_format_of
from eco2.pipeline import Call
from eco2.stages import DEMO_PHOTO, vision
from eco2.stages.answer import SYSTEM, answer_call, compose
from eco2.stages.language import language_of
from eco2.stages.request import DEFAULT_QUESTION, ScanInput
from eco2.stages.rule import Rules, apply_rules
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import major_of, taxonomy
from eco2.stages.vision import Seen, Sight, vision_call

CASES = Path(__file__).with_name("prompt_cases.json")
REPORT = Path(__file__).parent.parent / "docs" / "prompts.md"
MODEL = "gpt-4o"
"""Its pictures take 85 tokens at low detail, the most of the models that the scan is meant for."""
PREDECESSOR_VISION, PREDECESSOR_ANSWER = 1500, 3900
TPM, RPM = 500_000, 500
"""Tier 1 of the predecessor's account."""


@dataclass(frozen=True)
class Case:
    """One scan. `facts`: the facts that the prompt must state, and their words."""

    item: str
    tags: list[str] = field(default_factory=list)
    question: str = DEFAULT_QUESTION
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """The tokens that one scan sends and gets. Completions are estimated: the JSON that names the case,
    and the answer that is composed from the same rules without a language model."""

    vision: Prompt
    vision_completion: int
    answer: Prompt
    answer_completion: int
    facts_text: str

    @property
    def total(self) -> int:
        return self.vision.tokens + self.vision_completion + self.answer.tokens + self.answer_completion


def cases() -> list[Case]:
    """Returns the thirty cases."""
    return [Case(**row) for row in json.loads(CASES.read_text(encoding="utf-8"))]


def scan(case: Case) -> Scan:
    """Returns the tokens of a scan whose photo shows the item with these tags."""
    seen, rules, vision_asked, answer_asked = _asked(case)
    sight = Sight(middle_category=seen.middle, minor_category=seen.name, situation_tags=seen.tags)
    return Scan(
        vision=prompt(vision_asked),
        vision_completion=count(sight.model_dump_json()),
        answer=prompt(answer_asked),
        answer_completion=count(compose(rules, seen)),
        facts_text=answer_asked.text.rpartition("\n")[0],
    )


def calls(case: Case) -> tuple[Call[Sight], Call[str]]:
    """Returns the calls of that scan: `vision` and `answer`."""
    return _asked(case)[2:]


def _asked(case: Case) -> tuple[Seen, Rules, Call[Sight], Call[str]]:
    item, tags = taxonomy().items[case.item], [tag for tag in Tag if tag.value in case.tags]
    seen = Seen(
        major=major_of(item.middle),
        middle=item.middle,
        minor=item.name,
        tags=tags,
        model=MODEL,
        question=case.question,
    )
    rules = apply_rules(item.middle, item.name, tags, language_of(case.question))
    request = ScanInput(image_url=_photo(), user_input=case.question)
    return seen, rules, vision_call(request), answer_call(request, seen, rules)


def prompt(call: Call[str] | Call[Sight]) -> Prompt:
    """Returns the tokens of the call's prompt."""
    parts: list[TextPart | ImagePart] = [TextPart(text=call.text)]
    if call.image is not None:
        parts.append(ImagePart(image_url=ImageUrl(url=call.image, detail="low")))
    messages: list[Message] = [System(content=call.system), User(content=parts)]
    return measure(ChatRequest(model=MODEL, messages=messages), "" if call.schema is str else schema())


@cache
def schema() -> str:
    """Returns the schema of `vision` as it is sent."""
    sent = cast(ResponseFormatJSONSchema, response_format_of(Sight))["json_schema"]["schema"]
    return json.dumps(sent, ensure_ascii=False, separators=(",", ":"))


@cache
def _photo() -> str:
    return "data:image/jpeg;base64," + base64.b64encode(DEMO_PHOTO.read_bytes()).decode()


def missing(case: Case, made: Scan) -> list[str]:
    """Returns the facts that the prompt does not state."""
    return [fact for fact, words in case.facts.items() if words not in made.facts_text]


def all_items(question: str = DEFAULT_QUESTION) -> list[Scan]:
    """Returns one scan of every item, in a state that needs no step."""
    return [scan(Case(item.name, question=question)) for item in taxonomy().items.values()]


def report() -> str:
    """Returns the whole of docs/prompts.md."""
    rows = [(case, scan(case)) for case in cases()]
    return "\n".join([_head(), _figures(), _table(rows), _example(rows[2][0], rows[2][1]), _prompts()])


def _head() -> str:
    return """# Prompts and tokens

Written by `python -m bench.tokens --write`; `tests/unit/stages/test_prompts.py` fails when it is out of date.
Tokens are those of o200k, counted on the calls that `eco2/stages/` makes, with the frame of each message, the
schema and a picture at low detail (85). Completions are estimates: the JSON that names the thing, and an
answer of three sentences.
"""


def _figures() -> str:
    korean, english = all_items(), all_items("How do I dispose of this?")
    whole = median(made.total for made in korean)
    stable = korean[0].vision.stable
    return f"""## All {len(korean)} items

| | median | most | limit | predecessor |
|---|---|---|---|---|
| prompt of `answer`, Korean | {_row([made.answer.tokens for made in korean])} | 1200 | ≈ {
        PREDECESSOR_ANSWER
    } |
| prompt of `answer`, English | {_row([made.answer.tokens for made in english])} | 1200 | |
| prompt of `vision` | {_row([made.vision.tokens for made in korean])} | | ≈ {PREDECESSOR_VISION} |
| whole scan, both completions | {_row([made.total for made in korean])} | 2700 | ≈ {
        PREDECESSOR_VISION + PREDECESSOR_ANSWER
    } |

At {TPM:,} tokens and {RPM} requests a minute (two per scan) tokens allow {int(TPM / whole)} scans a minute,
and requests {RPM // 2}.

Of the prompt of `vision` {stable} tokens are the same in every job and come first (schema, then rules), so
providers that cache prompts from {CACHE_MIN_TOKENS} tokens on can cache them.
"""


def _row(tokens: Sequence[int]) -> str:
    return f"{median(tokens):.0f} | {max(tokens)}"


def _table(rows: Sequence[tuple[Case, Scan]]) -> str:
    lines = [
        f"| {case.item} | {', '.join(case.tags) or '–'} | {case.question} "
        f"| {made.answer.tokens} | {made.total} "
        f"| {', '.join(case.facts)} | {', '.join(missing(case, made)) or 'none'} |"
        for case, made in rows
    ]
    return f"""## {len(rows)} cases

Facts that a right answer needs, listed by hand in `bench/prompt_cases.json`, and looked up in the prompt.

| Item | seen | Question | `answer` | scan | Facts needed | missing |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""


def _example(case: Case, made: Scan) -> str:
    rules = json.loads(made.facts_text.removeprefix("Rules: "))
    shown = json.dumps(rules, ensure_ascii=False, indent=1)
    return f"""## One prompt of `answer`: {case.item}, {", ".join(case.tags)}

```text
Rules: {shown}
Question: {json.dumps(case.question, ensure_ascii=False)}
```
"""


def _prompts() -> str:
    return f"""## What is the same in every job

`vision`:

```text
{vision.SYSTEM}
```

`answer`:

```text
{SYSTEM}
```
"""


def main() -> int:
    """Writes or prints the report. Exit code 0 if no fact is missing."""
    text = report()
    if "--write" in sys.argv[1:]:
        REPORT.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 1 if any(missing(case, scan(case)) for case in cases()) else 0


if __name__ == "__main__":
    sys.exit(main())
