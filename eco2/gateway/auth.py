"""Decides which requests are served, and for whom: by host, by the page that sends them, by owner.

Guarantees: a page of a site that is not allowed cannot make a browser submit a job (CSRF) or, by a DNS name
that the site controls, reach a gateway on the user's machine (DNS rebinding). With authentication, a trusted
proxy in front sets `X-User-ID`, and a request without it, or with two (the client's own beside the proxy's),
is refused; without authentication the header is ignored.
"""

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eco2.gateway.config import Auth
from eco2.gateway.problem import Unauthorized, problem

OWNER_HEADER = "X-User-ID"
LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "[::1]")
"""Names of a machine for itself. Only these cannot be made to resolve to it by another party."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
PROBES = ("/healthz", "/readyz")
"""Paths that load balancers request by address, whatever the hosts are; they reveal nothing."""
MAX_HOST = 300

_OWNER = re.compile(r"[\x21-\x7e]{1,255}")
_ORIGIN = re.compile(r"https?://([^/?#@,\s]+)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")


class Guard:
    """Refuses requests for other hosts (400) and writes by pages of other sites (403).

    `hosts`: exact names, or `*.example.org`; none: any. `origins`: those that CORS allows.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            match headers.getlist("host"):
                case []:
                    known = not self._hosts and scope["http_version"] == "1.0"
                case [host]:
                    known = allowed_host(host, self._hosts)
                case _:
                    known = False
            if not known and scope["path"] not in PROBES:
                detail = "this gateway does not serve that host: its operator lists hosts in ECO2_HOSTS"
                app = problem(400, "INVALID_HOST", detail)
            elif scope["method"] not in SAFE_METHODS and not same_site(headers, self._origins):
                detail = "a page of another site may not send this: ECO2_CORS_ORIGINS lists those that may"
                app = problem(403, "CROSS_SITE", detail)
        await app(scope, receive, send)


def allowed_host(host: str, hosts: Sequence[str]) -> bool:
    """Returns True if a Host header is well formed and names one of `hosts`, where there are any."""
    if len(host) > MAX_HOST or not (parts := _HOST.fullmatch(host)):
        return False
    name = parts[1].lower().rstrip(".")
    return not hosts or any(name == one or (one[:2] == "*." and name.endswith(one[1:])) for one in hosts)


def same_site(headers: Headers, origins: Sequence[str]) -> bool:
    """Returns False if a browser sends this for a page of another origin that is not among `origins`.

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
    page = _ORIGIN.fullmatch(origin or "")
    return origin is None or (page is not None and page[1].lower() == headers.get("host", "").lower())


def hosts_of(address: str, named: Sequence[str]) -> tuple[str, ...]:
    """Returns `named`, or the names of loopback if there are none and the process listens there only."""
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = address == "localhost"
    if named or not loopback:
        return tuple(name.lower() for name in named)
    return (*LOOPBACK, address.lower())


def owner_of(request: Request, auth: Auth) -> str | None:
    """Returns the owner whose jobs the request may create and read; None: of all. Raises `Unauthorized`."""
    if auth == "none":
        return None
    match request.headers.getlist(OWNER_HEADER):
        case [owner] if _OWNER.fullmatch(owner):
            return owner
    raise Unauthorized
