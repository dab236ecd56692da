"""Calls the model with OpenAI's synchronous client: the same requests, checks and retries as eco2's.

One client per process, made at the first call, so that no client is shared over a fork.
"""

import os
import time
from collections.abc import Callable
from functools import cache

import openai
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from eco2.call import Answer, Call
from eco2.calls.router import ATTEMPTS
from eco2.llm.openai import response_format_of

MODEL = "gpt-5.1"
CONNECT_TIMEOUT = 5.0
_MAY_PASS = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)
_backoff = wait_random_exponential(multiplier=0.5, max=10)


class Unfit(Exception):
    """The answer does not fit the call's schema."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(problem)
        self.text = text
        self.problem = problem


@cache
def _client() -> openai.OpenAI:
    seconds = float(os.environ["BENCH_CALL_TIMEOUT"])
    return openai.OpenAI(max_retries=0, timeout=openai.Timeout(seconds, connect=CONNECT_TIMEOUT))


OnText = Callable[[str], None]


def ask(call: Call[Answer], job: str, on_text: OnText | None = None) -> Answer:
    """Returns the answer; with `on_text` it is streamed, and `on_text` gets each piece.

    Temporary failures are tried three times; a wait for a limit of the provider does not count as a try.
    Raises `Unfit` and `openai.OpenAIError`.
    """
    refused = 0

    def spent(state: RetryCallState) -> bool:
        nonlocal refused
        refused += isinstance(_error(state), openai.RateLimitError)
        return state.attempt_number - refused >= ATTEMPTS

    for attempt in Retrying(
        retry=retry_if_exception_type(_MAY_PASS), stop=spent, wait=_pause, reraise=True, sleep=time.sleep
    ):
        with attempt:
            return _answer(call, _whole(call, job) if on_text is None else _streamed(call, job, on_text))
    raise AssertionError("the last attempt raises")


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _pause(state: RetryCallState) -> float:
    """Returns the provider's requested pause, and a little more to spread the retries; else a pause by
    attempts."""
    error = _error(state)
    if isinstance(error, openai.RateLimitError):
        asked = error.response.headers.get("retry-after-ms")
        return float(asked) / 1000 + _backoff(state) / 10 if asked else _backoff(state)
    return _backoff(state)


def _whole(call: Call[Answer], job: str) -> str:
    schema: type = call.schema
    completion = _client().chat.completions.create(
        model=MODEL,
        messages=_messages(call),
        max_completion_tokens=call.max_tokens,
        response_format=response_format_of(schema) or openai.omit,
        extra_headers=_headers(call, job),
    )
    return completion.choices[0].message.content or ""


def _streamed(call: Call[Answer], job: str, on_text: OnText) -> str:
    pieces = list[str]()
    with _client().chat.completions.create(
        model=MODEL,
        messages=_messages(call),
        max_completion_tokens=call.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=_headers(call, job),
    ) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                if piece := choice.delta.content:
                    pieces.append(piece)
                    on_text(piece)
    return "".join(pieces)


def _headers(call: Call[Answer], job: str) -> dict[str, str]:
    return {"x-eco2-job": job, "x-eco2-kind": call.kind}


def _messages(call: Call[Answer]) -> list[ChatCompletionMessageParam]:
    system: ChatCompletionMessageParam = {"role": "system", "content": call.system}
    if call.image is None:
        return [system, {"role": "user", "content": call.text}]
    return [
        system,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": call.text},
                {"type": "image_url", "image_url": {"url": call.image, "detail": "low"}},
            ],
        },
    ]


def _answer(call: Call[Answer], text: str) -> Answer:
    value: object = text
    if issubclass(call.schema, BaseModel):
        try:
            value = call.schema.model_validate_json(text)
        except ValidationError as error:
            raise Unfit(text, str(error)) from error
    if not isinstance(value, call.schema):
        raise TypeError(f"the schema of the call {call.kind!r} is neither str nor a pydantic model")
    return value
