"""OpenAI's Chat Completions, or whoever speaks them, behind `ports.Model`.

Guarantees: one HTTP client for the whole process; one request per call, because a retry is the engine's to
decide and to pay for; an answer is returned only if the provider said that it is complete and it fits the
call's schema; every failure leaves as `ProviderError` (may pass), `ProviderRefused` (will not) or, with what
it cost, `UnfitAnswer` (to be mended) or `AnswerRefused`; no message holds the key. Docs: `docs/models.md`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from json import JSONDecodeError
from urllib.parse import quote

import httpx2  # the SDK lets its transport's errors through while a stream is read
import msgspec
import openai
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
from openai.types.chat.completion_create_params import ResponseFormat
from openai.types.shared_params import ReasoningEffort
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eco2.call import Answer, AnswerRefused, Call, Reply, UnfitAnswer, Usage
from eco2.errors import (
    Eco2Error,
    ProviderClosed,
    ProviderDown,
    ProviderError,
    ProviderRefused,
    ProviderSilent,
    RateLimited,
)
from eco2.llm import hooks
from eco2.llm.completion import Counted, Words, completion_of
from eco2.llm.prices import price
from eco2.llm.refusals import limit_kind, retry_delay, words
from eco2.ports import at_once
from eco2.tokens.names import plain_name

PATH = "/chat/completions"
NO_COMPLETION = "the provider answered with something that is no chat completion"
CONNECT_TIMEOUT = 5.0
"""Seconds; a provider that does not even accept a connection is down."""

LEAST_EFFORT: Mapping[str, ReasoningEffort] = {
    "gpt-5": "minimal",
    "gpt-5-mini": "minimal",
    "gpt-5-nano": "minimal",
}
"""Models that would think by default, on tokens of `max_tokens`, until none is left for the answer."""

_MAY_PASS = (408, 409, 425, 429)
_LONGEST_REASON = 300
_STANDARD_TIERS = (None, "auto", "default")
_PRIVATE = re.compile(r"\b(?:sk|sess|org|proj)[-_][\w*-]{3,}")
_PROBLEMS = 3
_KEY_REFUSED = "API_KEY_INVALID"
"""How Google says it, with HTTP 400."""
_IN_HEADERS = " !#$&'()*+,/:;=?@[]~"  # what needs no %-escape in a header's value
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, slots=True)
class _Written:
    """What the provider wrote, why it stopped (None: it did not say), who wrote it and what for."""

    text: str
    finish_reason: str | None
    refusal: str | None
    model: str
    usage: Usage


class OpenAIModel:
    """`model` at the provider at `base_url` (None: OpenAI). `timeout`: seconds for one whole call.

    `on_limits` gets the limits that the provider's answers name.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str | None,
        model: str,
        timeout: float = 60.0,
        on_limits: hooks.OnLimits = lambda requests, tokens: None,  # noqa: ARG005
    ) -> None:
        self._key = api_key
        self._model = model
        self._timeout = timeout
        self._effort = LEAST_EFFORT.get(plain_name(model))
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            http_client=hooks.client(on_limits),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        before_send: Callable[[], Awaitable[None]] = at_once,
    ) -> Reply[Answer]:
        """Sends one request. The provider's log finds it by the headers `x-eco2-job` and `x-eco2-kind`."""
        headers = {"x-eco2-job": _header(job_id), "x-eco2-kind": _header(call.kind)}
        async with self._border() as patience:

            async def leave() -> None:
                patience.reschedule(None)  # for another grant it may have to wait long
                await before_send()
                patience.reschedule(asyncio.get_running_loop().time() + self._timeout)

            with hooks.before_send(leave):
                written = await self._ask(call, headers, on_text)
        return Reply(_answer(call, written), written.model, written.usage)

    async def _ask(
        self, call: Call[Answer], headers: Mapping[str, str], on_text: Callable[[str], None]
    ) -> _Written:
        if call.stream and call.schema is str:
            return await self._stream(call, headers, on_text)
        return await self._whole(call, headers)

    async def _whole(self, call: Call[Answer], headers: Mapping[str, str]) -> _Written:
        answer = await self._client.post(
            PATH, cast_to=object, content=self._body(call), options={"headers": headers}
        )
        completion = completion_of(answer)
        if not completion.choices or (message := completion.choices[0].message) is None:
            raise ProviderError(f"{NO_COMPLETION}: try again")
        model = _sound(completion.model or self._model)
        usage = _usage(completion.usage, model, completion.service_tier)
        return _Written(
            _sound(message.content or ""),
            completion.choices[0].finish_reason,
            message.refusal,
            model,
            usage,
        )

    async def _stream(
        self, call: Call[Answer], headers: Mapping[str, str], on_text: Callable[[str], None]
    ) -> _Written:
        pieces, refused = list[str](), list[str]()
        finish_reason, model, tier, usage = None, self._model, None, None
        chunks = await self._client.post(
            PATH,
            cast_to=object,
            content=self._body(call, stream=True, stream_options={"include_usage": True}),
            options={"headers": headers},
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )
        async with chunks:
            async for data in chunks:
                chunk = completion_of(data)
                model, tier = chunk.model or model, chunk.service_tier or tier
                usage = chunk.usage or usage
                for choice in chunk.choices or ():
                    finish_reason = choice.finish_reason or finish_reason
                    delta = choice.delta or Words()
                    refused.append(delta.refusal or "")
                    if piece := delta.content:
                        pieces.append(piece)
                        on_text(piece)
        text, refusal, model = _sound("".join(pieces)), "".join(refused) or None, _sound(model)
        return _Written(text, finish_reason, refusal, model, _usage(usage, model, tier))

    def _body(self, call: Call[Answer], **more: object) -> bytes:
        """Encoded here: the SDK would look at each character of a picture several times."""
        schema: type = call.schema
        body = {
            "model": self._model,
            "messages": _messages(call),
            "max_completion_tokens": call.max_tokens,
            "reasoning_effort": self._effort,
            "response_format": response_format_of(schema),
            **more,
        }
        return msgspec.json.encode({name: value for name, value in body.items() if value is not None})

    @asynccontextmanager
    async def _border(self) -> AsyncIterator[asyncio.Timeout]:
        """Lets only our own errors out, and nothing run longer than the call's timeout."""
        try:
            async with asyncio.timeout(self._timeout) as patience:
                yield patience
        except TimeoutError as error:
            raise ProviderSilent(
                f"the provider did not finish within {self._timeout:g} s: try again"
            ) from error
        except openai.APIStatusError as error:
            reason = error.message if isinstance(error.body, dict) else words(error.body) or error.message
            raise _status_error(error, self._without_key(reason)) from error
        except msgspec.ValidationError as error:
            raise ProviderError(f"{NO_COMPLETION} ({error}): try again") from error
        except (openai.OpenAIError, httpx2.HTTPError, JSONDecodeError, UnicodeDecodeError) as error:
            if isinstance(error.__cause__, Eco2Error):  # of `before_send`: nothing was sent
                raise error.__cause__ from None
            if _out_of_quota(error):
                raise _no_quota() from error
            reason = self._without_key(f"{type(error).__name__}: {error}")
            kind = ProviderDown if isinstance(error, openai.APIConnectionError) else ProviderError
            raise kind(f"the connection to the provider failed ({reason}): try again") from error

    def _without_key(self, text: str) -> str:
        """`text` without what clients must not read (our key, and names of accounts that providers quote) or
        cannot."""
        return _sound(_PRIVATE.sub("***", text.replace(self._key, "***"))[:_LONGEST_REASON])


def _messages(call: Call[Answer]) -> list[ChatCompletionMessageParam]:
    """The constant part first, so that providers can cache it."""
    content: str | list[ChatCompletionContentPartParam] = _sound(call.text)
    if call.image is not None:
        content = [
            {"type": "text", "text": _sound(call.text)},
            {"type": "image_url", "image_url": {"url": call.image, "detail": "low"}},
        ]
    return [{"role": "system", "content": _sound(call.system)}, {"role": "user", "content": content}]


@lru_cache(maxsize=64)
def response_format_of(schema: type) -> ResponseFormat | None:
    """None, that is plain text, for `str`; else the strict JSON schema of a pydantic model."""
    if schema is str:
        return None
    if not issubclass(schema, BaseModel):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {schema.__name__}")
    strict = openai.pydantic_function_tool(schema)["function"]["parameters"]
    name = _NOT_IN_NAMES.sub("_", schema.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": _lean(strict)}}


def _lean(strict: Mapping[str, object]) -> dict[str, object]:
    """Without what pydantic adds for people, since every call pays for it: titles, and the docstrings of
    classes. What `Field(description=...)` says stays: it is for the model."""
    schema = _untitled(strict)
    definitions = schema.get("$defs")
    for node in (schema, *(definitions.values() if isinstance(definitions, dict) else ())):
        node.pop("description", None)
    return schema


def _untitled(node: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _untitled(value) if isinstance(value, dict) else value
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }


def _answer(call: Call[Answer], written: _Written) -> Answer:
    """The text or the validated object; raises for anything less, by the reason why the model stopped."""
    kind = f"the answer to the call '{call.kind}'"
    if written.refusal is not None or written.finish_reason == "content_filter":
        reason = (written.refusal or "its content filter stepped in")[:_LONGEST_REASON]
        raise AnswerRefused(
            f"the provider refused to answer the call '{call.kind}': {reason}", written.model, written.usage
        )
    match written.finish_reason:
        case "length" if call.schema is not str or not written.text:
            raise _unfit(
                f"{kind} took more than {call.max_tokens} tokens: raise the call's max_tokens", written,
                "it was cut off because it was too long",
            )  # fmt: skip
        case "stop" | "length" if written.text:
            return _value(call, written, kind)
        case "tool_calls" | "function_call":
            raise AnswerRefused(
                f"{kind} is the call of a tool, and none was offered: use another model",
                written.model,
                written.usage,
            )
    raise ProviderError(f"{kind} is not whole (finish_reason {written.finish_reason}): try again")


def _value(call: Call[Answer], written: _Written, kind: str) -> Answer:
    value: object = written.text
    if issubclass(call.schema, BaseModel):
        try:
            value = call.schema.model_validate_json(written.text)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)[:_PROBLEMS]
            problem = "; ".join(_problem(detail) for detail in details)
            raise _unfit(
                f"{kind} does not fit {call.schema.__name__} ({problem})", written, problem
            ) from error
    if not isinstance(value, call.schema):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {call.schema.__name__}")
    return value


def _problem(detail: ErrorDetails) -> str:
    """One fault in words; a list that was not kept is named, not repeated, since the schema has it."""
    place = ".".join(str(step) for step in detail["loc"]) or "the answer"
    listed = detail["type"] in ("enum", "literal_error")
    return f"{place}: {'not one of the listed values' if listed else detail['msg']}"


def _unfit(message: str, written: _Written, problem: str) -> UnfitAnswer:
    return UnfitAnswer(message, written.model, written.usage, written.text, problem)


def _header(value: str) -> str:
    return quote(value, _IN_HEADERS, errors="replace")


def _sound(text: str) -> str:
    """Half a surrogate pair, which JSON can spell, could be neither stored nor sent on."""
    return text.encode(errors="replace").decode()


def _usage(usage: Counted | None, model: str, tier: str | None) -> Usage:
    """Zeros where a provider does not report it; without a cost where that or the price is not known."""
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    known = price(model) if tier in _STANDARD_TIERS else None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(prompt, cached, completion, known.cost(prompt, cached, completion) if known else None)


def _status_error(error: openai.APIStatusError, reason: str) -> ProviderError | ProviderRefused:
    """What an HTTP error means for the job. `reason`: the provider's words, fit for clients."""
    status = error.status_code
    if _out_of_quota(error):
        return _no_quota()
    if status in (401, 403) or _KEY_REFUSED in words(error.body):
        return ProviderClosed(
            f"the provider does not accept our key (HTTP {status}): check OPENAI_API_KEY, or the API_KEY "
            "among its variables ECO2_PROVIDERS__…"
        )
    if status == 404:
        return ProviderClosed(
            f"the provider knows no such model or address (HTTP 404: {reason}): check the model and the base "
            "URL in its settings"
        )
    if status in _MAY_PASS or status >= 500:
        headers, message = error.response.headers, f"the provider cannot answer now (HTTP {status}: {reason})"
        wait = retry_after(headers, time.time())
        if status == 429:
            wait = retry_delay(error.body) if wait is None else wait
            return RateLimited(f"{message}: try again", wait, limit_kind(error.body, headers))
        kind = ProviderDown if status >= 500 else ProviderError
        return kind(f"{message}: try again", wait)
    return ProviderRefused(f"the provider does not take the request (HTTP {status}: {reason}): correct it")


def _out_of_quota(error: Exception) -> bool:
    return isinstance(error, openai.APIError) and "insufficient_quota" in (error.code, error.type)


def _no_quota() -> ProviderClosed:
    return ProviderClosed("the account at the provider has no quota left: check its plan and billing")


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
