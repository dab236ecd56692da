"""The way to a provider: the last moment before a request's first byte, and what its headers say of limits.

A grant for a call is good for a fraction of a second, so it is looked at when the connection stands and
nothing but the request is left to be sent. The SDK has no such hook; its HTTP client has.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar

import httpx2
import openai

from eco2.ports import no_gate

CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=60.0)
"""Kept open between calls: a new one costs a handshake, and grants do not wait for handshakes."""

LEAST = {"requests": 1.0, "tokens": 1000.0}
"""A limit per minute below it is an error of the provider: not even one call would fit."""

OnLimits = Callable[[float | None, float | None], None]
"""Gets requests and tokens per minute, as far as the provider names them."""

GATE: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("gate", default=no_gate)
"""Awaited before the first byte of a request that this task sends; an error in it ends the request unsent."""


def client(on_limits: OnLimits, login: tuple[str, str] | None = None) -> httpx2.AsyncClient:
    """The SDK's own HTTP client (proxies of the environment included) with our hooks in it.

    `login`: user and password, where the provider's URL had them.
    """

    async def on_response(response: httpx2.Response) -> None:
        requests, tokens = named(response.headers)
        if requests is not None or tokens is not None:
            on_limits(requests, tokens)

    return openai.DefaultAsyncHttpxClient(
        limits=CONNECTIONS,
        auth=login,
        event_hooks={"request": [_watch_connection], "response": [on_response]},
    )


async def _watch_connection(request: httpx2.Request) -> None:
    """Lets the transport call back when the connection stands."""
    gate = GATE.get()

    async def open_gate(event: str, _: Mapping[str, object]) -> None:
        if event.endswith(".send_request_headers.started"):
            await gate()

    request.extensions = {**request.extensions, "trace": open_gate}


def named(headers: httpx2.Headers) -> tuple[float | None, float | None]:
    """The limits of requests and tokens per minute that an answer names."""
    return _limit(headers, "requests"), _limit(headers, "tokens")


def _limit(headers: httpx2.Headers, what: str) -> float | None:
    """The provider's limit per minute, or None where it names none that makes sense."""
    text = headers.get(f"x-ratelimit-limit-{what}", "")
    try:
        limit = float(text) if text.isascii() else math.nan
    except ValueError:
        return None
    return limit if LEAST[what] <= limit < math.inf else None
