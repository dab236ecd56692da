"""The client: submit a job over HTTP, follow its events across dropped connections, fetch its result.

Guarantees: a submission that is sent again, because no answer came, is one job (every submission has an
idempotency key); each durable event is seen once, in order, whichever replicas serve it. Failures that may
pass are retried with growing, random pauses for `patience` seconds, then raised. All errors are `Eco2Error`s.
How to use it: docs/clients.md. For programs without an event loop: `eco2.client.sync`.
"""

import asyncio
import itertools
import json
import os
import random
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import httpx
import msgspec

from eco2.errors import ConfigurationError, Eco2Error, PermanentError, RetryableError
from eco2.eventstream import BrokenEvent, ClientEvent, EventLines, LiveTexts
from eco2.job import JSON, Priority
from eco2.pipeline import Upload
from eco2.retry import Backoff, seconds_asked

__all__ = [
    "Client",
    "ClientEvent",
    "ClientJob",
    "Eco2Error",
    "File",
    "NotFinished",
    "Refused",
    "Unavailable",
    "Upload",
    "submit",
]

Message = TypeVar("Message")

CLOSED = "this client was closed; open a new one"
CONNECT_TIMEOUT = 5.0
"""Seconds."""
STREAM_TIMEOUT = 45.0
"""Seconds without a byte after which a stream counts as dropped; gateways send comments far more often."""
RECONNECT = Backoff(0.1, 10.0)
MIN_OPEN = 5.0
"""Seconds that a connection without events must stay open to count as successful."""
RESULT_WAIT = 20.0
"""Seconds that the gateway is asked to wait for a job's end; proxies give up later than that."""
RESULTS_AT_ONCE = 20
"""Jobs that `results` waits for at the same time; gateways count each wait as a stream."""
BATCH_LINES = 1_000
"""Jobs of one request of `submit_many`: enough that requests cost little beside them."""
BATCH_BYTES = 1_000_000
"""Size of one request of `submit_many`, unless a single job is larger."""
MAX_WAIT = 86_400.0
"""Seconds; longer requests to wait come from a wrong clock or proxy."""

File = Upload | str | os.PathLike[str] | bytes | bytearray | BinaryIO
"""An upload: a path, bytes, a file that is open for reading bytes, or an `Upload`."""


class Refused(PermanentError):
    """The gateway refused the request (4xx). `status`: of HTTP; `code`: of the gateway.

    Also for a response that is not from a gateway: then the code is `NO_GATEWAY`.
    """

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message, code)
        self.status = status


class Unavailable(RetryableError):
    """The gateway is unavailable. `retry_after`: seconds that it asked to wait, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFinished(RetryableError):
    """The job has not ended within the caller's time-out; ask again later."""


@dataclass(frozen=True, slots=True)
class ClientJob:
    """An accepted job, for use with any client of the same gateways. URLs are relative to the origin."""

    id: str
    stream_url: str
    result_url: str

    @classmethod
    def at(cls, pipeline: str, job_id: str, prefix: str = "") -> Self:
        """Returns the job of a known id. `prefix`: "" or "/api/v1"."""
        root = f"{prefix}/{pipeline}/{job_id}"
        return cls(job_id, f"{root}/events", f"{root}/result")


class Client:
    """A client of the gateways behind `base_url` (with or without a path such as `/api/v1`).

    `connections`: maximum number of open requests and streams. `patience`: seconds without any answer after
    which it gives up. `headers`: sent with every request, for example to name the user. Use it in
    `async with`, or call `aclose` at the end. Raises `ConfigurationError` for an invalid base URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connections: int = 100,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._base = parse_base_url(base_url)
        self._patience = patience
        self._http = httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=min(connections, 20)),
            timeout=httpx.Timeout(30.0, connect=CONNECT_TIMEOUT, pool=patience),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; pending requests and streams end with an error."""
        await self._http.aclose()

    async def submit(
        self,
        pipeline: str,
        input: Mapping[str, object],
        key: str | None = None,
        files: Mapping[str, File] | None = None,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
        max_usd: float | None = None,
        priority: Priority | None = None,
    ) -> ClientJob:
        """Submits a job. `key`: requests with the same key are one job (default: a new key per call).

        `max_wait`: seconds after which the job ends as `EXPIRED` if its first call is not granted yet.
        `timeout`: seconds after its start at which it ends as `TIMEOUT`. `max_usd`: USD that its calls may
        cost, or it ends as `BUDGET_EXCEEDED`. None: what the pipeline allows.
        `priority`: None: `interactive`; a job of priority `batch` waits until no interactive one does.
        With `files` it sends a multipart form; files are read completely. Raises `Refused`, `Unavailable`,
        `OSError` for a file that cannot be read, `TypeError` for a value that is no file.
        """
        terms = encode_terms(max_wait, timeout, max_usd, priority)
        headers = {b"Idempotency-Key": (key or uuid.uuid4().hex).encode(), **terms}
        url = f"{self._base}/{pipeline}"
        if files:
            uploads = {name: await asyncio.to_thread(read_upload, name, file) for name, file in files.items()}
            parts = {name: (file.filename, file.data, file.content_type) for name, file in uploads.items()}
            request = self._http.build_request("POST", url, headers=headers, data=dict(input), files=parts)
        else:
            request = self._http.build_request("POST", url, headers=headers, json=dict(input))
        response = await self._send(request)
        return accepted_job(decode_response(response, _Accepted), response)

    async def submit_many(
        self,
        pipeline: str,
        inputs: Iterable[Mapping[str, object]],
        keys: Iterable[str] | None = None,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
        max_usd: float | None = None,
        priority: Priority | None = None,
    ) -> AsyncGenerator[ClientJob | Eco2Error, None]:
        """Submits a job per input; yields each as a `ClientJob`, or why it was not accepted, in order.

        `keys`: one per input, as in `submit`; `max_wait`, `timeout`, `max_usd`, `priority`: of each job, as
        there, but without one it is `batch`. Inputs are taken as they are needed, up to `BATCH_LINES` ahead.
        A job that got no answer, or one that may pass, is sent again with the same key for `patience`
        seconds; then its error is an `Unavailable`. Raises `Refused` and `Unavailable` where no job got an
        answer; nothing is known of those that were not yielded then: send them again with their keys.
        """
        terms = encode_terms(max_wait, timeout, max_usd, priority)
        for lines in split_batches(encode_lines(inputs, keys)):
            for answer in await self.submit_lines(pipeline, lines, terms):
                yield answer

    async def submit_lines(
        self, pipeline: str, lines: Sequence[bytes], terms: Mapping[bytes, bytes]
    ) -> list[ClientJob | Eco2Error]:
        """Submits one batch of `submit_many`, with one request unless jobs must be sent again."""
        url, headers = f"{self._base}/{pipeline}/batch", {b"Content-Type": b"application/x-ndjson", **terms}
        problem = Unavailable("the gateway left jobs without an answer; send them again with their keys")
        answers: list[ClientJob | Eco2Error] = [problem] * len(lines)
        failures, since = 0, time.monotonic()
        while missing := [at for at, answer in enumerate(answers) if isinstance(answer, Unavailable)]:
            content = b"".join(lines[at] for at in missing)
            request = self._http.build_request("POST", url, headers=headers, content=content)
            try:
                if failures:
                    await self._pause(failures, since, problem)
                response = await self._send(request)
            except Unavailable:
                if failures:  # what was answered before counts
                    break
                raise
            except Refused as error:
                if error.status != 413:
                    raise
                if len(lines) == 1:
                    return [error]
                half = len(lines) // 2  # the gateway takes less at once
                first = await self.submit_lines(pipeline, lines[:half], terms)
                return first + await self.submit_lines(pipeline, lines[half:], terms)
            failures += 1
            for at, answer in zip(missing, decode_answers(response), strict=False):
                answers[at] = answer
                if isinstance(answer, Unavailable):
                    problem = answer
                else:
                    failures, since = 1, time.monotonic()
        return answers

    async def events(
        self, job: ClientJob, last_event_id: str | None = None
    ) -> AsyncGenerator[ClientEvent, None]:
        """Yields the job's events up to `done`; with `last_event_id` only those after that event.

        Close the generator (`contextlib.aclosing`) if you leave the loop before `done`, or the connection
        stays open. Raises `Refused` (no such job), `Unavailable`.
        """
        position, failures = StreamPosition(last_event_id), 0
        since = time.monotonic()  # of the first failure after the last connection that worked
        while True:
            position.connected()
            broken = False
            try:
                async with aclosing(self._connection(job, position.last_event_id)) as connection:
                    async for event in connection:
                        if new := position.take_new(event):
                            yield new
                        if event is not None and event.name == "done":
                            return
                problem = Unavailable("the stream ended before the job did")
            except _Complete:
                return
            except BrokenEvent as error:
                broken, problem = True, Unavailable(f"{error}: is a proxy in between?")
            except Unavailable as error:
                problem = error
            # A stream may be idle, and its reader busy, for longer than the patience; but a stream that is
            # always closed at once, or always sends the same broken event, must not be retried forever.
            if position.progress or (not broken and position.was_open(min(MIN_OPEN, self._patience))):
                failures, since = 0, time.monotonic()
            failures += 1
            await self._pause(failures, since, problem)

    async def result(self, job: ClientJob, timeout: float = 180.0) -> JSON:
        """Waits for the job's result. Raises `NotFinished` after `timeout` seconds, `Refused`.

        The gateway answers when the job ends, or asks to wait if too many wait already.
        """
        url = self._url(job.result_url).copy_merge_params({"wait": f"{RESULT_WAIT:g}"})
        try:
            async with asyncio.timeout(timeout):
                while True:
                    began = time.monotonic()
                    response = await self._send(self._http.build_request("GET", url))
                    if response.status_code == 200:
                        return decode_response(response, JSON)
                    if time.monotonic() - began < RESULT_WAIT / 2:  # it did not wait
                        await asyncio.sleep(max(1.0, retry_after(response) or 0.0))
        except TimeoutError as error:
            raise NotFinished(f"job {job.id} has not ended within {timeout:g} s; ask again later") from error

    async def cancel(self, job: ClientJob) -> JSON:
        """Cancels the job, and returns its result; again, it returns the same.

        A call that is in flight is broken off. Raises `Refused` with code `ENDED` if the job has ended in
        another way, `Unavailable`.
        """
        url = self._url(job.result_url.removesuffix("/result"))
        return decode_response(await self._send(self._http.build_request("DELETE", url)), JSON)

    async def results(
        self, jobs: Iterable[ClientJob], timeout: float = 180.0
    ) -> AsyncGenerator[JSON | Eco2Error, None]:
        """Yields the result of each job, or why there is none, in order; like `result` for each of them.

        It waits for `RESULTS_AT_ONCE` jobs at the same time, without event streams.
        """
        remaining = iter(jobs)
        while batch := list(itertools.islice(remaining, RESULTS_AT_ONCE)):
            for answer in await self.results_at_once(batch, timeout):
                yield answer

    async def results_at_once(self, jobs: Sequence[ClientJob], timeout: float) -> list[JSON | Eco2Error]:
        """Waits for all these jobs at the same time, for `results`."""

        async def result_or_error(job: ClientJob) -> JSON | Eco2Error:
            try:
                return await self.result(job, timeout)
            except Eco2Error as error:
                return error

        return await asyncio.gather(*map(result_or_error, jobs))

    def _url(self, path: str) -> httpx.URL:
        try:
            return self._base.join(path)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path!r} is no URL of a job ({error}); use the `ClientJob` that `submit` returned"
            ) from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        failures, began = 0, time.monotonic()
        while True:
            if self._http.is_closed:
                raise Unavailable(CLOSED)
            try:
                response = await self._http.send(request)
                return check_status(response)
            except httpx.HTTPError as error:
                problem = connection_lost(error)
            except Unavailable as error:
                problem = error
            failures += 1
            await self._pause(failures, began, problem)

    async def _pause(self, failures: int, since: float, problem: Unavailable) -> None:
        seconds = pause(failures, problem.retry_after, random.random())
        if self._http.is_closed or time.monotonic() + seconds - since > self._patience:
            raise problem
        await asyncio.sleep(seconds)

    async def _connection(
        self, job: ClientJob, last_event_id: str | None
    ) -> AsyncGenerator[ClientEvent | None, None]:
        """Yields the events of one connection, and None for each chunk of bytes."""
        headers = {"Accept": "text/event-stream"}
        # Without a valid id the gateway sends all events; the known ones are left out here.
        if last_event_id and _EVENT_ID.fullmatch(last_event_id):
            headers["Last-Event-ID"] = last_event_id
        url = self._url(job.stream_url)
        timeout = httpx.Timeout(STREAM_TIMEOUT, connect=CONNECT_TIMEOUT, pool=self._patience)
        lines = EventLines()
        if self._http.is_closed:
            raise Unavailable(CLOSED)
        try:
            async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
                if response.status_code == 204:
                    raise _Complete
                if response.status_code != 200:
                    await response.aread()
                check_status(response)
                if not response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
                    raise no_gateway(response)
                async for chunk in response.aiter_bytes():
                    yield None
                    for event in lines.feed(chunk):
                        yield event
        except httpx.HTTPError as error:
            raise connection_lost(error) from error


async def submit(
    pipeline: str, input: Mapping[str, object], *, base_url: str, key: str | None = None
) -> ClientJob:
    """Submits one job; open a `Client` for several jobs. Raises `Refused`, `Unavailable`."""
    async with Client(base_url) as client:
        return await client.submit(pipeline, input, key)


def pause(failures: int, asked: float | None, chance: float) -> float:
    """Returns the seconds to wait after the `failures`-th failure in a row (from 1), at least `asked`.

    `chance` (0..1) spreads the clients of a lost gateway, so that they do not all return at once.
    """
    return max(asked or 0.0, RECONNECT.limit(failures) * (0.5 + chance / 2))


_PATH = re.compile(r"/(?!/)[!-\[\]-~]*\Z")
"""A path as gateways send it; it cannot name another host."""
_EVENT_ID = re.compile(r"[!-~]{1,200}")
"""An id that can be sent in a header."""


class _Accepted(msgspec.Struct):
    job_id: str
    stream_url: str
    result_url: str


class _Answer(msgspec.Struct):
    """One line of the answers to a batch."""

    http_status: int
    job_id: str = ""
    stream_url: str = ""
    result_url: str = ""
    detail: str = ""
    code: str = ""
    retry_after: float | None = None


class _Complete(Exception):
    """The gateway answered 204: the client has seen all events."""


class StreamPosition:
    """The position of a reader in a job's events, over all connections.

    `progress`: the present connection has brought a new durable event.
    """

    def __init__(self, last_event_id: str | None) -> None:
        self.last_event_id = last_event_id
        self.progress = False
        self._seq = -1
        self._live = LiveTexts()
        self._opened: float | None = None

    def connected(self) -> None:
        """Notes that a new connection will be opened."""
        self._live.connected()
        self._opened, self.progress = None, False

    def was_open(self, seconds: float) -> bool:
        """Returns whether the connection has been open for that long since its first byte."""
        return self._opened is not None and time.monotonic() - self._opened >= seconds

    def take_new(self, event: ClientEvent | None) -> ClientEvent | None:
        """Returns the event, or its new part, if it is new. None: bytes came that completed no event."""
        if self._opened is None:
            self._opened = time.monotonic()
        if event is None:
            return None
        if event.seq is None:
            return self._live.take_new(event)
        if event.seq <= self._seq:
            return None
        self._seq, self.last_event_id, self.progress = event.seq, event.id or self.last_event_id, True
        return event


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of decoding invalid JSON, or JSON of another shape."""


def parse_base_url(url: str) -> httpx.URL:
    """Parses the URL of a gateway. Raises `ConfigurationError`."""
    try:
        base = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(
            f"{url!r} is no URL of a gateway ({error}); write http://host:8000"
        ) from error
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigurationError(f"{url!r} is no URL of a gateway; write http://host:8000")
    return base


def read_upload(field: str, file: object) -> Upload:
    """Reads the file. Blocks."""
    name, data = field, file
    if isinstance(file, Upload):
        return file
    if isinstance(file, str | os.PathLike):
        path = Path(file)
        name, data = path.name, path.read_bytes()
    elif callable(read := getattr(file, "read", None)):
        path_name = getattr(file, "name", None)  # a number if the file was opened by its descriptor
        name, data = (Path(path_name).name if isinstance(path_name, str) else field), read()
    if not isinstance(data, bytes | bytearray | memoryview):
        kind = "a file that is open as text" if isinstance(data, str) else f"a {type(file).__name__}"
        raise TypeError(
            f"files[{field!r}] is {kind}: give a path, bytes, a file opened with mode 'rb', or an Upload"
        )
    return Upload(name, guess_type(name)[0] or "application/octet-stream", bytes(data))


def decode_response(response: httpx.Response, kind: type[Message]) -> Message:
    """Decodes a response. Raises `Refused` if it is not from a gateway."""
    try:
        return msgspec.json.decode(response.content, type=kind)
    except _UNREADABLE as error:
        raise no_gateway(response) from error


def accepted_job(answer: _Accepted | _Answer, response: httpx.Response) -> ClientJob:
    """Returns the job of an answer. Raises `Refused` if it is not a gateway's."""
    if not all(_PATH.match(place) for place in (answer.stream_url, answer.result_url)):
        raise no_gateway(response)  # never send our headers to a host that a response names
    return ClientJob(answer.job_id, answer.stream_url, answer.result_url)


def encode_terms(
    max_wait: float | None, timeout: float | None, max_usd: float | None, priority: Priority | None
) -> dict[bytes, bytes]:
    """Returns the headers that ask for these terms of a job: seconds, USD, and its priority."""
    limits = {b"Job-Max-Wait": max_wait, b"Job-Timeout": timeout, b"Job-Max-USD": max_usd}
    terms = {name: repr(float(value)).encode() for name, value in limits.items() if value is not None}
    return terms if priority is None else terms | {b"Job-Priority": priority.encode()}


def encode_lines(inputs: Iterable[Mapping[str, object]], keys: Iterable[str] | None) -> Iterator[bytes]:
    """Yields each input as a line of a batch, with its key; without `keys` with a new one."""
    chosen = (uuid.uuid4().hex for _ in itertools.count()) if keys is None else keys
    for input, key in zip(inputs, chosen, strict=keys is not None):
        line = {**input, "idempotency_key": key}
        yield json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def split_batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yields the lines in parts of at most `BATCH_LINES` and `BATCH_BYTES`."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == BATCH_LINES or size + len(line) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


def decode_answers(response: httpx.Response) -> Iterator[ClientJob | Refused | Unavailable]:
    """Yields the answers to a batch. Raises `Refused` if they are not a gateway's."""
    for line in response.content.split(b"\n")[:-1]:  # the last is empty, or was cut off
        try:
            answer = msgspec.json.decode(line, type=_Answer)
        except _UNREADABLE as error:
            raise no_gateway(response) from error
        if answer.http_status < 300:
            yield accepted_job(answer, response)
        elif answer.http_status in (408, 429) or answer.http_status >= 500:
            yield Unavailable(answer.detail, answer.retry_after)
        else:
            yield Refused(answer.detail, answer.code, answer.http_status)


def no_gateway(response: httpx.Response) -> Refused:
    """Returns the error for a response that is not from a gateway."""
    url = response.url.copy_with(raw_path=b"/")
    message = f"the server at {url} is no Eco² gateway, or a proxy answered in its place: check the base URL"
    return Refused(message, "NO_GATEWAY", response.status_code)


def check_status(response: httpx.Response) -> httpx.Response:
    """Returns a successful response. Raises `Refused` or `Unavailable` for any other."""
    status = response.status_code
    if status < 300:
        return response
    if place := response.headers.get("Location"):
        raise Refused(f"the gateway has moved to {place}: use that as the base URL", "MOVED", status)
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except _UNREADABLE:
        problem = _Problem()
    if not problem.detail:  # a proxy's page
        problem = _Problem(f"HTTP {status} from {response.url.host}, not from an Eco² gateway", "NO_GATEWAY")
    if status == 429 or status >= 500:
        raise Unavailable(problem.detail, retry_after(response))
    raise Refused(problem.detail, problem.code, status)


def retry_after(response: httpx.Response) -> float | None:
    """Returns the seconds that the gateway asks to wait, if any."""
    return seconds_asked(response.headers.get("Retry-After", ""), time.time(), MAX_WAIT)


def connection_lost(error: httpx.HTTPError) -> Unavailable:
    """Returns the error for a connection that failed."""
    url = error.request.url.copy_with(raw_path=b"/")
    reason = str(error) or type(error).__name__
    return Unavailable(f"no answer from the gateway at {url} ({reason}): is it running?")
