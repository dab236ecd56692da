"""Keys and JSON forms of durable calls: pure functions of a call and of what came back.

A call is found again by what it asks. Its key is (kind, digest of the call, ordinal among equal digests), or
the key that the stage gave it. A key by position alone would hand a branch the reply of another branch, since
calls that run side by side end in any order (decision 36).
"""

import hashlib
import json
from dataclasses import astuple
from decimal import Decimal
from functools import lru_cache

import msgspec
from pydantic import BaseModel, ValidationError

from eco2.call import (
    Answer,
    Call,
    InvalidAnswer,
    ModelRefused,
    PaidCallFailed,
    Reply,
    UnreadableAnswer,
    Usage,
)
from eco2.job import JSON

_ERRORS: dict[str, type[PaidCallFailed]] = {
    "UNFIT": InvalidAnswer,
    "UNREADABLE": UnreadableAnswer,
    "REFUSED": ModelRefused,
    "NONE": PaidCallFailed,
}


def identify(call: Call[Answer], model: str | None) -> tuple[str, str]:
    """Computes the key of a call, without the ordinal, and the SHA-256 (hex) of what it asks of `model`.

    Both are equal for equal calls of one stage; how the text of a call is shown does not count.
    """
    schema: type = call.schema
    asked = [call.kind, model, call.system, call.text, call.image, _schema(schema), call.max_tokens]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()  # ASCII, so half characters are no error
    return f"key/{call.key}" if call.key is not None else f"call/{call.kind}/{digest[:32]}", digest


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


class _Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds what a paid call brought, as the journal keeps it."""

    model: str
    usage: _Usage
    value: object = None
    error: _Error | None = None


def reply_to_json(reply: "Reply[Answer] | PaidCallFailed") -> JSON:
    """The form in which the journal keeps what a paid call brought."""
    value, error = None, None
    if isinstance(reply, Reply):
        value = reply.value.model_dump(mode="json") if isinstance(reply.value, BaseModel) else reply.value
    else:
        kind = next(kind for kind, known in _ERRORS.items() if isinstance(reply, known))
        details = (reply.text, reply.problem) if isinstance(reply, InvalidAnswer) else ()
        error = _Error(str(reply), kind, *details)
    kept: JSON = msgspec.to_builtins(_Reply(reply.model, _Usage(*astuple(reply.usage)), value, error))
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
    except (msgspec.ValidationError, ValidationError):
        return None
    return Reply(value, kept.model, usage) if isinstance(value, call.schema) else None
