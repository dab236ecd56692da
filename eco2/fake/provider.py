"""Decides every call the moment it has arrived whole: refuse it, or which answer, how long, which fault.

No I/O and no clock of its own. One decision is one call of `accept`, without an await inside, so that the
windows see calls in the order of their arrival times.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from random import Random
from typing import Literal

import msgspec

from eco2.fake import latency
from eco2.fake.calls import Call, CallLog
from eco2.fake.config import ANSWER, VISION, Charge, FakeConfig
from eco2.fake.content import Content, limited, prose
from eco2.fake.faults import Fault, FaultPlan
from eco2.fake.instance import check_finite, instance
from eco2.fake.refusal import Refusal, invalid, no_key, no_model
from eco2.fake.request import ChatRequest, JsonSchema, parse
from eco2.fake.strict_schema import Schema, check
from eco2.fake.tokens import Prompt, PromptCache, measure
from eco2.fake.windows import RateLimits, Use, rate_headers
from eco2.fake.wire import Answer, Usage


@dataclass(frozen=True)
class Plan:
    """How an accepted call will go. `due`: seconds after arrival of each piece, or of the whole answer."""

    answer: Answer
    stream: bool
    due: tuple[float, ...]
    fault: Fault | None
    headers: Mapping[str, str]

    @cached_property
    def pieces(self) -> int:
        """How many pieces go out before the fault, or all."""
        return len(self.due) if self.fault is None else self.fault.pieces(len(self.due))


class Provider:
    """The state of the fake: windows, log, faults in force."""

    def __init__(self, config: FakeConfig, now: float, sink: Callable[[bytes], object] | None = None) -> None:
        self.config = config
        self._sink = sink
        self._named = re.compile(config.job_pattern.encode()) if config.job_pattern else None
        self._latencies = {
            name: latency.from_mean_and_p99(kind.mean, kind.p99) for name, kind in config.kinds.items()
        }
        self.reset(now)

    def reset(self, now: float) -> None:
        """Empty windows, empty log, the faults of the start. Calls under way end unseen."""
        self.log = CallLog(self.config.log_size, self._sink)
        self._limits = RateLimits(self.config)
        self._cache = PromptCache()
        self.set_faults(self.config.faults, now)

    def set_faults(self, faults: tuple[Fault, ...], now: float) -> None:
        """Replaces all faults in force; their counts begin now."""
        self._faults = FaultPlan(faults, self.config.seed, now)

    def windows(self, now: float) -> dict[str, Use]:
        """Use of the windows, by what they count."""
        return self._limits.use(now)

    def accept(self, headers: Mapping[str, str], body: bytes, now: float, wall: float) -> tuple[Call, Plan]:
        """Decides one call. Raises a Refusal, which the log already shows."""
        job = self._job(body) or headers.get("x-eco2-job") or blake2b(body, digest_size=8).hexdigest()
        call = self.log.open(now, wall, job, headers.get("x-eco2-run"))
        try:
            return call, self._plan(call, headers, body)
        except Refusal as refusal:
            call.status, call.code = refusal.status, refusal.code
            call.outcome = _outcome(refusal)
            self.log.close(call, now)
            raise

    def _job(self, body: bytes) -> str | None:
        """What the body itself calls the job, if that is looked for."""
        found = self._named.search(body) if self._named is not None else None
        return found[1].decode(errors="replace") if found else None

    def rate_headers(self, now: float, retry_after: float | None = None) -> dict[str, str]:
        """The headers that every answer carries."""
        return rate_headers(self.windows(now), retry_after)

    def _plan(self, call: Call, headers: Mapping[str, str], body: bytes) -> Plan:
        now, config = call.arrived_at, self.config
        refusal = no_key(headers.get("authorization"), config.api_keys)
        if refusal is not None:
            raise refusal
        request = parse(body)
        if request.model not in config.models:
            raise no_model(request.model)
        call.model, call.stream = request.model, bool(request.stream)
        call.kind = headers.get("x-eco2-kind") or (VISION if request.has_image else ANSWER)
        prompt, content = self._read(request, call)
        call.prompt_tokens, call.completion_tokens = prompt.tokens, content.tokens
        call.charged_tokens = charge(config.charge, prompt.tokens, content.tokens, request.limit)
        fault = self._admit(call)
        call.cached_tokens = self._cache.cached(request.model, prompt, now)
        usage = Usage(prompt.tokens, content.tokens, call.cached_tokens)
        options = request.stream_options
        include_usage = options is not None and options.include_usage
        answer_id = f"chatcmpl-{latency.seed_of(config.seed, call.job, f'id {call.n}'):016x}"
        answer = Answer(answer_id, int(call.wall), request.model, content, usage, include_usage)
        due = self._due(call, len(content.pieces) if call.stream else 1)
        return Plan(answer, call.stream, due, fault, self.rate_headers(now))

    def _admit(self, call: Call) -> Fault | None:
        """Counts the call in the windows, or raises the 429. Returns the fault that lies in its answer."""
        now = call.arrived_at
        refusal = self._limits.refuses(now, call.charged_tokens)
        fault = None if refusal is not None else self._faults.choose(call.kind, call.job, now)
        if fault is not None:
            call.fault, refusal = fault.action, fault.refusal()
        if refusal is not None and refusal.status == 429:
            self._limits.count_rejected(now)
            raise refusal
        self._limits.count(now, call.charged_tokens)
        call.counted = True
        if refusal is not None:
            raise refusal
        return fault

    def _due(self, call: Call, pieces: int) -> tuple[float, ...]:
        drawn = self._latencies.get(call.kind, self._latencies[ANSWER])
        total = drawn.at(latency.uniform(self.config.seed, call.job, call.kind)) * self.config.scale
        call.latency = total
        return latency.due_times(total, self.config.first_token_fraction, pieces)

    def _read(self, request: ChatRequest, call: Call) -> tuple[Prompt, Content]:
        """The weight of the prompt and the answer to it."""
        match request.response_format:
            case JsonSchema(json_schema=spec):
                raw = bytes(spec.schema)
                schema = _compiled(raw, spec.name)
                text = self._structured(schema, spec.name, call.job)
                return measure(request, raw.decode()), limited(text, self.config.chunks, request.limit)
            case _:
                wanted = self.config.kind(call.kind).completion_tokens
                whole = request.limit is None or request.limit >= wanted
                content = prose(min(wanted, request.limit or wanted), self.config.chunks)
                return measure(request, ""), content if whole else replace(content, complete=False)

    def _structured(self, schema: Schema, name: str, job: str) -> str:
        draws = Random(latency.seed_of(self.config.seed, job, f"answer {name}"))
        fixed = self.config.answers.get(name)
        value = draws.choice(fixed) if fixed else instance(schema, draws)
        return msgspec.json.encode(value).decode()


def charge(counting: Charge, prompt: int, completion: int, limit: int | None) -> int:
    """What the tokens window counts for a call."""
    match counting:
        case "input":
            return prompt
        case "usage":
            return prompt + completion
        case _:
            return max(prompt, limit or 0)


@lru_cache(maxsize=64)
def _compiled(raw: bytes, name: str) -> Schema:
    """The schema, read and checked once per distinct text."""
    try:
        schema = msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.ValidationError as error:
        message = f"Invalid schema for response_format '{name}': {error}."
        raise invalid(message, "response_format", "invalid_json_schema") from error
    check(schema, name)
    check_finite(schema, name)
    return schema


def _outcome(refusal: Refusal) -> Literal["rate_limited", "refused", "failed"]:
    if refusal.status == 429:
        return "rate_limited"
    return "refused" if refusal.status < 500 else "failed"
