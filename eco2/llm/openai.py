"""Implements `ports.Model` over OpenAI's Chat Completions and Embeddings, and over compatible servers.

Guarantees: one HTTP client for the whole process; one request per call, because a retry is the engine's to
decide and to pay for; an answer is returned only if the provider said that it is complete and it fits the
call's schema; every failure leaves as `ProviderError` (may pass), `ProviderRefused` (will not) or, with its
cost, `InvalidAnswer` (repairable) or `ModelRefused`; no message holds the key. Docs: `docs/models.md`.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import quote

import aiohttp
import httpx2  # the SDK lets its transport's errors through while a stream is read
import msgspec
import openai
from openai.types.chat.completion_create_params import ResponseFormat
from openai.types.shared_params import ReasoningEffort
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eco2.call import (
    Answer,
    Call,
    InvalidAnswer,
    Message,
    ModelRefused,
    Reply,
    Tool,
    ToolCall,
    UnreadableAnswer,
    Usage,
)
from eco2.errors import (
    CallTooLarge,
    CallUnsupported,
    Eco2Error,
    InputRefused,
    PermanentError,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    ProviderRefused,
    RateLimited,
)
from eco2.event import replace_surrogates
from eco2.llm import hooks, objects
from eco2.llm.completion import (
    Called,
    Completion,
    Ending,
    TokenCounts,
    decode_json,
    joined,
    parse_completion,
    parse_usage,
    parse_vectors,
)
from eco2.llm.prices import price
from eco2.llm.provider_errors import (
    ErrorKind,
    classify,
    error_text,
    inner_status,
    limit_kind,
    parameter,
    retry_after,
    retry_delay,
)
from eco2.llm.thoughts import ThoughtFilter, without_thoughts
from eco2.ports import no_gate
from eco2.remote import without_login
from eco2.tokens.names import plain_name

PATH = "/chat/completions"
EMBEDDINGS = "/embeddings"
CONNECT_TIMEOUT = 5.0
"""Seconds; a provider that does not even accept a connection is down."""

MIN_EFFORT: Mapping[str, ReasoningEffort] = {
    "gpt-5": "minimal",
    "gpt-5-mini": "minimal",
    "gpt-5-nano": "minimal",
}
"""Models that would think by default, on tokens of `max_tokens`, until none is left for the answer."""

_MAX_REASON = 300
_CHOICES = ("auto", "none", "required")
_STANDARD_TIERS = (None, "auto", "default", "standard")
_PRIVATE = re.compile(r"\b(?:sk|sess|org|proj)[-_][\w*-]{3,}")
_MAX_PROBLEMS = 3
_FOR_CLIENTS: Mapping[type[PermanentError], str] = {
    ProviderRefused: "the model's provider does not take this request: change it and send it again",
    CallTooLarge: "the input is too long for the model: shorten it",
}
_MAY_PASS: Mapping[ErrorKind, type[ProviderError]] = {
    "rate": RateLimited,
    "down": ProviderDown,
    "later": ProviderError,
}
_FINAL: Mapping[ErrorKind, tuple[type[PermanentError], str]] = {
    "money": (
        ProviderAccessDenied,
        "the account at the provider has no quota left ({reason}): check its plan and billing",
    ),
    "key": (
        ProviderAccessDenied,
        "the provider does not accept our key ({reason}): check OPENAI_API_KEY, or the API_KEY among its "
        "variables ECO2_PROVIDERS__…",
    ),
    "model": (
        ProviderAccessDenied,
        "the provider knows no such model or address ({reason}): check the model {model} and the base URL "
        "in its settings",
    ),
    "unsupported": (
        CallUnsupported,
        "the model {model} does not take {parameter} ({reason}): set another model for this provider",
    ),
    "input": (InputRefused, "the provider's filter refused the input of this job ({reason})"),
    "too large": (
        CallTooLarge,
        "the call is too large for the provider's limits ({reason}): shorten its input",
    ),
    "request": (ProviderRefused, "the provider does not take the request ({reason}): correct it"),
}
_IN_HEADERS = " !#$&'()*+,/:;=?@[]~"  # what needs no %-escape in a header's value
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


_GATE: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("gate", default=no_gate)
"""Awaited before the first byte of a request that this task sends; an error in it ends the request unsent."""


async def _open_gate(*_: object) -> None:
    """Opens the gate once the connection stands and nothing but the request is left to be sent.

    A grant is good for a fraction of a second only, and a connection may take longer. The SDK has no such
    hook; its HTTP clients have.
    """
    await _GATE.get()()


async def _watch_connection(request: httpx2.Request) -> None:
    """Opens the gate where a proxy is used, and so the SDK's own HTTP client."""

    async def watch(event: str, _: Mapping[str, object]) -> None:
        if event.endswith(".send_request_headers.started"):
            await _open_gate()

    request.extensions = {**request.extensions, "trace": watch}


@dataclass(frozen=True, slots=True)
class _Written:
    """A provider's answer. `ending`: why it stopped, None where it does not say. `model`: its author."""

    text: str
    ending: Ending | None
    refusal: str
    called: tuple[Called, ...]
    model: str
    usage: Usage


class OpenAIModel:
    """`model` at the provider at `base_url` (None: OpenAI). The caller bounds the time of a call.

    `on_limits` gets the limits that the provider's answers name.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str | None,
        model: str,
        on_limits: hooks.OnLimits = lambda requests, tokens: None,  # noqa: ARG005
    ) -> None:
        self._key = api_key
        self._model = model
        self._effort = MIN_EFFORT.get(plain_name(model))
        # In the URL itself they would stand in every log line of the HTTP client.
        base_url, login = (base_url, None) if base_url is None else without_login(base_url)
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT, pool=CONNECT_TIMEOUT),
            http_client=hooks.client(_watch_connection, _open_gate, on_limits, login),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        """Sends one request. The provider's log finds it by the headers `x-eco2-job` and `x-eco2-kind`."""
        names = {"x-eco2-job": job_id, "x-eco2-kind": call.kind}
        headers = {name: quote(value, _IN_HEADERS, errors="replace") for name, value in names.items()}
        token = _GATE.set(gate)
        try:
            with self._map_errors():
                if call.texts:
                    return self._vectors(call, await self._whole(EMBEDDINGS, self._texts(call), headers))
                if call.stream and call.schema is str:
                    written = await self._stream(call, headers, on_text)
                else:
                    written = self._written(self._parsed(await self._whole(PATH, self._body(call), headers)))
        finally:
            _GATE.reset(token)
        return read_reply(call, written)

    async def _whole(self, path: str, body: bytes, headers: Mapping[str, str]) -> object:
        """Sends a request and decodes the JSON that answers it."""
        response = await self._client.post(
            path, cast_to=httpx2.Response, content=body, options={"headers": headers}
        )
        try:
            return decode_json(response.content)
        except ValueError as error:
            raise ProviderError(
                f"the provider's answer broke off, or is no JSON ({error}): try again"
            ) from error

    async def _stream(
        self, call: Call[Answer], headers: Mapping[str, str], on_text: Callable[[str], None]
    ) -> _Written:
        pieces, refused, visible, last = list[str](), list[str](), ThoughtFilter(), Completion()
        chunks = await self._client.post(
            PATH,
            cast_to=object,
            content=self._body(call, stream=True, stream_options={"include_usage": True}),
            options={"headers": headers},
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )
        async with chunks:
            async for data in readable(chunks):
                if (chunk := self._parsed(data)) is None:
                    continue
                last = merged(last, chunk)
                refused.append(chunk.refusal)
                pieces.append(chunk.text)
                if shown := visible.add(chunk.text):
                    on_text(shown)
        if shown := visible.end():
            on_text(shown)
        ending = last.ending or ("unknown" if last.usage else None)  # a stream with its usage was not cut off
        return self._written(replace(last, text="".join(pieces), ending=ending, refusal="".join(refused)))

    def _parsed(self, data: object) -> Completion | None:
        """Parses an answer or a chunk; None if it is neither. Raises the error that stands in its place."""
        completion = parse_completion(data)
        error = data if completion is None else completion.error
        status = inner_status(error)
        if error is None or (completion and completion.text):
            return completion
        if completion is None and (not isinstance(data, Mapping) or classify(status, data) == "later"):
            return None  # nothing says that it is an error
        raise self._refusal(status, error, {})

    def _written(self, completion: Completion | None) -> _Written:
        if completion is None:
            raise self._unreadable("no chat completion")
        model = replace_surrogates(completion.model or self._model)
        usage = usage_of(completion.usage, model, completion.tier)
        text = replace_surrogates(completion.text)
        return _Written(text, completion.ending, completion.refusal, completion.called, model, usage)

    def _vectors(self, call: Call[Answer], data: object) -> Reply[Answer]:
        self._parsed(data)  # raises the error that stands in the place of vectors
        value = parse_vectors(data, len(call.texts))
        if not isinstance(value, call.schema) or not isinstance(data, Mapping):
            raise self._unreadable("no vector for each text")
        counts = parse_usage(data.get("usage"))
        usage = usage_of(counts and replace(counts, completion=0), self._model, None)
        return Reply(value, self._model, usage)

    def _unreadable(self, what: str) -> UnreadableAnswer:
        message = f"the provider answered with something that is {what}: check its base URL and its model"
        return UnreadableAnswer(message, self._model, Usage())

    def _body(self, call: Call[Answer], **more: object) -> bytes:
        """Encoded here: the SDK would look at each character of a picture several times."""
        schema: type = call.schema
        # the constant part first: providers can cache it
        messages: list[object] = [{"role": "system", "content": replace_surrogates(call.system)}]
        if call.text or call.image is not None or not call.messages:
            images = () if call.image is None else (call.image,)
            messages.append(message_json(Message("user", call.text, images)))
        body = {
            "model": self._model,
            "messages": messages + [message_json(message) for message in call.messages],
            "max_completion_tokens": call.max_tokens,
            "reasoning_effort": call.effort or self._effort,
            "response_format": response_format_of(schema),
            "seed": call.seed,
            "temperature": call.temperature,
            **more,
        }
        if call.tools:
            body["tools"] = [tool_json(tool) for tool in call.tools]
            named = {"type": "function", "function": {"name": call.tool_choice}}
            body["tool_choice"] = call.tool_choice if call.tool_choice in _CHOICES else named
        return msgspec.json.encode({name: value for name, value in body.items() if value is not None})

    def _texts(self, call: Call[Answer]) -> bytes:
        texts = [replace_surrogates(text) for text in call.texts]
        body = {"model": self._model, "input": texts, "encoding_format": "base64"}
        return msgspec.json.encode(body | ({"dimensions": call.dimensions} if call.dimensions else {}))

    @contextmanager
    def _map_errors(self) -> Iterator[None]:
        """Maps the errors of the SDK and its transport to our own."""
        try:
            yield
        except openai.APIStatusError as error:
            body = error.body
            with suppress(ValueError):
                body = decode_json(error.response.content)  # the SDK leaves out what stands beside `error`
            raise self._refusal(error.status_code, body, error.response.headers) from error
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Eco2Error):  # of the gate: nothing was sent
                raise error.__cause__ from None
            raise ProviderDown(self._failed(error)) from error
        except openai.APIError as error:  # in a stream
            body = error.body if error.body is not None else error.message
            raise self._refusal(inner_status(body), body, {}) from error
        except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, UnicodeError) as error:
            raise ProviderError(self._failed(error)) from error

    def _failed(self, error: BaseException) -> str:
        while (cause := error.__cause__) is not None and str(cause):  # the SDK says "time-out" of a hang-up
            error = cause
        reason = self._without_key(f"{type(error).__name__}: {error}")
        return f"the connection to the provider failed ({reason}): try again"

    def _refusal(self, status: int, body: object, headers: Mapping[str, str]) -> Eco2Error:
        """Maps an error of the provider to one of ours. `status`: 0 for an error inside an answer."""
        what = classify(status, body)
        reason = self._without_key(f"HTTP {status or 200}: {error_text(body) or body or 'no reason given'}")
        if what in _MAY_PASS:
            wait, message = retry_after(headers, time.time()), f"the provider cannot answer now ({reason})"
            if what == "rate":
                wait = retry_delay(body) if wait is None else wait
                return RateLimited(f"{message}: try again", wait, limit_kind(body, headers))
            return _MAY_PASS[what](f"{message}: try again", wait)
        kind, text = _FINAL[what]
        message = text.format(reason=reason, model=self._model, parameter=parameter(body) or "such a request")
        return kind(message, for_clients=_FOR_CLIENTS.get(kind))

    def _without_key(self, text: str) -> str:
        """Removes from `text` our key, names of accounts that providers quote, and broken characters."""
        return replace_surrogates(_PRIVATE.sub("***", text.replace(self._key, "***"))[:_MAX_REASON])


def message_json(message: Message) -> dict[str, object]:
    """Makes the API's form of a message."""
    text = replace_surrogates(message.text)
    content: object = text
    if message.images:
        urls = ({"url": url, "detail": "low"} for url in message.images)
        content = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": url} for url in urls)]
    made = {"role": message.role, "content": content}
    if message.tool_calls:
        made["content"] = text or None
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
            for call in message.tool_calls
            for arguments in (call.arguments.model_dump_json(by_alias=True),)
        ]
    return made | ({"tool_call_id": message.tool_call_id} if message.role == "tool" else {})


@lru_cache(maxsize=64)
def tool_json(tool: Tool) -> dict[str, object]:
    """Makes the API's form of a tool, with a strict schema."""
    function = {"name": tool.name, "description": tool.description, "strict": True}
    return {"type": "function", "function": function | {"parameters": strict_schema(tool.parameters)}}


@lru_cache(maxsize=64)
def response_format_of(schema: type) -> ResponseFormat | None:
    """Makes the strict JSON schema of a pydantic model; None, that is plain text, for `str`."""
    if schema is str:
        return None
    if not issubclass(schema, BaseModel):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {schema.__name__}")
    name = _NOT_IN_NAMES.sub("_", schema.__name__)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "strict": True, "schema": strict_schema(schema)},
    }


def strict_schema(model: type[BaseModel]) -> dict[str, object]:
    """Makes a strict schema without titles and docstrings of classes, for which every call would pay.

    The text of `Field(description=...)` stays: it is for the model.
    """
    schema = without_titles(openai.pydantic_function_tool(model)["function"]["parameters"])
    definitions = schema.get("$defs")
    for node in (schema, *(definitions.values() if isinstance(definitions, dict) else ())):
        node.pop("description", None)
    return schema


def without_titles(node: Mapping[str, object]) -> dict[str, object]:
    """Copies a schema without its titles."""
    return {
        key: without_titles(value) if isinstance(value, dict) else value
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }


def read_reply(call: Call[Answer], written: _Written) -> Reply[Answer]:
    """Returns the text, the validated object or the tools to run; raises for anything less, by its ending."""
    kind = f"the answer to the call '{call.kind}'"
    if written.refusal or written.ending == "filter":
        reason = (written.refusal or "its content filter stepped in")[:_MAX_REASON]
        raise ModelRefused(
            f"the provider refused to answer the call '{call.kind}': {reason}", written.model, written.usage
        )
    if written.ending == "error":
        raise ProviderError(f"{kind} is not whole, since the provider failed: try again")
    text = without_thoughts(written.text)
    called = written.called if call.tools and call.tool_choice != "none" else ()
    if not text and len(written.called) == 1 and call.schema is not str:
        text = replace_surrogates(written.called[0].arguments)
    if written.ending == "length" and (call.schema is not str or called or not text):
        raise _unfit(
            f"{kind} took more than {call.max_tokens} tokens: raise the call's max_tokens", written,
            "it was cut off because it was too long",
        )  # fmt: skip
    if written.ending is None and call.stream and call.schema is str:
        raise ProviderError(f"{kind} broke off: try again")
    if call.tool_choice not in ("auto", "none") and not called:
        raise _unfit(f"{kind} calls no tool, and one was required", written, "it calls no tool")
    if not text and not called:
        fault = (
            "is the call of a tool, and none was offered: use another model"
            if written.ending == "tool"
            else "is empty: use another model, or raise the call's max_tokens"
        )
        raise UnreadableAnswer(f"{kind} {fault}", written.model, written.usage)
    tool_calls = tuple(read_tool_call(call, place, one, written) for place, one in enumerate(called))
    return Reply(_value(call, written, text, kind), written.model, written.usage, tool_calls)


def read_tool_call(call: Call[Answer], place: int, called: Called, written: _Written) -> ToolCall:
    """Returns the validated call of a tool; raises `InvalidAnswer` for an unknown tool or unfit arguments."""
    name, text = replace_surrogates(called.name), replace_surrogates(called.arguments)
    tool = next((tool for tool in call.tools if tool.name == name), None)
    try:
        if tool is not None:
            id_ = replace_surrogates(called.id) or f"call_{place}"
            return ToolCall(id_, name, objects.read(tool.parameters, text or "{}"))
        problem = f"there is no tool {name[:64]!r}"
    except ValidationError as error:
        problem = f"the arguments of {name}: {describe_problems(error)}"
    message = f"the call '{call.kind}' was answered by the unfit call of a tool ({problem})"
    raise InvalidAnswer(message, written.model, written.usage, text, problem)


def _value(call: Call[Answer], written: _Written, text: str, kind: str) -> Answer:
    value: object = text
    if issubclass(call.schema, BaseModel):
        try:
            value = objects.read(call.schema, text)
        except ValidationError as error:
            problem = describe_problems(error)
            raise _unfit(
                f"{kind} does not fit {call.schema.__name__} ({problem})", written, problem
            ) from error
    if not isinstance(value, call.schema):
        raise TypeError(f"Call.schema must be str or a pydantic model, not {call.schema.__name__}")
    return value


def describe_problems(error: ValidationError) -> str:
    """Describes the first faults, without the values that were given."""
    details = error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]
    return "; ".join(describe_problem(detail) for detail in details)


def describe_problem(detail: ErrorDetails) -> str:
    """Describes one fault; does not repeat the values of a list, since the schema has them."""
    place = ".".join(str(step) for step in detail["loc"]) or "the answer"
    listed = detail["type"] in ("enum", "literal_error")
    return f"{place}: {'not one of the listed values' if listed else detail['msg']}"


def _unfit(message: str, written: _Written, problem: str) -> InvalidAnswer:
    return InvalidAnswer(message, written.model, written.usage, written.text, problem)


def usage_of(usage: TokenCounts | None, model: str, tier: str | None) -> Usage:
    """Prices what the provider counted; zeros without a count, no cost where the price is not known."""
    if usage is None:
        return Usage()
    prompt, cached, completion = usage.prompt or 0, usage.cached or 0, usage.completion or 0
    whole = usage.prompt is not None and usage.completion is not None
    known = price(model) if whole and tier in _STANDARD_TIERS else None
    return Usage(prompt, cached, completion, known.cost(prompt, cached, completion) if known else None)


def merged(known: Completion, chunk: Completion) -> Completion:
    """Adds a chunk to all before it, except for the text."""
    return Completion(
        called=joined(known.called, chunk.called) if chunk.called else known.called,
        ending=chunk.ending or known.ending,
        model=chunk.model or known.model,
        tier=chunk.tier or known.tier,
        usage=chunk.usage or known.usage,
    )


async def readable(chunks: AsyncIterator[object]) -> AsyncIterator[object]:
    """Yields the chunks as they come; a broken one ends the stream as a lost connection does."""
    try:
        async for chunk in chunks:
            yield chunk
    except (ValueError, RecursionError) as error:
        raise ProviderError(
            f"the provider's stream holds something that is no JSON ({error}): try again"
        ) from error
