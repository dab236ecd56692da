"""The client: submit a job over HTTP, follow its events across dropped connections, fetch its result.

What it guarantees: a submission that is sent again, because no answer came, is one job (every submission has
an idempotency key); each durable event is seen once, in order, whichever replicas served the pieces. Failures
that may pass are tried again with growing, random pauses for `patience` seconds, then raised. Everything that
it raises is an `Eco2Error`. How to use it: docs/clients.md.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path
from typing import Self, TypeVar

import httpx
import msgspec

from eco2.errors import Eco2Error, PermanentError, RetryableError, StartError
from eco2.eventstream import ClientEvent, EventLines, LiveTexts
from eco2.job import JSON
from eco2.pipeline import Upload

__all__ = [
    "Client",
    "ClientEvent",
    "ClientJob",
    "Eco2Error",
    "NotFinished",
    "Refused",
    "Unavailable",
    "Upload",
    "submit",
]

Message = TypeVar("Message")

SILENCE = 45.0
"""Seconds without a byte after which a stream counts as dropped: three of the gateway's comments."""
LONGEST_PAUSE = 10.0


class Refused(PermanentError):
    """The gateway will not do it (4xx): `status` is HTTP's, `code` the gateway's; the message says why.

    Also for an answer that is no gateway's: then the code is `NO_GATEWAY`.
    """

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


class Client:
    """A client of the gateways behind `base_url` (with or without a path such as `/api/v1`).

    `connections`: how many requests and streams it may have open at once. `patience`: seconds without any
    answer after which it gives up. `headers`: sent with every request, such as the one that says who asks.
    Use it in `async with`, or call `aclose` at the end. Raises `StartError` for what is no base URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connections: int = 100,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._base = _base(base_url)
        self._patience = patience
        self._http = httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=min(connections, 20)),
            timeout=httpx.Timeout(30.0, connect=5.0, pool=patience),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; requests and streams that are under way end with an error."""
        await self._http.aclose()

    async def submit(
        self,
        pipeline: str,
        input: Mapping[str, object],
        key: str | None = None,
        files: Mapping[str, Upload | Path] | None = None,
    ) -> ClientJob:
        """The accepted job. `key`: requests with the same key are one job (default: a new key per call).

        With `files` it is sent as a multipart form; of a path the file is read. Raises `Refused`,
        `Unavailable`, and `OSError` for a file that cannot be read.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        url = f"{self._base}/{pipeline}"
        if files:
            uploads = {name: await asyncio.to_thread(_upload, file) for name, file in files.items()}
            parts = {name: (file.filename, file.data, file.content_type) for name, file in uploads.items()}
            request = self._http.build_request("POST", url, headers=headers, data=dict(input), files=parts)
        else:
            request = self._http.build_request("POST", url, headers=headers, json=dict(input))
        answer = _decoded(await self._send(request), _Accepted)
        return ClientJob(answer.job_id, answer.stream_url, answer.result_url)

    async def events(
        self, job: ClientJob, last_event_id: str | None = None
    ) -> AsyncGenerator[ClientEvent, None]:
        """The job's events up to `done`; with `last_event_id` those behind the event with that id.

        Who leaves the loop before `done` should close it (`contextlib.aclosing`), or the connection stays
        open. Raises `Refused` (no such job), `Unavailable`.
        """
        seq, failures = -1, 0
        # Since when no connection has brought a byte; None after one that has. A stream may be idle, and its
        # reader busy, for longer than anybody is patient.
        silent: float | None = time.monotonic()
        live = LiveTexts()
        while True:
            live.connected()
            try:
                async with aclosing(self._connection(job, last_event_id)) as connection:
                    async for event in connection:
                        silent = None
                        if event is None:
                            continue
                        failures = 0
                        if event.seq is None:
                            if news := live.news(event):
                                yield news
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
            silent = time.monotonic() if silent is None else silent
            await self._pause(failures, silent, problem)

    async def result(self, job: ClientJob, timeout: float = 180.0) -> JSON:
        """The job's result, once it has ended. Raises `NotFinished` after `timeout` seconds, `Refused`."""
        url = self._base.join(job.result_url)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    response = await self._send(self._http.build_request("GET", url))
                    if response.status_code == 200:
                        return _decoded(response, JSON)
                    await asyncio.sleep(_retry_after(response) or 1.0)
        except TimeoutError as error:
            raise NotFinished(f"job {job.id} has not ended within {timeout:g} s; ask again later") from error

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
        seconds = pause(failures, problem.retry_after, random.random())
        if time.monotonic() + seconds - since > self._patience:
            raise problem
        await asyncio.sleep(seconds)

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
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise _no_gateway(response)
                async for chunk in response.aiter_bytes():
                    yield None
                    for event in lines.feed(chunk):
                        yield event
        except httpx.HTTPError as error:
            raise _dropped(error) from error


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


def _base(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise StartError(f"{url!r} is no URL of a gateway ({error}); write http://host:8000") from error
    if base.scheme not in ("http", "https") or not base.host:
        raise StartError(f"{url!r} is no URL of a gateway; write http://host:8000")
    return base


def _upload(file: Upload | Path) -> Upload:
    """Blocks while it reads."""
    if isinstance(file, Upload):
        return file
    return Upload(file.name, guess_type(file.name)[0] or "application/octet-stream", file.read_bytes())


def _decoded(response: httpx.Response, kind: type[Message]) -> Message:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_gateway(response) from error


def _no_gateway(response: httpx.Response) -> Refused:
    url = response.url.copy_with(raw_path=b"/")
    message = f"what answered at {url} is no Eco² gateway, or a proxy answered for it: check the base URL"
    return Refused(message, "NO_GATEWAY", response.status_code)


def _checked(response: httpx.Response) -> httpx.Response:
    status = response.status_code
    if status < 300:
        return response
    if place := response.headers.get("Location"):
        raise Refused(f"the gateway has moved to {place}: use that as the base URL", "MOVED", status)
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
