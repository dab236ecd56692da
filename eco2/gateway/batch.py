"""POST /{pipeline}/batch: many jobs in one request, a JSON object per line, and an answer line for each.

A line goes the way of a single submission: the same limits, errors and acceptance. Lines are read, accepted
and answered at the same time, so that one message of the journal holds many of them; answers keep the order
of the lines. A client that goes away has submitted the lines that were read until then, and no other.

Most HTTP clients read no answer before they have sent all, so answers are held until they can be sent. That
is why lines are limited in number: `MAX_LINES`.

Its jobs have the priority `batch` unless the request says otherwise: nobody waits for ten thousand.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eco2.errors import BrokerUnavailable, InvalidInput
from eco2.gateway.acceptance import Terms
from eco2.gateway.body import BodyReader, Reserve, declared, lines
from eco2.gateway.problem import MAX_QUOTE, NO_STORE, RequestTooLarge
from eco2.gateway.submission import SubmissionEndpoint, terms_given, valid_key
from eco2.pipeline import AnyPipeline, Form

MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = (MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""Names that are in use for the same format."""
KEY_FIELD = "idempotency_key"
"""The member with a line's own key. It belongs to the gateway: pipelines do not see it."""
MAX_LINES = 10_000
MAX_ACCEPTING = 48
"""Lines that a process accepts at once, of all batches: enough to keep the broker busy, and few enough that
pictures among them leave room at the decoders (`eco2.thumbnail`)."""
ANSWER_SIZE = 1024
"""Bytes of memory of an answer that waits until it can be sent."""
GATHER = 0.01
"""Seconds for which an answer waits for more: to send one alone costs as much as to accept its line."""


class BatchEndpoint:
    """Takes batches of one pipeline; `single`: takes the same jobs one by one.

    `accepting`: see `MAX_ACCEPTING`. `stop`: ends batches between lines.
    """

    def __init__(
        self,
        pipeline: AnyPipeline,
        single: SubmissionEndpoint,
        accepting: asyncio.Semaphore,
        stop: asyncio.Event,
    ) -> None:
        self.single = single
        self.bodies = BodyReader(pipeline, single.config, KEY_FIELD)
        self.accepting = accepting
        self.stop = stop

    async def post(self, request: Request) -> Response:
        """200 with the answers; 401, 413, 422 for a request that is refused as a whole."""
        single = self.single
        try:
            terms = terms_given(request, single.usual, "batch", single.config.auth)
            kind, _ = declared(request, single.config, MEDIA_TYPE)
            if kind not in MEDIA_TYPES:
                sent = kind[:MAX_QUOTE] or "an empty type"
                raise InvalidInput(f"send one JSON object per line as {MEDIA_TYPE}, not {sent}")
        except Exception as error:  # noqa: BLE001 - each is answered
            return single.refuse(request, error)
        return BatchResponse(self, request, terms)


class BatchResponse(Response):
    """Reads the lines of a request and sends their answers meanwhile. The first answer decides the status."""

    media_type = MEDIA_TYPE

    def __init__(self, batch: BatchEndpoint, request: Request, terms: Terms) -> None:
        super().__init__(headers=NO_STORE)
        del self.headers["content-length"]
        self._batch = batch
        self._request = request
        self._terms = terms
        self._root = request.url.path.rstrip("/").removesuffix("/batch")
        self._answers: deque[asyncio.Future[bytes]] = deque()
        self._arrived = asyncio.Event()
        self._complete = False
        self._refusal: Response | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(group))
            started = False
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    if not started:
                        started = True
                        status = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                        await send(status)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if started:
            end = b"" if self._refusal is None else answer_line(self._refusal)
            await send({"type": "http.response.body", "body": end, "more_body": False})
        elif self._refusal is not None:
            await self._refusal(scope, receive, send)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Starts to accept each line; what ends the batch is the last answer."""
        single = self._batch.single
        try:
            with single.memory.reserving() as reserve_line, single.memory.reserving() as reserve_answers:
                await self._read_lines(group, reserve_line, reserve_answers)
        except Exception as error:  # noqa: BLE001 - each is answered
            refusal = single.refuse(self._request, error)
            self._refusal = None if isinstance(error, ClientDisconnect) else refusal
        finally:
            self._complete = True
            self._arrived.set()

    async def _read_lines(
        self, group: asyncio.TaskGroup, reserve_line: Reserve, reserve_answers: Reserve
    ) -> None:
        batch, number = self._batch, 0
        async with aclosing(lines(self._request, batch.single.config, reserve_line)) as found:
            async for line in found:
                if batch.stop.is_set():
                    raise BrokerUnavailable("this gateway stops; send this line and the rest again")
                if (number := number + 1) > MAX_LINES:
                    raise RequestTooLarge(f"more than {MAX_LINES:,} lines: send the rest in another request")
                reserve_answers(ANSWER_SIZE * len(self._answers))
                await batch.accepting.acquire()
                answering = group.create_task(self._answer(line, number))
                answering.add_done_callback(lambda _: batch.accepting.release())
                self._answers.append(answering)
                self._arrived.set()
        if not number:
            raise InvalidInput("no lines: send one JSON object per line")

    async def _answer(self, line: bytes, number: int) -> bytes:
        """Accepts one line; returns what it would have got alone. Its own key goes before the batch's."""
        began, terms = time.monotonic(), self._terms
        single, bodies = self._batch.single, self._batch.bodies
        try:
            with single.memory.reserving() as reserve:
                fields = await bodies.read_json(line, reserve)
                own = fields.pop(KEY_FIELD, None)
                key = (terms.key and f"{terms.key}/{number}") if own is None or own == "" else own
                if key is not None:
                    terms = replace(terms, key=valid_key(key))
                submission = await bodies.submission(Form(fields), len(line), terms)
                accepted = await single.acceptance.accept(submission)
            response = single.answer(accepted, self._root, began)
        except Exception as error:  # noqa: BLE001 - each is answered
            response = single.refuse(self._request, error)
        return answer_line(response)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields the answers in the order of their lines, those that are ready together."""
        while self._answers or not self._complete:
            if not self._answers:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._answers[0]
            await asyncio.sleep(GATHER)
            ready = []
            while self._answers and self._answers[0].done():
                ready.append(self._answers.popleft().result())
            yield b"".join(ready)


def answer_line(response: Response) -> bytes:
    """Returns the JSON object of a response as a line, with its status and `Retry-After` as members."""
    members = b'{"http_status":%d,' % response.status_code
    if seconds := response.headers.get("Retry-After"):
        members += b'"retry_after":%s,' % seconds.encode()
    return members + bytes(response.body)[1:] + b"\n"
