"""Estimates the tokens that a call will count at the provider; learns from what calls counted.

Pure and deterministic: equal calls in equal order give equal estimates. Learnt, for each kind of call:

* the prompt: what its characters would weigh at the most, and its picture by OpenAI's formula, each part
  times a ratio (`Regression`). The parts: what is the same in every job (instructions, schema, frame),
  ASCII, all other characters (a Korean syllable weighs as much as three Latin letters), the picture.
  So the first estimate is too high, and those that follow have a margin that fades;
* the completion: the 99th percentile of the last 300.

Not by a mean: what a user wrote (`Call.user_text`), unless it is short and usual, the messages of a
conversation, texts to embed, and characters that hardly occur. They are bounded from above
(`eco2/tokens/upper_bound.py`), since a minute's budget must hold for any text; a call in which they weigh
much, or that has messages, teaches nothing of prompts, so that one user's text changes no other's estimate.

Not learnt: a usage that is missing or impossible, and one that is off by more than a factor of two, unless it
persists: then the provider has changed the model, and the estimate is relearned.
"""

import json
import math
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel

from eco2.call import Answer, Call, Tool, Usage
from eco2.tokens.images import image_tokens, size_of
from eco2.tokens.upper_bound import RARE, is_ordinary, upper_bound

Counting = Literal["request", "input", "usage"]
"""The count that a provider takes against the tokens of a minute: `request`: the greater of prompt and
`max_completion_tokens`, fixed when it is sent; `input`: the prompt; `usage`: prompt and completion."""

MAX_SAMPLES = 300
"""Calls of a kind that its estimates rest upon."""
MIN_SAMPLES = 50
"""Calls after which the completion of a kind is believed to be known; before it is the call's longest."""
COMPLETION_QUANTILE = 0.99
HEAD_ROOM = 1.25
"""`max_completion_tokens` over the learnt completion, so that an unusually long answer is not cut off."""
SAFETY_MARGIN = 0.5
"""Margin of what is learnt of a prompt, over (1 + calls learnt): 25 % after one call, 1 % after 50, 0.2 % in
the end. It covers what little data hides, and keeps the sum of many estimates above that of their calls."""
MIN_SAMPLES_TO_JUDGE = 20
"""Calls after which what is learnt may reject what comes in."""
OUTLIER_FACTOR = 2.0
DRIFT_ERROR = 0.15
"""Error of an estimate that points at another model, if `DRIFT_CALLS` in a row have it on the same side."""
DRIFT_CALLS = 8
MAX_UNUSUAL_SHARE = 0.05
"""Share of a prompt's mean that a user's unusual text may add before the call teaches nothing."""

MEAN_COST_CALLS = 10
"""Estimates over which their mean is taken, as a moving average."""
PRIOR_WEIGHT = 0.004
"""Weight of the guess beside that of a call: its ratios may be wrong by half, and what calls count scatters
by 3 % around the best ratios, so (0.03 / 0.5)²."""

_FRAME = 12
"""Tokens around the texts: roles, and what opens the answer."""
_MESSAGE_FRAME = 8
"""Tokens around each further message, and around each call of a tool: more than any known form has."""
_TOOL_FRAME = 40
"""Tokens around a tool: the names of the members of its form."""
_LETTERS_PER_TOKEN = 3
"""Fewer than in any prose (about four), so that the first estimate is not too low."""
_MIN_COUNTED_SHARE = 1 / 20
"""A count below this share of what the texts weigh cannot be true."""
_MAX_IMAGE = 50_000


Parts = tuple[int, int, int, int]
"""Weights, in tokens: what is the same in every job, ASCII, other characters, the picture."""


class Regression:
    """Ratios of the parts of a guess, by least squares over the last calls; old ones are forgotten.

    A guess is a sum of parts (say: English letters, Korean letters). The count is taken as the sum of the
    same parts, each times its own ratio; all ratios begin at 1. A part that calls never vary, or never have,
    keeps the ratio that it had: nothing drifts while only one language comes in. A call counts by its
    relative error, so that short and long ones teach alike.

    `parts`: how many there are. `memory`: calls that are remembered. `samples`: calls that it rests upon.
    """

    def __init__(self, parts: int, memory: int) -> None:
        self.samples = 0
        self._memory = memory
        self._calls: deque[tuple[tuple[int, ...], int]] = deque()
        self._products = [[0.0] * parts for _ in range(parts)]
        self._moments = [0.0] * parts
        self._ratios = [1.0] * parts

    def predict(self, parts: Sequence[int]) -> float:
        """Computes the tokens that a call with these parts will count."""
        return sum(ratio * part for ratio, part in zip(self._ratios, parts, strict=True))

    def learn(self, parts: tuple[int, ...], counted: int) -> None:
        """Adds a call with these parts, of which one is above 0, that counted so much."""
        self._calls.append((parts, counted))
        self._add(parts, counted, 1)
        if len(self._calls) > self._memory:
            self._add(*self._calls.popleft(), -1)
        self.samples = len(self._calls)
        self._ratios = solve(
            [
                [product + PRIOR_WEIGHT * (row == column) for column, product in enumerate(products)]
                for row, products in enumerate(self._products)
            ],
            [moment + PRIOR_WEIGHT for moment in self._moments],
        )

    def _add(self, parts: tuple[int, ...], counted: int, sign: int) -> None:
        weight = sign / sum(parts) ** 2
        for row, part in enumerate(parts):
            self._moments[row] += weight * part * counted
            for column, other in enumerate(parts):
                self._products[row][column] += weight * part * other


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solves a symmetric system that `PRIOR_WEIGHT` keeps well-posed, so that no pivoting is needed."""
    size = len(right)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] -= factor * matrix[pivot][column]
            right[row] -= factor * right[pivot]
    solution = [0.0] * size
    for row in reversed(range(size)):
        known = sum(matrix[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (right[row] - known) / matrix[row][row]
    return solution


class Quantile:
    """The value that all but a few of the last calls stayed below, exact.

    `share`: of the calls that stay at or below the value. `memory`: calls that are remembered. `min_samples`:
    calls before which there is no `value`.
    """

    def __init__(self, share: float, memory: int, min_samples: int) -> None:
        self.value: int | None = None
        self._share = share
        self._memory = memory
        self._min_samples = min_samples
        self._calls: deque[int] = deque()
        self._sorted: list[int] = []

    def learn(self, value: int) -> None:
        """Adds a call, and takes the nearest rank of those that are remembered."""
        self._calls.append(value)
        insort(self._sorted, value)
        if len(self._calls) > self._memory:
            del self._sorted[bisect_left(self._sorted, self._calls.popleft())]
        if len(self._sorted) >= self._min_samples:
            self.value = self._sorted[math.ceil(self._share * len(self._sorted)) - 1]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens that a call will count.

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
        """Tests whether a call like this can have the usage.

        No text has more tokens than bytes, and at most three bytes stand for each unit of weight.
        """
        weight, image = sum(self.parts[:-1]), self.parts[-1]
        most = _LETTERS_PER_TOKEN * weight + (_MAX_IMAGE if image else 0)
        return _MIN_COUNTED_SHARE * weight <= usage.input_tokens <= most


@dataclass(slots=True)
class _Kind:
    """The statistics of one kind of call. `drifting`: the last calls whose estimates were all too high, or
    all too low (`above`), by more than `DRIFT_ERROR`."""

    prompts: Regression = field(default_factory=lambda: Regression(4, MAX_SAMPLES))
    completions: Quantile = field(
        default_factory=lambda: Quantile(COMPLETION_QUANTILE, MAX_SAMPLES, MIN_SAMPLES)
    )
    drifting: list[tuple[Parts, int]] = field(default_factory=list)
    above: bool = False

    def learn_prompt(self, parts: Parts, counted: int) -> None:
        """Learns from a call, unless it is an outlier; starts again once calls are far off in a row."""
        sure = self.prompts.samples >= MIN_SAMPLES_TO_JUDGE
        off = counted / max(1.0, self.prompts.predict(parts))
        if not sure or 1 / OUTLIER_FACTOR <= off <= OUTLIER_FACTOR:
            self.prompts.learn(parts, counted)
        drifts = sure and abs(off - 1) > DRIFT_ERROR
        if not drifts or (off > 1) != self.above:
            self.drifting.clear()
        self.above = off > 1
        if drifts:
            self.drifting.append((parts, counted))
        if len(self.drifting) == DRIFT_CALLS:
            self.prompts = Regression(len(parts), MAX_SAMPLES)
            for seen in self.drifting:
                self.prompts.learn(*seen)
            self.drifting.clear()


class Estimator:
    """For the calls of one `model` at one provider that counts in this way.

    `mean_cost`: of the last estimates, whatever their kind; 0.0 before the first.
    """

    def __init__(self, model: str, counting: Counting = "request") -> None:
        self._model = model
        self._counting = counting
        self.mean_cost = 0.0
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)

    def estimate(self, call: Call[Answer]) -> Estimate:
        """Estimates what the call will count."""
        name = "/".join([call.kind, *(tool.name for tool in call.tools)])  # other tools have another ratio
        kind = self._kinds[name]
        schema: type = call.schema
        images = [*(url for message in call.messages for url in message.images), call.image]
        image = sum(image_tokens(self._model, size_of(url)) for url in images if url is not None)
        ordinary, unusual = split_unusual(call.text, call.user_text)
        stable = weigh_stable(call.system) + weigh_schema(schema) + _FRAME
        stable += weigh_tools(call.tools) if call.tools else 0
        frames = 0
        if call.messages or call.texts:
            said = [*texts_of(call), unusual]
            unusual = "\n".join(said)  # each line counts for itself, and its end counts, too
            frames = _MESSAGE_FRAME * len(said)
        own, foreign = weigh(ordinary), weigh(unusual)
        foreign = (foreign[0] + frames, foreign[1])
        samples = kind.prompts.samples
        margin = SAFETY_MARGIN / (1 + samples) if samples else 0.0  # the first guess is too high as it is
        mean = kind.prompts.predict((stable, *own, image)) * (1 + margin)
        unusual_mean = kind.prompts.predict((0, *foreign, 0))
        most = max(upper_bound(unusual) + frames, unusual_mean) if unusual else 0.0
        prompt = max(1, math.ceil(mean + most))
        learnt, longest = kind.completions.value, call.max_tokens
        completion = longest if learnt is None else min(learnt, longest)
        if self._counting == "request" and learnt is not None:
            # Lower than the call's own only where that saves something: up to the prompt it is free.
            longest = min(longest, max(prompt, math.ceil(learnt * HEAD_ROOM)))
        cost = {"request": max(prompt, longest), "input": prompt, "usage": prompt + completion}[
            self._counting
        ]
        self.mean_cost += (cost - self.mean_cost) / MEAN_COST_CALLS if self.mean_cost else cost
        return Estimate(
            prompt=prompt,
            completion=completion,
            cost=cost,
            max_completion_tokens=longest,
            kind=name,
            parts=(stable, own[0] + foreign[0], own[1] + foreign[1], image),
            longest=call.max_tokens,
            usual=not frames and most - unusual_mean <= MAX_UNUSUAL_SHARE * mean,
        )

    def learn(self, estimate: Estimate, usage: Usage) -> None:
        """Learns from the usage of a call and the estimate that was made of it."""
        kind = self._kinds[estimate.kind]
        if estimate.usual and estimate.explains(usage):
            kind.learn_prompt(estimate.parts, usage.input_tokens)
        if 0 < usage.output_tokens <= OUTLIER_FACTOR * estimate.longest:
            # An answer that took all that it was given may have been cut off: its full length is unknown.
            cut = usage.output_tokens >= estimate.max_completion_tokens
            kind.completions.learn(estimate.longest if cut else usage.output_tokens)


def texts_of(call: Call[Answer]) -> list[str]:
    """Returns what a call's messages say, with names and arguments of tools, and what it embeds."""
    texts = list(call.texts)
    for message in call.messages:
        texts += [message.text, message.tool_call_id]
        for asked in message.tool_calls:
            texts += [asked.id, asked.name, asked.arguments.model_dump_json(by_alias=True)]
    return texts


def split_unusual(text: str, user_text: str) -> tuple[str, str]:
    """Separates what a mean describes from what needs a bound: a user's unusual text, and rare characters."""
    if user_text and user_text in text and not is_ordinary(user_text):
        text = text.replace(user_text, "", 1)
    else:
        user_text = ""
    rare = "".join(RARE.findall(text))
    return (RARE.sub("", text) if rare else text), user_text + rare


def weigh(text: str) -> tuple[int, int]:
    """Weighs the ASCII characters of a text, and all others: the most that they may count, in whole tokens.

    UTF-8 spends three bytes on a syllable of Korean, so half of what a text has more bytes than characters is
    the number of its syllables; a Latin letter with an accent counts half, an emoji one and a half.
    """
    more = len(text.encode(errors="replace")) - len(text)
    wide = math.ceil(more / 2)
    return math.ceil(max(0, len(text) - wide) / _LETTERS_PER_TOKEN), wide


@lru_cache(maxsize=256)
def weigh_stable(text: str) -> int:
    """Weighs a text that is the same in every job."""
    return sum(weigh(text))


@lru_cache(maxsize=64)
def weigh_tools(tools: tuple[Tool, ...]) -> int:
    """Bounds what tools count: their names, descriptions and schemas, with all around them as JSON."""
    described = [[tool.name, tool.description, tool.parameters.model_json_schema()] for tool in tools]
    texts = [json.dumps(text, ensure_ascii=False) for text in described]
    return sum(upper_bound(text) + _TOOL_FRAME for text in texts)


@lru_cache(maxsize=64)
def weigh_schema(schema: type) -> int:
    """Weighs a schema as its JSON text; the regression learns the form that the provider counts."""
    if not issubclass(schema, BaseModel):
        return 0
    return weigh_stable(json.dumps(schema.model_json_schema(), ensure_ascii=False))
