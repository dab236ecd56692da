"""A real Chromium without a window, and the web server of the page that it opens.

No driver is in between: the page reports what it sees to the server that it came from. That server's origin
is another one than the gateway's, so every request to the gateway is subject to CORS.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eco2.gateway.server import serve
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
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    site = Pages("")

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
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(Starlette(routes=routes), "127.0.0.1", 0, stop, port.set_result))
        site.origin = f"http://127.0.0.1:{await port}"
        try:
            yield site
        finally:
            stop.set()


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
