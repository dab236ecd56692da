"""GET /{pipeline}/{id}/events: the job's events as a stream that can be resumed on any replica.

Each connection pulls: it keeps a cursor, sleeps until the job may have changed, and sends what it lacks. A
slow client therefore costs its socket's buffer and delays no other; one that reads nothing for long loses its
connection. Streams of one job, and of one owner, are limited: each costs some 21 kB and a wake-up per event.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from eco2.errors import BrokerUnavailable, JobForgotten
from eco2.gateway.auth import owner_of
from eco2.gateway.config import GatewayConfig
from eco2.gateway.hub import Hub
from eco2.gateway.lookup import Lookup
from eco2.gateway.problem import NO_STORE, NotFound
from eco2.gateway.protocol import stalled
from eco2.gateway.sse import (
    COMMENT,
    Cursor,
    advance,
    complete,
    last_event_id,
    may_be_ahead,
    opening,
    resume,
    retry_line,
)
from eco2.journal.state import EventId, JobState
from eco2.metrics import Metrics
from eco2.ports import Clock

HEADERS = {
    "Content-Type": "text/event-stream",  # bare: a sample of fetch-event-source compares the whole of it
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
APP_PREFIX = "/api/v1/"
"""Prefix of the existing app's requests; see `eco2.gateway.sse.done_message`."""
PIECE = 32_768
"""Bytes sent at once, so that a connection holds little more than what the server holds back."""


class EventStreamResponse(StreamingResponse):
    """Sends `frames`. If the client reads nothing for too long, `protocol.py` ends the connection.

    `counted` is closed when the response has ended, however it ended.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], counted: ExitStack) -> None:
        super().__init__(frames, headers=HEADERS)
        self._frames = frames
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Sends the frames; closes their generator at once, however the response ends."""
        async with aclosing(self._frames) as frames:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async for chunk in frames:
                for start in range(0, len(chunk), PIECE):
                    piece = chunk[start : start + PIECE]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`owner`: see `Lookup`. `seen`: the last event that the client has. `at`: when it came (monotonic).

    `with_message`: see `advance`.
    """

    scope: Scope
    job_id: str
    owner: str | None
    seen: EventId | None
    at: float
    with_message: bool


Position = tuple[JobState, Cursor]


class StreamEndpoint:
    """The event streams of one pipeline."""

    def __init__(
        self,
        pipeline: str,
        hub: Hub,
        lookup: Lookup,
        metrics: Metrics,
        config: GatewayConfig,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._hub = hub
        self._lookup = lookup
        self._metrics = metrics
        self._config = config
        self._clock = clock

    async def get(self, request: Request) -> Response:
        """200 with the stream; 204 if the client has seen all; 401, 404, 410 where there is none; 429."""
        wanted = StreamRequest(
            request.scope,
            request.path_params["job_id"],
            owner_of(request, self._config.auth),
            last_event_id(request.headers, request.query_params),
            time.monotonic(),
            self._config.sse_done_message and request.url.path.startswith(APP_PREFIX),
        )
        try:
            async with asyncio.timeout(self._config.lookup_timeout):
                position = await self._locate(wanted)
        except (TimeoutError, BrokerUnavailable):
            position = None  # any status but 200 would end an EventSource for good: the stream waits instead
        if position is not None and complete(*position):
            return Response(status_code=204, headers=NO_STORE)
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        counted = ExitStack()
        counted.enter_context(self._hub.streams.open(wanted.job_id, wanted.owner))
        return EventStreamResponse(self._frames(wanted, position), counted)

    async def _locate(self, wanted: StreamRequest) -> Position:
        state = await self._lookup.known(wanted.job_id, wanted.owner)
        if may_be_ahead(state, wanted.seen):
            state = await self._lookup.newest(wanted.job_id, wanted.owner)
        return state, resume(state, wanted.seen)

    async def _frames(self, wanted: StreamRequest, position: Position | None) -> AsyncGenerator[bytes, None]:
        """Yields the whole stream of one connection."""
        with (
            self._metrics.stream_open(self._pipeline),
            self._hub.subscribers.subscribe(wanted.job_id) as changed,
        ):
            try:
                yield opening(self._config.sse_retry)
                while position is None:
                    if self._hub.stop.is_set():
                        yield retry_line(self._config.sse_retry)
                        return
                    try:
                        async with asyncio.timeout(self._config.publish_timeout):
                            position = await self._locate(wanted)
                    except (NotFound, JobForgotten):
                        return  # the client connects again and gets that answer
                    except (TimeoutError, BrokerUnavailable):
                        changed.clear()
                        yield COMMENT
                        with suppress(TimeoutError):
                            async with asyncio.timeout(self._config.lookup_timeout):
                                await changed.wait()
                async for chunk in self._follow(wanted, *position, changed):
                    yield chunk
            finally:
                if stalled(wanted.scope):
                    self._metrics.stream_cut(self._pipeline)

    async def _follow(
        self, wanted: StreamRequest, state: JobState, cursor: Cursor, changed: asyncio.Event
    ) -> AsyncGenerator[bytes, None]:
        """Yields what the client lacks, as it comes.

        Ends after `done`, when the process stops, and when the job leaves the view.
        """
        new = cursor.seen is None
        if not new:
            self._metrics.stream_resumed(self._pipeline)
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while True:
            changed.clear()
            newest = self._hub.view.get(state.job)
            state = newest or state
            if state.status == "failed":
                state = self._lookup.fill_result(state)
            chunk, cursor = advance(
                state,
                self._hub.texts.get(state.job),
                cursor,
                now=self._clock(),
                with_message=wanted.with_message,
            )
            if chunk:
                yield chunk
                sent_at = clock()
                if new:
                    new = False
                    self._metrics.first_event(self._pipeline, time.monotonic() - wanted.at)
            if newest is None or complete(state, cursor):
                return
            if self._hub.stop.is_set():
                yield retry_line(self._config.sse_retry)
                return
            try:
                # A wake-up may bring nothing to show, so the time counts from what was sent last.
                async with asyncio.timeout(sent_at + self._config.sse_comment - clock()):
                    await changed.wait()
            except TimeoutError:
                yield COMMENT
                sent_at = clock()
