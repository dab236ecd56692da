"""OpenAI's Chat Completions, or whoever speaks them, behind `ports.Model`.

Guarantees: one HTTP client for the whole process; one request per call, because a retry is the engine's to
decide and to pay for; an answer is returned only if the provider said that it is complete and it fits the
call's schema; every failure leaves as `ProviderError` (may pass) or `ProviderRefused` (will not).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from json import JSONDecodeError

import httpx2  # the SDK lets its transport's errors through while a stream is read
import openai
from openai.types import CompletionUsage
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionContentPartParam,
    ChatCompletionMessageParam,
)
from openai.types.chat.completion_create_params import ResponseFormat
from pydantic import BaseModel, ValidationError

from eco2.call import Answer, Call, Reply, Usage
from eco2.errors import ProviderError, ProviderRefused

CONNECT_TIMEOUT = 5.0
"""Seconds; a provider that does not even accept a connection is down."""

_MAY_PASS = (408, 409, 425, 429)
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class _Written:
    """What the provider wrote, and why it stopped (None: it did not say)."""

    text: str
    finish_reason: str | None
    refusal: str | None
    model: str
    usage: CompletionUsage | None


class OpenAIModel:
    """`model` at the provider at `base_url` (None: OpenAI). `timeout`: seconds for one whole call."""

    def __init__(self, api_key: str, base_url: str | None, model: str, timeout: float = 60.0) -> None:
        self._model = model
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def complete(
        self, call: Call[Answer], job_id: str, on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        """Sends one request. The provider's log finds it by the headers `x-eco2-job` and `x-eco2-kind`."""
        headers = {"x-eco2-job": job_id, "x-eco2-kind": call.kind}
        async with self._border():
            if call.stream and call.schema is str:
                written = await self._stream(call, headers, on_text)
            else:
                written = await self._whole(call, headers)
        return Reply(_answer(call, written), written.model or self._model, _usage(written.usage))

    async def _whole(self, call: Call[Answer], headers: Mapping[str, str]) -> _Written:
        schema: type = call.schema
        completion: object = await self._client.chat.completions.create(
            model=self._model,
            messages=_messages(call),
            max_completion_tokens=call.max_tokens,
            response_format=_response_format(schema),
            extra_headers=headers,
        )
        # Of a body that is no JSON the SDK hands over the bare text.
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise ProviderError("the provider answered with something that is no chat completion: try again")
        choice = completion.choices[0]
        text, refusal = choice.message.content or "", choice.message.refusal
        return _Written(text, choice.finish_reason, refusal, completion.model, completion.usage)

    async def _stream(
        self, call: Call[Answer], headers: Mapping[str, str], on_text: Callable[[str], None]
    ) -> _Written:
        pieces, refused = list[str](), list[str]()
        finish_reason, model, usage = None, "", None
        chunks = await self._client.chat.completions.create(
            model=self._model,
            messages=_messages(call),
            max_completion_tokens=call.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
        )
        async with chunks:
            async for chunk in chunks:
                model, usage = chunk.model or model, chunk.usage or usage
                for choice in chunk.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    refused.append(choice.delta.refusal or "")
                    if piece := choice.delta.content:
                        pieces.append(piece)
                        on_text(piece)
        return _Written("".join(pieces), finish_reason, "".join(refused) or None, model, usage)

    @asynccontextmanager
    async def _border(self) -> AsyncIterator[None]:
        """Lets only our own errors out, and nothing run longer than the call's timeout."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise ProviderError(
                f"the provider did not finish within {self._timeout:g} s: try again"
            ) from error
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except (openai.OpenAIError, httpx2.HTTPError, JSONDecodeError, UnicodeDecodeError) as error:
            if _out_of_quota(error):
                raise _no_quota() from error
            raise ProviderError(f"the connection to the provider failed ({error!r}): try again") from error


def _messages(call: Call[Answer]) -> list[ChatCompletionMessageParam]:
    """The constant part first, so that providers can cache it."""
    content: str | list[ChatCompletionContentPartParam] = call.text
    if call.image is not None:
        content = [
            {"type": "text", "text": call.text},
            {"type": "image_url", "image_url": {"url": call.image, "detail": "low"}},
        ]
    return [{"role": "system", "content": call.system}, {"role": "user", "content": content}]


@lru_cache(maxsize=64)
def _response_format(schema: type) -> ResponseFormat | openai.Omit:
    """Plain text for `str`, else the strict JSON schema of a pydantic model."""
    if schema is str:
        return openai.omit
    if not issubclass(schema, BaseModel):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {schema.__name__}")
    strict = openai.pydantic_function_tool(schema)["function"]
    return {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "strict": True, "schema": strict["parameters"]},
    }


def _answer(call: Call[Answer], written: _Written) -> Answer:
    """The text or the validated object. Raises ProviderError or ProviderRefused for anything less."""
    if written.refusal is not None or written.finish_reason == "content_filter":
        reason = (written.refusal or "its content filter stepped in")[:_LONGEST_REASON]
        raise ProviderRefused(f"the provider refused to answer the call '{call.kind}': {reason}")
    if written.finish_reason is None:
        raise ProviderError(f"the answer to the call '{call.kind}' was cut short: try again")
    if not written.text or (written.finish_reason != "stop" and call.schema is not str):
        raise ProviderError(
            f"the answer to the call '{call.kind}' is not whole (finish_reason {written.finish_reason}):"
            f" try again; if it repeats, raise the call's max_tokens ({call.max_tokens})"
        )
    value = _parsed(call.schema, written.text)
    if not isinstance(value, call.schema):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {call.schema.__name__}")
    return value


def _parsed(schema: type, text: str) -> object:
    if not issubclass(schema, BaseModel):
        return text
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise ProviderError(
            f"the answer does not fit {schema.__name__} ({problem['loc']}: {problem['msg']}): try again"
        ) from error


def _usage(usage: CompletionUsage | None) -> Usage:
    """Zeros where a provider does not report it."""
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return Usage(usage.prompt_tokens, cached, usage.completion_tokens)


def _status_error(error: openai.APIStatusError) -> ProviderError | ProviderRefused:
    """What an HTTP error means for the job. The provider's words on a key may quote it: not repeated."""
    status = error.status_code
    if _out_of_quota(error):
        return _no_quota()
    if status in (401, 403):
        return ProviderRefused(f"the provider does not accept our key (HTTP {status}): check OPENAI_API_KEY")
    reason = f"HTTP {status}: {error.message[:_LONGEST_REASON]}"
    if status in _MAY_PASS or status >= 500:
        wait = retry_after(error.response.headers, time.time())
        return ProviderError(f"the provider cannot answer now ({reason}): try again", wait)
    return ProviderRefused(f"the provider does not take the request ({reason}): correct it")


def _out_of_quota(error: Exception) -> bool:
    return isinstance(error, openai.APIError) and "insufficient_quota" in (error.code, error.type)


def _no_quota() -> ProviderRefused:
    return ProviderRefused("the account at the provider has no quota left: check its plan and billing")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks us to wait (`now`: Unix seconds), or None if it does not say."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue  # absent, or a date
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now)
    except (KeyError, ValueError):
        return None
