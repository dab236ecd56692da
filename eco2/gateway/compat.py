"""The paths and statuses of Eco²'s predecessor, for its clients and load scripts; only with `ECO2_COMPAT=1`.

The predecessor had one pipeline; here it is the first of `ECO2_PIPELINES`. The application itself is not
changed: a request for an old path goes to the present one, and a new job is answered with 200 in place of
202. Paths that are not imitated: docs/http.md.
"""

import re
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = r"(?P<prefix>(?:/api/v1)?)"
_STREAM = re.compile(_PREFIX + r"/stream")
_RESULT = re.compile(_PREFIX + r"/(?P<pipeline>[^/]+)/result/(?P<job>[^/]+)")
_PROBES = {"/health": "/healthz", "/ready": "/readyz"}


def present_path(path: str, query: bytes, pipeline: str) -> str:
    """Returns the present path for one of the predecessor's; `path` itself if it is none of those.

    `/stream?job_id=X` → `/<pipeline>/X/events`, `/<pipeline>/result/X` → `/<pipeline>/X/result`, `/health`,
    `/ready`.
    """
    if (found := _STREAM.fullmatch(path)) and (jobs := parse_qs(query.decode("latin-1")).get("job_id")):
        return f"{found['prefix']}/{pipeline}/{jobs[-1]}/events"
    if (found := _RESULT.fullmatch(path)) and found["pipeline"] == pipeline:
        return f"{found['prefix']}/{pipeline}/{found['job']}/result"
    return _PROBES.get(path, path)


class Compat:
    """An application that also answers as the predecessor did."""

    def __init__(self, app: ASGIApp, pipeline: str) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = present_path(scope["path"], scope["query_string"], self._pipeline)
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        submits = scope["method"] == "POST" and path in (f"/{self._pipeline}", f"/api/v1/{self._pipeline}")

        async def answer(message: Message) -> None:
            if submits and message["type"] == "http.response.start" and message["status"] == 202:
                message = {**message, "status": 200}
            await send(message)

        await self._app(scope, receive, answer)
