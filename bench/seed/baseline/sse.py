"""HTTP in front of the chain: accepts a photo, starts the scan, and shows Celery's events as server-sent
ones.

A thread receives the events and hands them to the loop. `task-sent`, which Celery sends when the chain was
published, is the first event of each scan. Prints its address on standard output.

    python -m bench.seed.baseline.sse
"""

import asyncio
import json
import socket
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvloop
from kombu import Connection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from bench.seed.baseline.app import EVENT, app, publish
from eco2.pipeline import Form, Upload
from eco2.stages.request import parse


@dataclass
class Scan:
    """The received frames of one scan, in order. `more`: set whenever one arrives."""

    frames: list[bytes] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class Events:
    """Celery's events by scan. Events of scans without followers are dropped."""

    def __init__(self) -> None:
        self._scans = defaultdict[str, Scan](Scan)

    def open(self, job: str) -> None:
        self._scans[job] = Scan()

    def receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receives events in a separate thread, until the process ends."""
        with app.connection_for_read() as connection:
            self._capture(connection, loop)

    def _capture(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        handlers = {
            "task-sent": lambda event: loop.call_soon_threadsafe(self._sent, event),
            EVENT: lambda event: loop.call_soon_threadsafe(self._stage, event),
        }
        app.events.Receiver(connection, handlers=handlers).capture(limit=None, timeout=None, wakeup=False)

    def _sent(self, event: Mapping[str, Any]) -> None:
        self._add(event["uuid"], "queued", {"stage": "queued", "status": "completed"})

    def _stage(self, event: Mapping[str, Any]) -> None:
        data = {key: event[key] for key in ("stage", "status", "result", "text") if key in event}
        self._add(event["job"], event["stage"], data)

    def _add(self, job: str, name: str, data: Mapping[str, Any]) -> None:
        if (scan := self._scans.get(job)) is None:
            return
        text = json.dumps({"job_id": job, **data}, ensure_ascii=False)
        scan.frames.append(f"event: {name}\ndata: {text}\n\n".encode())
        scan.ended = scan.ended or name == "done"
        scan.more.set()

    async def follow(self, job: str) -> AsyncIterator[bytes]:
        """Yields all frames of the scan, from its first on, up to its end."""
        scan, shown = self._scans[job], 0
        try:
            while True:
                scan.more.clear()
                if fresh := scan.frames[shown:]:
                    shown += len(fresh)
                    yield b"".join(fresh)
                if scan.ended and shown == len(scan.frames):
                    return
                if shown == len(scan.frames):
                    await scan.more.wait()
        finally:
            self._scans.pop(job, None)


events = Events()


async def submit(request: Request) -> Response:
    """Answers 202 with the job's id, after the broker has confirmed the first task."""
    async with request.form() as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        files = {
            name: Upload(value.filename or "", value.content_type or "", await value.read())
            for name, value in form.items()
            if isinstance(value, UploadFile)
        }
    scan = await parse(Form(fields, files))
    job = str(uuid.uuid4())
    events.open(job)
    await run_in_threadpool(publish, job, scan.model_dump())
    return JSONResponse({"job_id": job, "status": "queued"}, status_code=202)


async def follow(request: Request) -> Response:
    return StreamingResponse(events.follow(request.path_params["job"]), media_type="text/event-stream")


async def ready(_: Request) -> Response:
    """Answers 200 if a worker answers."""
    answers = await run_in_threadpool(app.control.ping, timeout=1.0)
    return JSONResponse({"workers": len(answers)}, status_code=200 if answers else 503)


def main() -> None:
    app.conf.task_send_sent_event = True
    routes = [
        Route("/scan", submit, methods=["POST"]),
        Route("/scan/{job}/events", follow),
        Route("/readyz", ready),
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"listening on http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        uvloop.run(_serve(Starlette(routes=routes), listener))


async def _serve(site: Starlette, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=events.receive, args=(loop,), daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(site, access_log=False, log_level="warning"))
    await server.serve([listener])


if __name__ == "__main__":
    main()
