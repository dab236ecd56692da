"""A real Chromium without a window, and the web server of the page that it opens.

No driver is in between: the page reports what it sees to the server that it came from. That server's origin
is another one than the gateway's, so every request to the gateway is subject to CORS.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.clients.report import Report, read

HERE = Path(__file__).parent
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Pages:
    """The page's web server. `origin`: to be allowed by the gateway; `reports`: what pages said, in order."""

    origin: str
    reports: asyncio.Queue[Report] = field(default_factory=asyncio.Queue)


@asynccontextmanager
async def pages(photo: bytes, scripts: Mapping[str, str] | None = None) -> AsyncIterator[Pages]:
    """Serves `page.html`, `scan.mjs`, `/photo.jpg`, and the modules of `scripts` by name."""
    files = {name: (HERE / name).read_text() for name in ("page.html", "scan.mjs")} | dict(scripts or {})
    listener = socket.create_server(("127.0.0.1", 0))
    site = Pages(f"http://127.0.0.1:{listener.getsockname()[1]}")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            return Response(status_code=404)
        return Response(files[name], media_type="text/html" if name.endswith("html") else "text/javascript")

    async def picture(_: Request) -> Response:
        return Response(photo, media_type="image/jpeg")

    async def report(request: Request) -> Response:
        site.reports.put_nowait(read(await request.body()))
        return Response(status_code=204)

    routes = [
        Route("/photo.jpg", picture),
        Route("/report", report, methods=["POST"]),
        Route("/{name:path}", file),
    ]
    # Not the gateway's server: its security headers forbid the scripts of a page.
    options = uvicorn.Config(Starlette(routes=routes), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(options)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listener]))
        try:
            yield site
        finally:
            server.should_exit = True


@asynccontextmanager
async def chromium(site: Pages, base: str, module: str = "./scan.mjs") -> AsyncIterator[None]:
    """Opens the page in a browser of its own, which is ended with the block."""
    url = f"{site.origin}/page.html?{urlencode({'base': base, 'module': module})}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            "chromium",
            *FLAGS,
            f"--user-data-dir={profile}",
            url,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
