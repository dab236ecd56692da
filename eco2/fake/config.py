"""Declares the fake provider's settings as plain values; comments give the units."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from eco2.errors import ConfigurationError
from eco2.fake.faults import Fault

Charge = Literal["request", "input", "usage"]
"""How a call counts against the token limit, decided when the call arrives.

* `request`: the greater of the prompt's tokens and `max_completion_tokens`.
* `input`: the prompt's tokens.
* `usage`: prompt + completion tokens; the fake knows its answer's length at arrival and charges it then.
"""


@dataclass(frozen=True, slots=True)
class CallKind:
    """Latency and length of one kind of call: seconds from arrival to the last byte, and tokens."""

    mean: float  # seconds
    p99: float  # seconds; from mean to 14.9 × mean
    completion_tokens: int  # of a text answer; a structured answer is as long as it is


VISION = "vision"
ANSWER = "answer"
EMBEDDING = "embedding"
KINDS = {
    VISION: CallKind(mean=12.25, p99=37.91, completion_tokens=80),
    ANSWER: CallKind(mean=14.13, p99=46.63, completion_tokens=160),
    EMBEDDING: CallKind(mean=0.3, p99=1.5, completion_tokens=0),
}
"""Seconds: the stage times of the Celery baseline's load test (100 users, GPT-5.1); of embeddings a guess."""

MODELS = (
    "gpt-5.1",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4o",
    "gpt-4o-mini",
    "text-embedding-3-small",
)


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """All settings of the fake. The default limits are OpenAI's Tier 1."""

    models: tuple[str, ...] = MODELS  # names that exist; any other is 404 model_not_found
    api_keys: tuple[str, ...] = ()  # keys that are accepted; empty: any key, but not none
    rpm: int | None = 500  # requests per window; None: no limit
    tpm: int | None = 500_000  # tokens per window; None: no limit
    charge: Charge = "request"
    count_rejected: bool = False  # does a call refused for its rate count as a request of the window?
    window_seconds: float = 60.0  # length of the sliding window; anything but 60 is for quick tests
    kinds: Mapping[str, CallKind] = field(default_factory=lambda: dict(KINDS))  # must hold `answer`
    first_token_fraction: float = 0.25  # of a streamed call's latency, until its first piece (0..1)
    scale: float = 1.0  # factor on every latency; 0: no delay at all
    chunks: int = 40  # pieces of content in a streamed answer (fewer if it has fewer tokens)
    answers: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    # ^ fixed JSON answers by the `name` of the json_schema; one is chosen by job; else one is made up
    seed: int = 0  # same seed, job and kind: same latency and same answer
    job_pattern: str | None = None  # expression whose group 1 names the job, where the request's body has it
    faults: tuple[Fault, ...] = ()  # in force from the start and again after a reset
    log_size: int = 200_000  # calls kept in memory; the oldest are dropped and counted
    log_path: str | None = None  # JSON lines file to which every ended call is appended

    def __post_init__(self) -> None:
        if ANSWER not in self.kinds:
            raise ConfigurationError(
                f"the fake provider's kinds have no {ANSWER!r}: add it, other kinds fall back to it"
            )
        if not 0 <= self.first_token_fraction <= 1:
            raise ConfigurationError(
                f"first_token_fraction is {self.first_token_fraction}: give a number from 0 to 1"
            )
        if self.scale < 0 or self.chunks < 1 or self.window_seconds <= 0 or self.log_size < 1:
            raise ConfigurationError("scale must be ≥ 0; chunks, log_size ≥ 1; window_seconds > 0")
        if self.job_pattern is not None and not has_group(self.job_pattern):
            raise ConfigurationError(
                f"job_pattern {self.job_pattern!r}: give a regular expression with one group"
            )
        if any(limit is not None and limit < 1 for limit in (self.rpm, self.tpm)):
            raise ConfigurationError("rpm and tpm must be ≥ 1, or None for no limit")

    def kind(self, name: str) -> CallKind:
        """Returns the settings of this kind of call; an unknown kind behaves like `answer`."""
        return self.kinds.get(name, self.kinds[ANSWER])


def has_group(pattern: str) -> bool:
    """Returns whether the text is a regular expression with one group."""
    try:
        return re.compile(pattern.encode()).groups == 1
    except re.error:
        return False
