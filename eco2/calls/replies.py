"""Keys and JSON forms of durable calls: pure functions of a call and of what came back.

A call is found again by what it asks. Its key is (kind, digest of the call, ordinal among equal digests), or
the key that the stage gave it. A key by position alone would hand a branch the reply of another branch, since
calls that run side by side end in any order (decision 36).
"""

import hashlib
import json
from dataclasses import astuple, fields, is_dataclass
from decimal import Decimal
from functools import lru_cache

import msgspec
from pydantic import BaseModel

from eco2.call import (
    Answer,
    Call,
    InvalidAnswer,
    ModelRefused,
    PaidCallFailed,
    Reply,
    ToolCall,
    UnreadableAnswer,
    Usage,
    Vectors,
)
from eco2.job import JSON

_ERRORS: dict[str, type[PaidCallFailed]] = {
    "UNFIT": InvalidAnswer,
    "UNREADABLE": UnreadableAnswer,
    "REFUSED": ModelRefused,
    "NONE": PaidCallFailed,
}
_OPTIONS = ("messages", "tools", "tool_choice", "effort", "seed", "temperature", "texts", "dimensions")


def identify(call: Call[Answer], model: str | None) -> tuple[str, str]:
    """Computes the key of a call, without the ordinal, and the SHA-256 (hex) of what it asks of `model`.

    Both are equal for equal calls of one stage; how the text of a call is shown does not count.
    """
    schema: type = call.schema
    asked: list[object] = [
        call.kind,
        call.model or model,
        call.system,
        call.text,
        call.image,
        _schema(schema),
    ]
    asked.append(call.max_tokens)
    if more := {name: value for name in _OPTIONS if (value := getattr(call, name)) not in (None, (), "auto")}:
        asked.append(more)  # else as in records of calls that had no such options
    text = json.dumps(asked, default=plain)  # ASCII, so half characters are no error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"key/{call.key}" if call.key is not None else f"call/{call.kind}/{digest[:32]}", digest


def plain(value: object) -> object:
    """Returns the JSON of a message, a tool, a tool's parameters or its arguments."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, type):
        return _schema(value)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    raise TypeError(f"a {type(value).__name__} is no part of a call")


@lru_cache(maxsize=64)
def _schema(schema: type) -> object:
    return schema.model_json_schema() if issubclass(schema, BaseModel) else schema.__name__


class _Usage(msgspec.Struct, frozen=True):
    """As `eco2.call.Usage`, field by field."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: Decimal | None = None


class _Error(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    kind: str
    text: str = ""
    problem: str = ""


class _ToolCall(msgspec.Struct, frozen=True):
    """As `eco2.call.ToolCall`, field by field."""

    id: str
    name: str
    arguments: object


class _Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds what a paid call brought, as the journal keeps it."""

    model: str
    usage: _Usage
    value: object = None
    error: _Error | None = None
    tool_calls: tuple[_ToolCall, ...] = ()


def reply_to_json(reply: "Reply[Answer] | PaidCallFailed") -> JSON:
    """The form in which the journal keeps what a paid call brought."""
    value: object = None
    error: _Error | None = None
    called: tuple[_ToolCall, ...] = ()
    if isinstance(reply, Reply):
        value = reply.value
        if isinstance(value, BaseModel | Vectors):
            value = plain(value) if isinstance(value, BaseModel) else value.pack()
        called = tuple(_ToolCall(each.id, each.name, plain(each.arguments)) for each in reply.tool_calls)
    else:
        kind = next(kind for kind, known in _ERRORS.items() if isinstance(reply, known))
        details = (reply.text, reply.problem) if isinstance(reply, InvalidAnswer) else ()
        error = _Error(str(reply), kind, *details)
    kept: JSON = msgspec.to_builtins(_Reply(reply.model, _Usage(*astuple(reply.usage)), value, error, called))
    return kept


def reply_from_json(call: Call[Answer], recorded: object) -> Reply[Answer] | PaidCallFailed | None:
    """The reply that the journal kept; None if it does not fit the call, which must then be made."""
    try:
        kept = msgspec.convert(recorded, _Reply)
        value, usage = kept.value, Usage(*msgspec.structs.astuple(kept.usage))
        if (error := kept.error) is not None:
            if error.kind == "UNFIT":
                return InvalidAnswer(error.message, kept.model, usage, error.text, error.problem)
            return _ERRORS.get(error.kind, PaidCallFailed)(error.message, kept.model, usage)
        if issubclass(call.schema, BaseModel):
            value = call.schema.model_validate(value)
        elif call.schema is Vectors:
            value = Vectors.unpack(msgspec.convert(value, list[str]))
        parameters = {tool.name: tool.parameters for tool in call.tools}
        called = tuple(
            ToolCall(each.id, each.name, parameters[each.name].model_validate(each.arguments))
            for each in kept.tool_calls
        )
    except (KeyError, ValueError):  # `msgspec.ValidationError` and pydantic's are of the latter
        return None
    return Reply(value, kept.model, usage, called) if isinstance(value, call.schema) else None
