"""Clients that come, stay and come back: submit with a key until there is an answer, follow across gateways.

They take nothing on trust: every durable event that any connection brings is kept, in the order of arrival.
"""

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
from PIL import Image

from eco2.eventstream import EventLines
from tests.fault.evidence import JSON, Answer, Sight, Trace

PAUSE = 0.5
"""Seconds, spread by half, before a client tries again, at the next gateway."""
SILENCE = 45.0
"""Seconds without a byte after which a client takes its stream for lost: three comments of the gateway."""


def photo() -> str:
    """A small picture as a data URL."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (40, 120, 200)).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Follower:
    """One client of one job. `gateways`: URLs, asked in turn from `first` on."""

    http: httpx.AsyncClient
    gateways: Sequence[str]
    job: str
    first: int = 0
    pipeline: str = "scan"
    late: bool = False
    sights: list[Sight] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    reconnects: int = 0
    ended: bool = False

    @property
    def trace(self) -> Trace:
        return Trace(self.job, tuple(self.sights), self.late, tuple(self.opened), tuple(self.refusals))

    async def follow(self) -> None:
        """Reads until `done`, whatever becomes of the gateways."""
        at = self.first
        while not self.ended:
            with suppress(httpx.HTTPError):
                await self._connection(self.gateways[at % len(self.gateways)])
            if not self.ended:
                at += 1
                self.reconnects += 1
                await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))

    async def _connection(self, gateway: str) -> None:
        headers = {"Last-Event-ID": self.sights[-1].id} if self.sights else {}
        lines = EventLines()
        url = f"{gateway}/{self.pipeline}/{self.job}/events"
        async with self.http.stream("GET", url, headers=headers) as response:
            if response.status_code == 204:
                self.opened.append(time.time())
                self.ended = True
                return
            if response.status_code != 200:
                self.refusals.append(response.status_code)
                return
            self.opened.append(time.time())
            async for chunk in response.aiter_bytes():
                for event in lines.feed(chunk):
                    if event.seq is not None and event.id is not None:
                        self.sights.append(Sight(event.seq, event.id, time.time()))
                    if event.name == "done":
                        self.ended = True
                        return


class Submitter:
    """Sends requests with keys, to one gateway after the other, and keeps every answer."""

    def __init__(self, http: httpx.AsyncClient, gateways: Sequence[str]) -> None:
        self._http = http
        self._gateways = gateways
        self._photo = photo()
        self.answers: list[Answer] = []

    async def until_accepted(
        self, key: str, first: int = 0, pipeline: str = "scan", body: Mapping[str, object] | None = None
    ) -> str:
        """The id, once any gateway has accepted it; the same request and key each time."""
        at = first
        while True:
            answer = await self.once(key, self._gateways[at % len(self._gateways)], pipeline, body)
            if answer.job is not None:
                return answer.job
            at += 1
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))

    async def once(
        self, key: str, gateway: str, pipeline: str = "scan", body: Mapping[str, object] | None = None
    ) -> Answer:
        """One request and what came of it."""
        sent, began = time.time(), time.monotonic()
        status, job = 0, None
        try:
            response = await self._http.post(
                f"{gateway}/{pipeline}",
                json={"image_url": self._photo} if body is None else body,
                headers={"Idempotency-Key": key},
            )
            status = response.status_code
            if status in (200, 202):
                job = response.json()["job_id"]
        except httpx.HTTPError:
            pass
        answer = Answer(key, sent, time.monotonic() - began, status, job)
        self.answers.append(answer)
        return answer

    async def batch(
        self,
        key: str,
        count: int,
        gateway: str,
        pipeline: str,
        names: Sequence[str] | None = None,
        pause: asyncio.Event | None = None,
    ) -> list[Answer]:
        """Sends so many lines once; what was answered until the end, or the connection's loss.

        `names`: the lines' own keys; else they have that of the request. `pause`: the second half is sent
        when it is set.
        """
        keys = names or [f"{key}/{number}" for number in range(1, count + 1)]

        async def body() -> AsyncIterator[bytes]:
            for number in range(count):
                if pause is not None and number == count // 2:
                    await pause.wait()
                own = {} if names is None else {"idempotency_key": names[number]}
                yield json.dumps({"text": f"{key} {number}", **own}).encode() + b"\n"

        sent, began, lines = time.time(), time.monotonic(), list[str]()
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
        with suppress(httpx.HTTPError):
            url = f"{gateway}/{pipeline}/batch"
            async with self._http.stream("POST", url, content=body(), headers=headers) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
        answers = []
        for name, line in zip(keys, lines, strict=False):
            answer = json.loads(line)
            seconds = time.monotonic() - began
            answers.append(Answer(name, sent, seconds, answer["http_status"], answer.get("job_id")))
        self.answers += answers
        return answers


async def cancel(
    http: httpx.AsyncClient, gateways: Sequence[str], job: str, pipeline: str, first: int = 0
) -> tuple[int, JSON]:
    """Cancels the job, at one gateway after the other until there is an answer: its status and body."""
    at = first
    while True:
        with suppress(httpx.HTTPError):
            answer = await http.delete(f"{gateways[at % len(gateways)]}/{pipeline}/{job}")
            if answer.status_code != 503:
                return answer.status_code, answer.json()
        at += 1
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))


async def result(http: httpx.AsyncClient, gateway: str, job: str, pipeline: str) -> tuple[int, JSON]:
    """Status and body of the job's result at one gateway."""
    response = await http.get(f"{gateway}/{pipeline}/{job}/result")
    return response.status_code, response.json()


def open_http() -> httpx.AsyncClient:
    """A client for any number of streams at once."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    timeout = httpx.Timeout(SILENCE, connect=5.0)
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
