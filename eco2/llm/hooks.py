"""The HTTP client of a provider, with hooks, and the limits that the headers of its answers name."""

import math
from collections.abc import Awaitable, Callable
from urllib.request import getproxies

import aiohttp
import httpx2
import openai
from httpx_aiohttp.httpx2 import AiohttpTransport

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
    on_request: OnRequest,
    on_sending: Callable[..., Awaitable[None]],
    on_limits: OnLimits,
    login: tuple[str, str] | None = None,
) -> httpx2.AsyncClient:
    """Makes the SDK's HTTP client with hooks in it: over aiohttp, unless the environment names proxies.

    aiohttp awaits `on_sending` once the connection stands and only the request is left to be sent.
    `login`: user and password, where the provider's URL had them.
    """

    async def on_response(response: httpx2.Response) -> None:
        requests, tokens = named(response.headers)
        if requests is not None or tokens is not None:
            on_limits(requests, tokens)

    tls = httpx2.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        # despite its name it comes before the first byte, and where an error in it closes the connection
        trace.on_request_headers_sent.append(on_sending)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=CONNECTIONS.keepalive_expiry),
            cookie_jar=aiohttp.DummyCookieJar(),  # httpx2 keeps them
            trace_configs=[trace],
        )

    proxies = getproxies().keys() & {"http", "https", "all"}
    return openai.DefaultAsyncHttpxClient(
        verify=tls,
        limits=CONNECTIONS,
        transport=None if proxies else AiohttpTransport(verify=tls, client=session),
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
