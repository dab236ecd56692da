"""A scan from the command line: at a gateway that runs somewhere, or at one that this process starts."""

import asyncio
import json
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.markup import escape

from eco2 import assembly, service
from eco2.client import Client
from eco2.job import JSON
from eco2.models import model_names
from eco2.pipeline import Upload
from eco2.settings import Settings
from eco2.terminal import follow, visible

PATIENCE = 10.0
"""Seconds without an answer after which a scan from the command line gives up."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture file: its name and its bytes."""

    name: str
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path.name, path.read_bytes())


async def scan_photo(
    url: str, photo: Photo, question: str | None, model: str | None, *, as_json: bool = False
) -> str:
    """Scans a photo at the gateway `url`, shows it, and returns the final status."""
    console = Console(stderr=as_json)
    async with Client(url, patience=PATIENCE) as client:
        result = await _scan(client, photo, console, question, model)
    if as_json:
        print(visible(json.dumps(result, ensure_ascii=False, indent=2)))  # noqa: T201  # the command's output
    return str(result.get("status"))


async def demo(settings: Settings, photo: Photo, once: bool) -> bool:
    """Serves here, scans a photo, and serves on unless `once`. True if the scan completed."""
    console = Console()
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    listening = assembly.Listening(gateway=port.set_result)
    async with (
        assembly.process(settings, "serve", stop, listening) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(service.run(components, stop))
        try:
            url = f"http://{settings.host}:{await port}"
            completed = await _first_scan(url, photo, settings, console)
            if not once:
                _invite(console, url)
                await stop.wait()
        finally:
            stop.set()
    return completed


async def _first_scan(url: str, photo: Photo, settings: Settings, console: Console) -> bool:
    broker = "RabbitMQ" if settings.amqp_url else "the broker in memory"
    model = settings.default_model or ", ".join(model_names(settings))
    console.print(f"[bold]Eco²[/] serves at {url} on {broker}, with the model {model}", highlight=False)
    async with Client(url, patience=PATIENCE) as client:
        result = await _scan(client, photo, console, None, None)
    return result.get("status") == "completed"


async def _scan(
    client: Client, photo: Photo, console: Console, question: str | None, model: str | None
) -> JSON:
    fields = {"user_input": question, "model": model}
    content_type = guess_type(photo.name)[0] or "application/octet-stream"
    files = {"image": Upload(photo.name, content_type, photo.data)}
    console.print(
        f"Scanning {visible(escape(photo.name))} ({len(photo.data) / 1000:.0f} kB)", highlight=False
    )
    given = {field: value for field, value in fields.items() if value is not None}
    job = await client.submit("scan", given, files=files)
    return await follow(client, job, console)


def _invite(console: Console, url: str) -> None:
    console.print(
        f"\nStill serving. Try in another terminal:\n"
        f"  eco2 scan your-photo.jpg --url {url}\n"
        f"  curl -F image=@your-photo.jpg {url}/scan\n"
        f"Ctrl-C stops.",
        highlight=False,
    )
