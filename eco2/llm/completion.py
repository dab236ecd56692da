"""What is read of a chat completion, whole or in the chunks of a stream.

Structs of our own instead of the SDK's models: for each chunk those walk through dozens of types, and reading
a streamed answer would be a quarter of all that a scan costs. Every field may be missing.
"""

import msgspec


class Words(msgspec.Struct, frozen=True):
    """A message, or the next piece of one."""

    content: str | None = None
    refusal: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """`message` in a whole answer, `delta` in a chunk."""

    finish_reason: str | None = None
    message: Words | None = None
    delta: Words | None = None


class Cached(msgspec.Struct, frozen=True):
    """Part of the prompt."""

    cached_tokens: int | None = None


class Counted(msgspec.Struct, frozen=True):
    """Tokens that the provider charged for."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Cached | None = None


class Completion(msgspec.Struct, frozen=True):
    """An answer or a chunk of one; `service_tier` decides on the price."""

    model: str | None = None
    choices: list[Choice] | None = None
    service_tier: str | None = None
    usage: Counted | None = None


def completion_of(data: object) -> Completion:
    """`data`: decoded JSON. Raises `msgspec.ValidationError` for what is no completion."""
    return msgspec.convert(data, Completion, strict=False)
