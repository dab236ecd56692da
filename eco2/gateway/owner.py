"""Whose request it is. With `header` a trusted proxy in front has checked that and says so in `X-User-ID`.

What it guarantees: where nobody asks, the header counts for nothing; where it counts, a request without it,
or with two of them (the client's own beside the proxy's), is nobody's.
"""

import re

from starlette.requests import Request

from eco2.gateway.config import Auth
from eco2.gateway.problem import Unauthorized

OWNER_HEADER = "X-User-ID"
_OWNER = re.compile(r"[\x21-\x7e]{1,255}")


def submitter(request: Request, auth: Auth) -> str:
    """Who owns what this request makes; "" where nobody asks. Raises `Unauthorized`."""
    return reader(request, auth) or ""


def reader(request: Request, auth: Auth) -> str | None:
    """Whose jobs this request may read; None: everyone's. Raises `Unauthorized`."""
    if auth == "none":
        return None
    match request.headers.getlist(OWNER_HEADER):
        case [owner] if _OWNER.fullmatch(owner):
            return owner
    raise Unauthorized
