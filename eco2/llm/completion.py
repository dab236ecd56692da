"""Reads a chat completion, whole or in the chunks of a stream, in every form that providers give it. Pure.

Plain dictionaries instead of the SDK's models: for each chunk those walk through dozens of types, and reading
a streamed answer would be a quarter of a job's CPU time. Side information that makes no sense is
dropped, so that it never costs an answer that was paid for.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

MAX_COUNTED = 100_000_000
"""Tokens of one call; a larger number is an error of the provider."""
MAX_DIGITS = 19

Ending = Literal["stop", "length", "filter", "tool", "error", "unknown"]

_ENDINGS: Mapping[str, Ending] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "max_completion_tokens": "length",
    "model_length": "length",
    "content_filter": "filter",
    "content_filtered": "filter",
    "refusal": "filter",
    "safety": "filter",
    "image_safety": "filter",
    "blocklist": "filter",
    "prohibited_content": "filter",
    "recitation": "filter",
    "spii": "filter",
    "sensitive": "filter",
    "tool_calls": "tool",
    "tool_call": "tool",
    "tool_use": "tool",
    "function_call": "tool",
    "error": "error",
    "abort": "error",
    "cancelled": "error",
    "timeout": "error",
    "network_error": "error",
    "insufficient_system_resource": "error",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens that the provider charged for; None where it gives no number that makes sense."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or what one chunk adds to it. `tier` decides on the price; `error`: of the provider.

    `arguments`: of the one tool that was called, as it writes them; None for none or several.
    """

    text: str = ""
    refusal: str = ""
    arguments: str | None = None
    ending: Ending | None = None
    model: str | None = None
    tier: str | None = None
    usage: Counted | None = None
    error: object = None


def decoded(body: bytes) -> object:
    """The JSON of a body. Raises `ValueError` for what is none.

    A number of thousands of digits is legal JSON and no integer of Python's: it becomes infinity.
    """
    try:
        return json.loads(body, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def completion_of(data: object) -> Completion | None:
    """`data`: decoded JSON. None for what is no completion."""
    if not isinstance(data, Mapping):
        return None
    choices = data.get("choices")
    choice = _first(choices if isinstance(choices, list) else [choices])
    message = choice.get("message") or choice.get("delta") or choice
    message = message if isinstance(message, Mapping) else {"content": message}
    text, refusal = _words(message)
    error = data.get("error") or choice.get("error")
    known = Completion(
        text=text,
        refusal=refusal,
        arguments=_arguments(message),
        ending=ending_of(choice.get("finish_reason")),
        model=_text(data.get("model")) or None,
        tier=_text(data.get("service_tier")).lower() or None,
        usage=counted(data.get("usage")),
        error=error,
    )
    return known if choice or error or "choices" in data else None


def ending_of(reason: object) -> Ending | None:
    """Why the model stopped, in one of six words; None where the provider does not tell."""
    if reason is None or reason == "":
        return None
    return _ENDINGS.get(str(reason).strip().lower(), "unknown")


def counted(usage: object) -> Counted | None:
    """The numbers of `usage` that make sense."""
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, cached = _count(usage.get("prompt_tokens")), None
    if isinstance(details, Mapping):
        cached = _count(details.get("cached_tokens"))
    if cached is not None and (prompt is None or cached > prompt):
        cached = None
    return Counted(prompt, _count(usage.get("completion_tokens")), cached)


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_COUNTED else None


def _words(message: Mapping[str, object]) -> tuple[str, str]:
    """What the message says, and what it refuses with. Thoughts that come as parts are left out."""
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


def _arguments(message: Mapping[str, object]) -> str | None:
    calls = message.get("tool_calls")
    calls = list(calls) if isinstance(calls, list) else []
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    if len(calls) != 1 or not isinstance(calls[0], Mapping):
        return None
    function = calls[0].get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    return _text(arguments) or None


def _first(values: Iterable[object]) -> Mapping[str, object]:
    return next((value for value in values if isinstance(value, Mapping)), {})


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
