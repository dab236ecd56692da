"""The HTTP client of a provider, with hooks, and the limits that the headers of its answers name."""

import math
from collections.abc import Awaitable, Callable

import httpx2
import openai

from eco2.retry import number

CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=60.0)
"""Kept open between calls: a new one costs a handshake, and grants do not wait for handshakes."""

MIN_LIMIT = {"requests": 1.0, "tokens": 1000.0}
"""A limit per minute below it is an error of the provider: not even one call would fit."""

OnLimits = Callable[[float | None, float | None], None]
"""Gets requests and tokens per minute, as far as the provider names them."""

OnRequest = Callable[[httpx2.Request], Awaitable[None]]
"""Gets each request before the connection for it is looked for."""


def client(
    on_request: OnRequest, on_limits: OnLimits, login: tuple[str, str] | None = None
) -> httpx2.AsyncClient:
    """Makes the SDK's own HTTP client (proxies of the environment included) with hooks in it.

    `login`: user and password, where the provider's URL had them.
    """

    async def on_response(response: httpx2.Response) -> None:
        requests, tokens = named(response.headers)
        if requests is not None or tokens is not None:
            on_limits(requests, tokens)

    return openai.DefaultAsyncHttpxClient(
        limits=CONNECTIONS,
        auth=login,
        event_hooks={"request": [on_request], "response": [on_response]},
    )


def named(headers: httpx2.Headers) -> tuple[float | None, float | None]:
    """Reads the limits of requests and tokens per minute that an answer names."""
    return _limit(headers, "requests"), _limit(headers, "tokens")


def _limit(headers: httpx2.Headers, what: str) -> float | None:
    """Reads a limit per minute; None where the provider names none that makes sense."""
    limit = number(headers.get(f"x-ratelimit-limit-{what}", ""))
    return limit if limit is not None and MIN_LIMIT[what] <= limit < math.inf else None
