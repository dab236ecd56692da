"""The client: submit a job over HTTP, follow its events across dropped connections, fetch its result.

What it guarantees: a submission that is sent again, because no answer came, is one job (every submission has
an idempotency key); each durable event is seen once, in order, whichever replicas served the pieces. Failures
that may pass are tried again with growing, random pauses for `patience` seconds, then raised.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Self

import httpx
import msgspec

from eco2.errors import PermanentError, RetryableError
from eco2.job import JSON
from eco2.pipeline import Upload

SILENCE = 45.0
"""Seconds without a byte after which a stream counts as dropped: three of the gateway's comments."""
LONGEST_PAUSE = 10.0


class Refused(PermanentError):
    """The gateway will not do it (4xx): `status` is HTTP's, `code` the gateway's; the message says why."""

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message, code)
        self.status = status


class Unavailable(RetryableError):
    """The gateway did not answer, or cannot now. `retry_after`: seconds that it asked to wait, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFinished(RetryableError):
    """The job has not ended in the time that the caller gave it; ask again later."""


@dataclass(frozen=True, slots=True)
class ClientJob:
    """An accepted job, good for any client of the same gateways. URLs are relative to the origin."""

    id: str
    stream_url: str
    result_url: str

    @classmethod
    def at(cls, pipeline: str, job_id: str, prefix: str = "") -> Self:
        """The job of a known id. `prefix`: "" or "/api/v1"."""
        root = f"{prefix}/{pipeline}/{job_id}"
        return cls(job_id, f"{root}/events", f"{root}/result")


class ClientEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a job. Durable ones have `id` and `seq`; live text (`name` ends in `.delta`) has `text`.

    `name`: the stage, or `queued`, `done`. `progress`: per cent. `ts`: Unix seconds. `result`: the stage's
    output or error, at `done` the whole result.
    """

    name: str
    id: str | None = None
    seq: int | None = None
    status: Literal["started", "completed", "failed", "cancelled"] | None = None
    ts: float | None = None
    progress: int | None = None
    result: JSON | None = None
    text: str | None = None


class Client:
    """A client of the gateways behind `base_url` (with or without a path such as `/api/v1`).

    `connections`: how many requests and streams it may have open at once. `patience`: seconds without any
    answer after which it gives up.
    """

    def __init__(self, base_url: str, *, connections: int = 100, patience: float = 60.0) -> None:
        self._base = httpx.URL(base_url.rstrip("/"))
        self._patience = patience
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=min(connections, 20)),
            timeout=httpx.Timeout(30.0, connect=5.0, pool=patience),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def submit(
        self,
        pipeline: str,
        input: Mapping[str, object],
        key: str | None = None,
        files: Mapping[str, Upload] | None = None,
    ) -> ClientJob:
        """The accepted job. `key`: requests with the same key are one job (default: a new key per call).

        With `files` it is sent as a multipart form. Raises `Refused`, `Unavailable`.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        url = f"{self._base}/{pipeline}"
        if files:
            parts = {name: (file.filename, file.data, file.content_type) for name, file in files.items()}
            request = self._http.build_request("POST", url, headers=headers, data=dict(input), files=parts)
        else:
            request = self._http.build_request("POST", url, headers=headers, json=dict(input))
        answer = msgspec.json.decode(await self._answer(request), type=_Accepted)
        return ClientJob(answer.job_id, answer.stream_url, answer.result_url)

    async def events(
        self, job: ClientJob, last_event_id: str | None = None
    ) -> AsyncGenerator[ClientEvent, None]:
        """The job's events up to `done`; with `last_event_id` those behind the event with that id.

        Live text may repeat after a dropped connection. Raises `Refused` (no such job), `Unavailable`.
        """
        seq, failures, heard = -1, 0, time.monotonic()
        while True:
            try:
                async with aclosing(self._connection(job, last_event_id)) as connection:
                    async for event in connection:
                        heard = time.monotonic()
                        if event is None:
                            continue
                        failures = 0
                        if event.seq is None:
                            yield event
                        elif event.seq > seq:
                            seq, last_event_id = event.seq, event.id
                            yield event
                        if event.name == "done":
                            return
                problem = Unavailable("the stream ended before the job did")
            except _Complete:
                return
            except Unavailable as error:
                problem = error
            failures += 1
            await self._pause(failures, heard, problem)

    async def result(self, job: ClientJob, timeout: float = 180.0) -> JSON:
        """The job's result, once it has ended. Raises `NotFinished` after `timeout` seconds, `Refused`."""
        url = self._base.join(job.result_url)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    response = await self._send(self._http.build_request("GET", url))
                    if response.status_code == 200:
                        return msgspec.json.decode(response.content, type=JSON)
                    await asyncio.sleep(_retry_after(response) or 1.0)
        except TimeoutError as error:
            raise NotFinished(f"job {job.id} has not ended within {timeout:g} s; ask again later") from error

    async def _answer(self, request: httpx.Request) -> bytes:
        return (await self._send(request)).content

    async def _send(self, request: httpx.Request) -> httpx.Response:
        failures, began = 0, time.monotonic()
        while True:
            try:
                response = await self._http.send(request)
                return _checked(response)
            except httpx.HTTPError as error:
                problem = _dropped(error)
            except Unavailable as error:
                problem = error
            failures += 1
            await self._pause(failures, began, problem)

    async def _pause(self, failures: int, since: float, problem: Unavailable) -> None:
        if time.monotonic() - since > self._patience:
            raise problem
        await asyncio.sleep(pause(failures, problem.retry_after, random.random()))

    async def _connection(
        self, job: ClientJob, last_event_id: str | None
    ) -> AsyncGenerator[ClientEvent | None, None]:
        """The events of one connection; None for each sign of life without one."""
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": last_event_id} if last_event_id else {}
        )
        url = self._base.join(job.stream_url)
        timeout = httpx.Timeout(SILENCE, connect=5.0, pool=self._patience)
        lines = EventLines()
        try:
            async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
                if response.status_code == 204:
                    raise _Complete
                if response.status_code != 200:
                    await response.aread()
                _checked(response)
                async for chunk in response.aiter_bytes():
                    yield None
                    for event in lines.feed(chunk):
                        yield event
        except httpx.HTTPError as error:
            raise _dropped(error) from error


class EventLines:
    """Reads server-sent events from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, chunk: bytes) -> list[ClientEvent]:
        """The events that `chunk` completed."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = (self._line(line.removesuffix(b"\r").decode()) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: str) -> ClientEvent | None:
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        data = msgspec.json.decode(fields["data"], type=JSON)
        return msgspec.convert(
            {**data, "name": fields.get("event", "message"), "id": fields.get("id")}, ClientEvent
        )


async def submit(
    pipeline: str, input: Mapping[str, object], *, base_url: str, key: str | None = None
) -> ClientJob:
    """Submits one job; who has many opens a `Client`. Raises `Refused`, `Unavailable`."""
    async with Client(base_url) as client:
        return await client.submit(pipeline, input, key)


def pause(failures: int, asked: float | None, chance: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (from 1), at least what the gateway `asked`.

    `chance` (0..1) spreads the clients of a gateway that went, so that they do not return all at once.
    """
    longest: float = min(LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 10))
    return max(asked or 0.0, longest * (0.5 + chance / 2))


class _Accepted(msgspec.Struct):
    job_id: str
    stream_url: str
    result_url: str


class _Complete(Exception):
    """204: the client has seen all."""


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""


def _checked(response: httpx.Response) -> httpx.Response:
    status = response.status_code
    if status < 300:
        return response
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:  # a proxy's page
        problem = _Problem(detail=f"HTTP {status} from {response.url.host}")
    if status == 429 or status >= 500:
        raise Unavailable(problem.detail, _retry_after(response))
    raise Refused(problem.detail, problem.code, status)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _dropped(error: httpx.HTTPError) -> Unavailable:
    url = error.request.url.copy_with(raw_path=b"/")
    reason = str(error) or type(error).__name__
    return Unavailable(f"no answer from the gateway at {url} ({reason}): is it running?")
