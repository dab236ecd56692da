"""Parses a chat completion (whole, or chunks of a stream) and vectors, in every form of a provider. Pure.

It uses plain dictionaries instead of the SDK's models: these check dozens of types for each chunk, a quarter
of the CPU time of a job. Invalid side information is dropped, so that it never costs a paid answer.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eco2.call import Vectors

MAX_COUNTED = 100_000_000
"""Tokens of one call; a larger number is an error of the provider."""
MAX_DIGITS = 19

Ending = Literal["stop", "length", "filter", "tool", "error", "unknown"]

_REASONS: Mapping[Ending, tuple[str, ...]] = {
    "stop": ("stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete", "completed"),
    "length": ("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length"),
    "filter": (
        "content_filter",
        "content_filtered",
        "refusal",
        "safety",
        "image_safety",
        "blocklist",
        "prohibited_content",
        "recitation",
        "spii",
        "sensitive",
    ),
    "tool": ("tool_calls", "tool_call", "tool_use", "function_call"),
    "error": ("error", "abort", "cancelled", "timeout", "network_error", "insufficient_system_resource"),
}
"""The words of providers for each ending."""
_ENDINGS = {reason: ending for ending, reasons in _REASONS.items() for reason in reasons}


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that the provider charged for; None where it gives no valid number."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """A tool that was called, or a part of it in a chunk. `arguments`: JSON; `index`: its place, if given."""

    index: object = None
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or the part that one chunk adds. `tier`: decides the price; `error`: the provider's."""

    text: str = ""
    refusal: str = ""
    called: tuple[Called, ...] = ()
    ending: Ending | None = None
    model: str | None = None
    tier: str | None = None
    usage: TokenCounts | None = None
    error: object = None


def decode_json(body: bytes) -> object:
    """Decodes the JSON of a body. Raises `ValueError` for anything else.

    A number of thousands of digits is valid JSON, but Python refuses to parse it: it becomes infinity.
    """
    try:
        return json.loads(
            body, parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else math.inf
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_completion(data: object) -> Completion | None:
    """Returns the completion in decoded JSON; None if it is none."""
    if not isinstance(data, Mapping):
        return None
    choices = data.get("choices")
    listed = choices if isinstance(choices, list) else [choices]
    choice: Mapping[str, object] = next((each for each in listed if isinstance(each, Mapping)), {})
    message = choice.get("message") or choice.get("delta") or choice
    message = message if isinstance(message, Mapping) else {"content": message}
    text, refusal = text_and_refusal(message)
    error = data.get("error") or choice.get("error")
    completion = Completion(
        text=text,
        refusal=refusal,
        called=parse_called(message),
        ending=parse_ending(choice.get("finish_reason")),
        model=_text(data.get("model")) or None,
        tier=_text(data.get("service_tier")).lower() or None,
        usage=parse_usage(data.get("usage")),
        error=error,
    )
    return completion if choice or error or "choices" in data else None


def parse_ending(reason: object) -> Ending | None:
    """Returns why the model stopped; None if the provider gives no reason."""
    if reason is None or reason == "":
        return None
    return _ENDINGS.get(str(reason).strip().lower(), "unknown")


def parse_usage(usage: object) -> TokenCounts | None:
    """Returns the valid numbers of `usage`."""
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, cached = token_count(usage.get("prompt_tokens")), None
    if isinstance(details, Mapping):
        cached = token_count(details.get("cached_tokens"))
    if cached is not None and (prompt is None or cached > prompt):
        cached = None
    return TokenCounts(prompt, token_count(usage.get("completion_tokens")), cached)


def token_count(value: object) -> int | None:
    """Returns the number of tokens; None if the value cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_COUNTED else None


def text_and_refusal(message: Mapping[str, object]) -> tuple[str, str]:
    """Returns the message's text and its refusal. Thoughts that come as parts are left out."""
    content = message.get("content") or message.get("text")
    refusals = [_text(message.get("refusal"))]
    if isinstance(content, Mapping) and "type" not in content and "text" not in content:
        return json.dumps(content, ensure_ascii=False), refusals[0]  # the object itself, not its text
    if isinstance(content, str) or content is None:
        return content or "", refusals[0]
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            kind = _text(part.get("type")) or "text"
            if kind in ("text", "output_text"):
                inner = part.get("text")
                texts.append(_text(inner.get("value") if isinstance(inner, Mapping) else inner))
            refusals.append(_text(part.get("refusal")))
    return "".join(texts), "".join(refusals)


def parse_called(message: Mapping[str, object]) -> tuple[Called, ...]:
    """Returns the tools that were called, also in the older form of a single function."""
    listed = message.get("tool_calls")
    calls = list(listed) if isinstance(listed, list) else []
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    found = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            arguments = function.get("arguments")
            if isinstance(arguments, dict):
                arguments = json.dumps(arguments, ensure_ascii=False)
            names = _text(call.get("id")), _text(function.get("name"))
            found.append(Called(call.get("index"), *names, _text(arguments)))
    return tuple(found)


def joined(known: tuple[Called, ...], parts: tuple[Called, ...]) -> tuple[Called, ...]:
    """Adds the parts of a chunk to the calls of those before it.

    A part belongs to the last call with its index, or to the last of all; another id begins another call.
    """
    calls = list(known)
    for part in parts:
        places = [at for at, call in enumerate(calls) if part.index is None or call.index == part.index]
        if not places or (part.id and calls[places[-1]].id != part.id):
            calls.append(part)
        else:
            call = calls[places[-1]]
            arguments = call.arguments + part.arguments
            calls[places[-1]] = Called(call.index, call.id, call.name or part.name, arguments)
    return tuple(calls)


def parse_vectors(data: object, count: int) -> Vectors | None:
    """Returns the `count` vectors of an answer, in the order of the texts; None if they are not there."""
    rows = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or len(rows) != count:
        return None
    try:
        given = [row["embedding"] for row in sorted(rows, key=lambda row: row.get("index", 0))]
        packed = [each if isinstance(each, str) else Vectors([each]).pack()[0] for each in given]
        vectors = Vectors.unpack(packed)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return vectors if all(math.isfinite(number) for vector in vectors for number in vector) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
