"""Checks every request before a route sees it, and adds security headers to every answer.

Guarantees: a page of a site that is not allowed cannot make a browser submit a job (CSRF) or, by a DNS name
of its own, talk to a gateway on the user's machine (DNS rebinding); no answer is guessed, cached or framed.
"""

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eco2.gateway.problem import problem

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'",
}
LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "[::1]")
"""Names of a machine for itself. No other name's owner can make it mean this machine."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
PROBES = ("/healthz", "/readyz")
"""Load balancers ask these by address, whatever the hosts are; they give nothing away."""
MAX_HOST = 300

_ORIGIN = re.compile(r"https?://([^/?#@,\s]+)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")


def secured(app: ASGIApp) -> ASGIApp:
    """Adds `SECURITY_HEADERS` to what `app` answers, and `no-store` where it names no `Cache-Control`."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def secured_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await app(scope, receive, secured_send if scope["type"] == "http" else send)

    return call


class Guard:
    """Refuses requests for other hosts (400) and writes by pages of other sites (403).

    `hosts`: exact names, or `*.example.org`; none: any. `origins`: those that CORS allows.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] not in PROBES and not self._is_ours(scope, headers):
            detail = "this gateway does not serve that host: its operator lists them in ECO2_HOSTS"
            await problem(400, "INVALID_HOST", detail)(scope, receive, send)
        elif scope["method"] not in SAFE_METHODS and not same_site(headers, self._origins):
            detail = "a page of another site may not send this: the operator lists those in ECO2_CORS_ORIGINS"
            await problem(403, "CROSS_SITE", detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope, headers: Headers) -> bool:
        match headers.getlist("host"):
            case []:
                return not self._hosts and scope["http_version"] == "1.0"
            case [host]:
                return allowed_host(host, self._hosts)
        return False


def allowed_host(host: str, hosts: Sequence[str]) -> bool:
    """True if the value of a Host header is well formed and, where there are `hosts`, one of them."""
    if len(host) > MAX_HOST or not (parts := _HOST.fullmatch(host)):
        return False
    name = parts[1].lower().rstrip(".")
    return not hosts or any(name == one or (one[:2] == "*." and name.endswith(one[1:])) for one in hosts)


def same_site(headers: Headers, origins: Sequence[str]) -> bool:
    """False for what a browser sends on behalf of a page of another origin that is not among `origins`.

    As Go's net/http CrossOriginProtection: `Sec-Fetch-Site` decides where the browser sends it, else `Origin`
    against `Host`. A program sends neither.
    """
    sites, found = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if len(sites) > 1 or len(found) > 1:
        return False
    origin = found[0] if found else None
    if origin is not None and origin in origins:
        return True
    if sites:
        return sites[0] in ("same-origin", "none")
    of_page = _ORIGIN.fullmatch(origin or "")
    return origin is None or (of_page is not None and of_page[1].lower() == headers.get("host", "").lower())


def hosts_of(listens_on: str, named: Sequence[str]) -> tuple[str, ...]:
    """`named`, or, where none is named and the process listens on loopback only, the names of loopback."""
    if named or not _is_loopback(listens_on):
        return tuple(name.lower() for name in named)
    return (*LOOPBACK, listens_on.lower())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
