"""The paths and statuses of Eco²'s predecessor, for its clients and load scripts; only with `ECO2_COMPAT=1`.

It wraps the application and changes nothing in it: a request for an old path goes to the present one, and
a new scan is answered with 200 in place of 202. What it does not imitate: docs/http.md.
"""

import re
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = r"(?P<prefix>(?:/api/v1)?)"
_STREAM = re.compile(_PREFIX + r"/stream")
_RESULT = re.compile(_PREFIX + r"/scan/result/(?P<job>[^/]+)")
_SCAN = re.compile(_PREFIX + r"/scan")
_PROBES = {"/health": "/healthz", "/ready": "/readyz"}


def present_path(path: str, query: bytes) -> str:
    """The path that serves what `path` served in the predecessor; `path` itself if it is none of those.

    `/stream?job_id=X` → `/scan/X/events`, `/scan/result/X` → `/scan/X/result`, `/health`, `/ready`.
    """
    if (found := _STREAM.fullmatch(path)) and (jobs := parse_qs(query.decode("latin-1")).get("job_id")):
        return f"{found['prefix']}/scan/{jobs[-1]}/events"
    if found := _RESULT.fullmatch(path):
        return f"{found['prefix']}/scan/{found['job']}/result"
    return _PROBES.get(path, path)


class Compat:
    """An application that also answers as the predecessor did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = present_path(scope["path"], scope["query_string"])
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        submits = scope["method"] == "POST" and _SCAN.fullmatch(path) is not None

        async def answer(message: Message) -> None:
            if submits and message["type"] == "http.response.start" and message["status"] == 202:
                message = {**message, "status": 200}
            await send(message)

        await self._app(scope, receive, answer)
