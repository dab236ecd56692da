"""Counts tokens as OpenAI bills them: the o200k_base vocabulary, a frame per message, images by formula.

Per message 3 tokens and its role, per name 1, and 3 that open the reply (OpenAI's cookbook, "How to count
tokens"). A json_schema and a tool count as their JSON text, a called tool as its id, name and arguments:
OpenAI puts them into the prompt in an unpublished form.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import bpe_openai
import msgspec

from eco2.fake.image import size_of
from eco2.fake.models import ImageTokens, family
from eco2.fake.request import Assistant, ChatRequest, Developer, ImagePart, Message, System, TextPart

CACHE_MIN_TOKENS, CACHE_STEP, CACHE_LIFE = 1024, 128, 300.0
"""Prompt caching: from 1,024 tokens, in steps of 128, for about five minutes (OpenAI's guide)."""


@cache
def encoding() -> bpe_openai.Encoding:
    """Loads the vocabulary, once per process; it takes half a second."""
    return bpe_openai.get_encoding("o200k_base")


def encode(text: str) -> list[int]:
    """Returns the token ids; special tokens in the text count as plain text."""
    ids: list[int] = encoding().encode_ordinary(text)
    return ids


def spelling(token: int) -> bytes:
    """Returns the bytes of one token, which may be parts of characters."""
    spelled: bytes = encoding().decode_single_token_bytes(token)
    return spelled


def count(text: str) -> int:
    """Counts the tokens of a text."""
    return len(encode(text))


_count_stable = lru_cache(maxsize=256)(count)  # system prompts and schemas repeat from call to call


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens. `stable`: of the part that calls share (schema and leading system messages)."""

    tokens: int
    stable: int
    stable_text: str


def measure(request: ChatRequest, schema_text: str) -> Prompt:
    """Counts the request's prompt. Raises an `ApiError` (400) for an image that cannot be read."""
    image_tokens = family(request.model).image_tokens
    stable, texts, leading = 0, [schema_text], True
    total = 3
    texts += [msgspec.json.encode(tool).decode() for tool in request.tools or ()]
    for text in filter(None, texts):
        stable += _count_stable(text)
    for index, message in enumerate(request.messages):
        system = isinstance(message, System | Developer)
        weight = message_tokens(message, index, image_tokens)
        leading = leading and system
        if leading:
            stable += weight
            texts.extend(texts_of(message))
        else:
            total += weight
    return Prompt(total + stable, stable, "\n".join(texts))


def texts_of(message: Message) -> list[str]:
    """Returns the texts of a message, those of the tools that it calls included."""
    calls = message.tool_calls if isinstance(message, Assistant) else None
    called = [text for call in calls or () for text in (call.id, call.function.name, call.function.arguments)]
    if isinstance(message.content, str):
        return [message.content, *called]
    return [part.text for part in message.content or () if isinstance(part, TextPart)] + called


def message_tokens(message: Message, index: int, image_tokens: ImageTokens) -> int:
    """Counts one message."""
    counted = _count_stable if isinstance(message, System | Developer) else count
    total = 3 + _count_stable(message.role) + sum(counted(text) for text in texts_of(message))
    if message.name is not None:
        total += 1 + count(message.name)
    if not isinstance(message.content, str):
        for place, part in enumerate(message.content or ()):
            if isinstance(part, ImagePart):
                param = f"messages[{index}].content[{place}].image_url.url"
                width, height = size_of(part.image_url.url, param)
                total += image_tokens(width, height, part.image_url.detail == "low")
    return total


class PromptCache:
    """The stable prefixes of recent prompts, as in OpenAI's prompt cache."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}

    def cached(self, model: str, prompt: Prompt, now: float) -> int:
        """Returns the cached tokens of this prompt, and remembers it."""
        if prompt.stable < CACHE_MIN_TOKENS:
            return 0
        key = (model, prompt.stable_text)
        last = self._seen.pop(key, None)
        self._seen[key] = now
        if len(self._seen) > 256:
            del self._seen[next(iter(self._seen))]
        fresh = last is not None and now - last < CACHE_LIFE
        return prompt.stable // CACHE_STEP * CACHE_STEP if fresh else 0
