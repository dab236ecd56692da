"""How many tokens a call will count at the provider: said before it is sent, learnt from what was counted.

Pure and deterministic: equal calls in equal order give equal estimates. What is learnt, per kind of call:

* the prompt: what its characters would weigh at the most, and its picture by OpenAI's formula, each part
  times a ratio (`eco2/tokens/ratios.py`). The parts: what is the same in every job (instructions, schema,
  frame), ASCII, all other characters (a Korean syllable weighs as much as three Latin letters), the picture.
  So the first estimate is too high, and those that follow have a margin that fades;
* the completion: the 99th percentile of the last 300.

Not by a mean: what a user wrote (`Call.user_text`), unless it is short and usual, and characters that hardly
occur. They are bounded from above (`eco2/tokens/worst.py`), since a minute's budget must hold for any text; a
call in which they weigh much teaches nothing, so that one user's text changes no other's estimate.

Not learnt: a usage that is missing or impossible, and one that is off by more than a factor of two, unless it
stays so: then the model behind the name is another one, and its kind is learnt anew.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel

from eco2.call import Answer, Call, Usage
from eco2.tokens.images import image_tokens
from eco2.tokens.pixels import size_of
from eco2.tokens.quantile import Quantile
from eco2.tokens.ratios import Ratios
from eco2.tokens.worst import bound, common, ordinary, rare

Counting = Literal["request", "input", "usage"]
"""What a provider counts against the tokens of a minute: `request`: the greater of prompt and
`max_completion_tokens`, fixed when it is sent; `input`: the prompt; `usage`: prompt and completion."""

MEMORY = 300
"""Calls of a kind that its estimates rest upon."""
ENOUGH = 50
"""Calls after which the completion of a kind is believed to be known; before it is the call's longest."""
SHARE = 0.99
HEAD_ROOM = 1.25
"""`max_completion_tokens` over the learnt completion, so that an unusually long answer is not cut off."""
CAUTION = 0.5
"""Margin of what is learnt of a prompt, over (1 + calls learnt): 25 % after one call, 1 % after 50, 0.2 % in
the end. It covers what little data hides, and keeps the sum of many estimates above that of their calls."""
SURE = 20
"""Calls after which what is learnt may judge what comes in."""
OUTLIER = 2.0
APART = 0.15
"""Error of an estimate that points at another model, if it is seen `IN_A_ROW` times on the same side."""
IN_A_ROW = 8
FOREIGN = 0.05
"""Share of a prompt's mean that a user's unusual text may add before the call teaches nothing."""

_FRAME = 12
"""Tokens around the texts: roles, and what opens the answer."""
_LETTERS_PER_TOKEN = 3
"""Fewer than in any prose (about four), so that the first estimate is not too low."""
_LEAST = 20
"""A provider that counts less than the twentieth part of what the texts weigh, does not tell the truth."""
_LARGEST_IMAGE = 50_000


Parts = tuple[int, int, int, int]
"""Weights, in tokens: what is the same in every job, ASCII, other characters, the picture."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call will count. All in tokens.

    `completion`: all but 1 % stay below. `cost`: what the provider will count against the minute's limit.
    `max_completion_tokens`: what to send; at most the call's own `max_tokens`. The rest is for `learn`;
    `usual`: the prompt may teach.
    """

    prompt: int
    completion: int
    cost: int
    max_completion_tokens: int
    kind: str
    parts: Parts
    longest: int
    usual: bool = True

    def explains(self, usage: Usage) -> bool:
        """False for a usage that is missing, or that no such call can have."""
        return _possible(self, usage.input_tokens)


@dataclass(slots=True)
class _Kind:
    ratios: Ratios = field(default_factory=lambda: Ratios(4, MEMORY))
    completions: Quantile = field(default_factory=lambda: Quantile(SHARE, MEMORY, ENOUGH))
    apart: list[tuple[Parts, int]] = field(default_factory=list)
    """The last calls whose estimates were all too high, or all too low, by more than `APART`."""
    above: bool = False


class Estimator:
    """For the calls of one `model` at one provider that counts in this way."""

    def __init__(self, model: str, counting: Counting = "request") -> None:
        self._model = model
        self._counting = counting
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)

    def estimate(self, call: Call[Answer]) -> Estimate:
        """What the call will count."""
        kind = self._kinds[call.kind]
        schema: type = call.schema
        image = 0 if call.image is None else image_tokens(self._model, size_of(call.image))
        rest, strange = _told_apart(call)
        own, foreign = _weight(rest), _weight(strange)
        stable = _stable(call.system) + _schema(schema) + _FRAME
        mean = kind.ratios.total((stable, *own, image)) * _margin(kind.ratios.learnt)
        foreign_mean = kind.ratios.total((0, *foreign, 0))
        most = max(bound(strange), foreign_mean)
        parts = (stable, own[0] + foreign[0], own[1] + foreign[1], image)
        prompt = max(1, math.ceil(mean + most))
        learnt = kind.completions.value
        completion = call.max_tokens if learnt is None else min(learnt, call.max_tokens)
        longest = self._longest(call.max_tokens, learnt, prompt)
        return Estimate(
            prompt=prompt,
            completion=completion,
            cost=self._cost(prompt, completion, longest),
            max_completion_tokens=longest,
            kind=call.kind,
            parts=parts,
            longest=call.max_tokens,
            usual=most - foreign_mean <= FOREIGN * mean,
        )

    def learn(self, estimate: Estimate, usage: Usage) -> None:
        """The call that this was the estimate of counted `usage`."""
        kind = self._kinds[estimate.kind]
        if estimate.usual and estimate.explains(usage):
            _learn_prompt(kind, estimate, usage.input_tokens)
        if 0 < usage.output_tokens <= OUTLIER * estimate.longest:
            # An answer that took all that it was given may have been cut off: who knows how long it would be.
            cut = usage.output_tokens >= estimate.max_completion_tokens
            kind.completions.learn(estimate.longest if cut else usage.output_tokens)

    def _longest(self, most: int, learnt: int | None, prompt: int) -> int:
        """Lower than the call's own only where that saves something: up to the prompt it is free."""
        if self._counting != "request" or learnt is None:
            return most
        return min(most, max(prompt, math.ceil(learnt * HEAD_ROOM)))

    def _cost(self, prompt: int, completion: int, longest: int) -> int:
        match self._counting:
            case "request":
                return max(prompt, longest)
            case "input":
                return prompt
            case "usage":
                return prompt + completion


def _told_apart(call: Call[Answer]) -> tuple[str, str]:
    """What a mean describes, and what it does not: a user's text that is long or unusual, rare characters."""
    user = call.user_text if call.user_text in call.text else ""
    if not user or ordinary(user):
        user, others = "", call.text
    else:
        others = call.text.replace(user, "", 1)
    few = rare(others)
    return (common(others) if few else others), user + few


def _margin(learnt: int) -> float:
    """The first guess has none: it is too high as it is."""
    return 1 + CAUTION / (1 + learnt) if learnt else 1.0


def _possible(estimate: Estimate, counted: int) -> bool:
    """No text has more tokens than bytes, and at most three bytes stand behind each unit of weight."""
    weight, image = sum(estimate.parts[:-1]), estimate.parts[-1]
    return weight / _LEAST <= counted <= _LETTERS_PER_TOKEN * weight + (_LARGEST_IMAGE if image else 0)


def _learn_prompt(kind: _Kind, estimate: Estimate, counted: int) -> None:
    call = (estimate.parts, counted)
    expected = max(1.0, kind.ratios.total(estimate.parts))
    sure, off = kind.ratios.learnt >= SURE, counted / expected
    if not sure or 1 / OUTLIER <= off <= OUTLIER:
        kind.ratios.learn(*call)
    if not sure or abs(off - 1) <= APART or (off > 1) != kind.above:
        kind.apart.clear()
    kind.above = off > 1
    if sure and abs(off - 1) > APART:
        kind.apart.append(call)
    if len(kind.apart) == IN_A_ROW:
        kind.ratios = Ratios(len(estimate.parts), MEMORY)
        for seen in kind.apart:
            kind.ratios.learn(*seen)
        kind.apart.clear()


def _weight(text: str) -> tuple[int, int]:
    """What the ASCII characters of a text, and all others, would weigh at the most, in whole tokens.

    UTF-8 spends three bytes on a syllable of Korean, so half of what a text has more bytes than characters is
    the number of its syllables; a Latin letter with an accent counts half, an emoji one and a half.
    """
    more = len(text.encode(errors="replace")) - len(text)
    wide = math.ceil(more / 2)
    return math.ceil(max(0, len(text) - wide) / _LETTERS_PER_TOKEN), wide


@lru_cache(maxsize=256)
def _stable(text: str) -> int:
    return sum(_weight(text))


@lru_cache(maxsize=64)
def _schema(schema: type) -> int:
    """A schema counts as its JSON text; of what the provider is really sent the ratio tells."""
    if not issubclass(schema, BaseModel):
        return 0
    return _stable(json.dumps(schema.model_json_schema(), ensure_ascii=False))
