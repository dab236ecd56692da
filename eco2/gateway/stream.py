"""GET /{pipeline}/{id}/events: the job's events as a stream that can be resumed on any replica.

Each connection pulls: it keeps a cursor, sleeps until something may be new, and sends what it lacks. A slow
client therefore costs its socket's buffer and delays nobody; one that takes nothing for long loses its
connection. Streams of one job, and of one owner, are limited: each costs some 21 kB and a wake-up per event.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from eco2.errors import BrokerUnavailable, JobForgotten
from eco2.gateway.config import GatewayConfig
from eco2.gateway.feeds import Feeds
from eco2.gateway.lookup import Lookup
from eco2.gateway.owner import reader
from eco2.gateway.problem import NotFound
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
from eco2.journal.state import JobState
from eco2.metrics import Metrics

HEADERS = {
    "Content-Type": "text/event-stream",  # bare: a sample of fetch-event-source compares the whole of it
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
APP_PREFIX = "/api/v1/"
"""Where the existing app asks; see `eco2.gateway.sse.done_message`."""
PIECE = 32_768
"""Bytes sent at once, so that a connection holds little more than what the server holds back."""


class EventStreamResponse(StreamingResponse):
    """Sends `frames`; a client that takes nothing for too long is ended by its connection (`protocol.py`).

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
class _Asked:
    """What a client wants to follow. `owner`: see `Lookup`. `at`: when it asked, on a clock of seconds.

    `with_message`: see `advance`.
    """

    scope: Scope
    job_id: str
    owner: str | None
    last_event_id: str | None
    at: float
    with_message: bool


_Place = tuple[JobState, Cursor]


class StreamEndpoint:
    """The event streams of one pipeline."""

    def __init__(
        self, pipeline: str, feeds: Feeds, lookup: Lookup, metrics: Metrics, config: GatewayConfig
    ) -> None:
        self._pipeline = pipeline
        self._feeds = feeds
        self._lookup = lookup
        self._metrics = metrics
        self._config = config

    async def get(self, request: Request) -> Response:
        """200 with the stream; 204 if the client has seen all; 401, 404, 410 where there is none; 429."""
        asked = _Asked(
            request.scope,
            request.path_params["job_id"],
            reader(request, self._config.auth),
            last_event_id(request.headers, request.query_params),
            time.monotonic(),
            self._config.sse_done_message and request.url.path.startswith(APP_PREFIX),
        )
        try:
            async with asyncio.timeout(self._config.lookup_timeout):
                place = await self._locate(asked)
        except (TimeoutError, BrokerUnavailable):
            place = None  # any other answer than 200 would end an EventSource for good: wait inside
        if place is not None and complete(*place):
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        counted = ExitStack()
        counted.enter_context(self._feeds.streams.open(asked.job_id, asked.owner))
        return EventStreamResponse(self._frames(asked, place), counted)

    async def _locate(self, asked: _Asked) -> _Place:
        state = await self._lookup.known(asked.job_id, asked.owner)
        if may_be_ahead(state, asked.last_event_id):
            state = await self._lookup.newest(asked.job_id, asked.owner)
        return state, resume(state, asked.last_event_id)

    async def _frames(self, asked: _Asked, place: _Place | None) -> AsyncGenerator[bytes, None]:
        with self._open(asked) as news:
            yield opening(self._config.sse_retry)
            while place is None:
                if self._feeds.stop.is_set():
                    yield retry_line(self._config.sse_retry)
                    return
                try:
                    async with asyncio.timeout(self._config.publish_timeout):
                        place = await self._locate(asked)
                except (NotFound, JobForgotten):
                    return  # the client connects again and is told then
                except (TimeoutError, BrokerUnavailable):
                    news.clear()
                    yield COMMENT
                    await _signalled(news, self._config.lookup_timeout)
            state, cursor = place
            new = cursor.seq < 0
            if not new:
                self._metrics.stream_resumed(self._pipeline)
            async for chunk in self._follow(asked, state, cursor, news):
                yield chunk
                if new:
                    new = False
                    self._metrics.first_event(self._pipeline, time.monotonic() - asked.at)

    @contextmanager
    def _open(self, asked: _Asked) -> Iterator[asyncio.Event]:
        """A wake-up signal for one stream, while the block runs."""
        with (
            self._metrics.stream_open(self._pipeline),
            self._feeds.followers.follow(asked.job_id) as news,
        ):
            try:
                yield news
            finally:
                if stalled(asked.scope):
                    self._metrics.stream_cut(self._pipeline)

    async def _follow(
        self, asked: _Asked, state: JobState, cursor: Cursor, news: asyncio.Event
    ) -> AsyncGenerator[bytes, None]:
        """What the client lacks, as it comes; ends behind `done`, on a drain, and with jobs out of view."""
        clock = asyncio.get_running_loop().time
        said = clock()
        while True:
            news.clear()
            newest = self._feeds.view.get(state.job)
            state = self._lookup.whole(newest or state)
            live = self._feeds.live.get(state.job)
            chunk, cursor = advance(state, live, cursor, with_message=asked.with_message)
            if chunk:
                yield chunk
                said = clock()
            if newest is None or complete(state, cursor):
                return
            if self._feeds.stop.is_set():
                yield retry_line(self._config.sse_retry)
                return
            left = self._config.sse_comment - (clock() - said)  # what wakes it may be nothing to show
            if left <= 0 or not await _signalled(news, left):
                yield COMMENT
                said = clock()


async def _signalled(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True
