"""Decides each call when it has arrived completely: an error, or its answer, latency and fault. Pure.

One decision is one call of `accept`, without an await inside, so that the windows count calls in the order of
their arrival.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from random import Random

import msgspec

from eco2.fake import latency
from eco2.fake.api_error import ApiError, invalid, no_key, no_model
from eco2.fake.calls import CallLog, LoggedCall
from eco2.fake.config import ANSWER, EMBEDDING, VISION, Charge, FakeConfig
from eco2.fake.content import Content, limited, prose
from eco2.fake.faults import Fault, FaultPlan
from eco2.fake.instance import check_finite, instance
from eco2.fake.request import (
    ChatRequest,
    FunctionSpec,
    JsonSchema,
    NamedTool,
    ToolResult,
    parse,
    parse_embedding,
)
from eco2.fake.strict_schema import Schema, check
from eco2.fake.tokens import Prompt, PromptCache, count, measure
from eco2.fake.windows import RateLimits, WindowUse, rate_headers
from eco2.fake.wire import Answer, EmbeddingAnswer, ReportedUsage

MAX_EMBEDDED, MAX_EMBEDDED_IN_ALL = 8192, 300_000
"""Tokens of one text and of one request (OpenAI's API reference)."""


@dataclass(frozen=True)
class CallPlan:
    """The plan of an accepted call. `due`: seconds after arrival of each piece, or of the whole answer."""

    answer: Answer | EmbeddingAnswer
    stream: bool
    due: tuple[float, ...]
    fault: Fault | None
    headers: Mapping[str, str]

    @property
    def writes(self) -> list[bytes]:
        """Returns what is written to a stream, one write per piece."""
        return self.answer.writes() if isinstance(self.answer, Answer) else []

    @cached_property
    def pieces(self) -> int:
        """Returns how many pieces are sent before the fault; without one, all."""
        return len(self.due) if self.fault is None else self.fault.pieces(len(self.due))


class FakeProvider:
    """The state of the fake: windows, log and faults."""

    def __init__(self, config: FakeConfig, now: float, sink: Callable[[bytes], object] | None = None) -> None:
        self.config = config
        self._sink = sink
        self._named = re.compile(config.job_pattern.encode()) if config.job_pattern else None
        self._latencies = {
            name: latency.from_mean_and_p99(kind.mean, kind.p99) for name, kind in config.kinds.items()
        }
        self.reset(now)

    def reset(self, now: float) -> None:
        """Empties windows and log, and restores the first faults. Running calls are no longer logged."""
        self.log = CallLog(self.config.log_size, self._sink)
        self._limits = RateLimits(self.config)
        self._cache = PromptCache()
        self.set_faults(self.config.faults, now)

    def set_faults(self, faults: tuple[Fault, ...], now: float) -> None:
        """Replaces all faults; their counts begin now."""
        self._faults = FaultPlan(faults, self.config.seed, now)

    def windows(self, now: float) -> dict[str, WindowUse]:
        """Returns the use of the windows of requests and tokens."""
        return self._limits.use(now)

    def accept(
        self, headers: Mapping[str, str], body: bytes, now: float, wall: float, embed: bool = False
    ) -> tuple[LoggedCall, CallPlan]:
        """Decides one call; `embed`: for vectors. Raises an `ApiError`, which has been logged."""
        named = self._named.search(body) if self._named is not None else None
        in_body = named[1].decode(errors="replace") if named else None
        job = in_body or headers.get("x-eco2-job") or blake2b(body, digest_size=8).hexdigest()
        call = self.log.open(now, wall, job, headers.get("x-eco2-run"))
        try:
            if (refusal := no_key(headers.get("authorization"), self.config.api_keys)) is not None:
                raise refusal
            return call, (self._embedding if embed else self._completion)(call, headers, body)
        except ApiError as refusal:
            call.status, call.code = refusal.status, refusal.code
            call.outcome = "rate_limited" if refusal.status == 429 else "refused"
            if refusal.status >= 500:
                call.outcome = "failed"
            self.log.close(call, now)
            raise

    def rate_headers(self, now: float, retry_after: float | None = None) -> dict[str, str]:
        """Returns the headers of every answer."""
        return rate_headers(self.windows(now), retry_after)

    def _embedding(self, call: LoggedCall, headers: Mapping[str, str], body: bytes) -> CallPlan:
        request = parse_embedding(body)
        self._check_model(request.model, embeds=True)
        call.model, call.kind = request.model, headers.get("x-eco2-kind") or EMBEDDING
        tokens = [count(text) for text in request.texts]
        if max(tokens) > MAX_EMBEDDED or sum(tokens) > MAX_EMBEDDED_IN_ALL:
            message = f"Invalid 'input': at most {MAX_EMBEDDED} tokens a text, {MAX_EMBEDDED_IN_ALL} in all."
            raise invalid(message, "input", "invalid_value")
        call.prompt_tokens = call.charged_tokens = sum(tokens)
        fault = self._admit(call)
        size, coded = request.dimensions, request.encoding_format == "base64"
        answer = EmbeddingAnswer(f"{call.n:016x}", request.model, request.texts, size, coded, sum(tokens))
        return self._planned(call, answer, 1, fault)

    def _check_model(self, model: str, embeds: bool) -> None:
        if model not in self.config.models or embeds != ("embedding" in model):
            raise no_model(model)

    def _completion(self, call: LoggedCall, headers: Mapping[str, str], body: bytes) -> CallPlan:
        now, config = call.arrived_at, self.config
        request = parse(body)
        self._check_model(request.model, embeds=False)
        call.model, call.stream = request.model, bool(request.stream)
        call.kind = headers.get("x-eco2-kind") or (VISION if request.has_image else ANSWER)
        tool = self._tool(request, call)
        prompt, content = self._read(request, call, tool)
        call.prompt_tokens, call.completion_tokens = prompt.tokens, content.tokens
        call.charged_tokens = charge(config.charge, prompt.tokens, content.tokens, request.limit)
        fault = self._admit(call)
        call.cached_tokens = self._cache.cached(request.model, prompt, now)
        usage = ReportedUsage(prompt.tokens, content.tokens, call.cached_tokens)
        options = request.stream_options
        include_usage = options is not None and options.include_usage
        answer_id = f"chatcmpl-{latency.seed_of(config.seed, call.job, f'id {call.n}'):016x}"
        name = None if tool is None else tool.name
        answer = Answer(answer_id, int(call.wall), request.model, content, usage, include_usage, name)
        return self._planned(call, answer, len(content.pieces) if call.stream else 1, fault)

    def _planned(
        self, call: LoggedCall, answer: Answer | EmbeddingAnswer, pieces: int, fault: Fault | None
    ) -> CallPlan:
        """Draws the latency of an admitted call."""
        config = self.config
        drawn = self._latencies.get(call.kind, self._latencies[ANSWER])
        call.latency = drawn.at(latency.uniform(config.seed, call.job, call.kind)) * config.scale
        due = latency.due_times(call.latency, config.first_token_fraction, pieces)
        return CallPlan(answer, call.stream, due, fault, self.rate_headers(call.arrived_at))

    def _admit(self, call: LoggedCall) -> Fault | None:
        """Counts the call in the windows, or raises the 429. Returns the fault of its answer, if any."""
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

    def _tool(self, request: ChatRequest, call: LoggedCall) -> FunctionSpec | None:
        """Chooses the tool to call: the wanted one; or any, unless the last message is a tool's result."""
        tools = {tool.function.name: tool.function for tool in request.tools or ()}
        for name, tool in tools.items():
            compile_schema(bytes(tool.parameters), name)
        choice = request.tool_choice
        if isinstance(choice, NamedTool):
            return tools[choice.function.name]
        served = choice != "required" and isinstance(request.messages[-1], ToolResult)
        if not tools or choice == "none" or served:
            return None
        return Random(latency.seed_of(self.config.seed, call.job, "tool")).choice(list(tools.values()))

    def _value(self, raw: bytes, name: str, call: LoggedCall) -> str:
        """Draws a value that fits a schema, as JSON."""
        schema = compile_schema(raw, name)
        draws = Random(latency.seed_of(self.config.seed, call.job, f"answer {name}"))
        fixed = self.config.answers.get(name)
        return msgspec.json.encode(draws.choice(fixed) if fixed else instance(schema, draws)).decode()

    def _read(
        self, request: ChatRequest, call: LoggedCall, tool: FunctionSpec | None
    ) -> tuple[Prompt, Content]:
        """Returns the prompt's tokens and the answer, or the arguments of the tool that it calls."""
        chunks, limit = self.config.chunks, request.limit
        match request.response_format:
            case _ if tool is not None:
                text = self._value(bytes(tool.parameters), tool.name, call)
                return measure(request, ""), limited(text, chunks, limit)
            case JsonSchema(json_schema=spec):
                raw = bytes(spec.schema)
                return measure(request, raw.decode()), limited(
                    self._value(raw, spec.name, call), chunks, limit
                )
            case _:
                wanted = self.config.kind(call.kind).completion_tokens
                whole = request.limit is None or request.limit >= wanted
                content = prose(min(wanted, request.limit or wanted), self.config.chunks)
                return measure(request, ""), content if whole else replace(content, complete=False)


def charge(counting: Charge, prompt: int, completion: int, limit: int | None) -> int:
    """Returns the tokens that a call counts against the limit."""
    match counting:
        case "input":
            return prompt
        case "usage":
            return prompt + completion
        case _:
            return max(prompt, limit or 0)


@lru_cache(maxsize=64)
def compile_schema(raw: bytes, name: str) -> Schema:
    """Decodes and checks a schema, once per distinct text."""
    try:
        schema = msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.ValidationError as error:
        message = f"Invalid schema for response_format '{name}': {error}."
        raise invalid(message, "response_format", "invalid_json_schema") from error
    check(schema, name)
    check_finite(schema, name)
    return schema
