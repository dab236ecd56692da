"""Serves the fake over HTTP: chat completions, embeddings and models below `/v1/`, and the `/_fake/` routes.

The control routes are for tests: `GET /_fake/calls`, `GET /_fake/windows`, `POST /_fake/faults`,
`POST /_fake/reset`. They need no key.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eco2.fake.api_error import ApiError, invalid, no_key, no_model
from eco2.fake.calls import LoggedCall
from eco2.fake.config import FakeConfig
from eco2.fake.connection import reset_connection
from eco2.fake.faults import Fault
from eco2.fake.provider import CallPlan, FakeProvider

JSON = "application/json"
MAX_BODY = 50 * 1024 * 1024  # bytes; OpenAI's limit on the images of one request


class ClientGone(Exception):
    """The client closed its connection before the end of the answer."""


class Calls:
    """`POST /v1/chat/completions` as a bare ASGI endpoint, since it makes 4,000 writes a second.

    With `embed`: `POST /v1/embeddings`.
    """

    def __init__(self, provider: FakeProvider, clock: Callable[[], float], embed: bool = False) -> None:
        self._provider = provider
        self._clock = clock
        self._embed = embed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            call, plan = self._provider.accept(headers, body, self._clock(), time.time(), self._embed)
        except ApiError as refusal:
            rates = self._provider.rate_headers(self._clock(), refusal.retry_after)
            response = Response(refusal.body(), refusal.status, rates | request_id(), JSON)
            await response(scope, receive, send)
        except ClientDisconnect:
            return  # before its request was complete: there is no call to log
        else:
            await self._run(CallExchange(call, plan, self._clock, scope, send), receive)

    async def _run(self, exchange: "CallExchange", receive: Receive) -> None:
        """Answers, and notices if the client leaves meanwhile."""
        call, log = exchange.call, self._provider.log
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(exchange.watch(receive))
                await exchange.answer()
                if call.outcome == "disconnected":
                    await watch  # the server has to see the connection gone before this endpoint returns
                else:
                    watch.cancel()
        except* ClientGone:
            call.client_disconnected = True
        finally:
            if call.outcome == "running":
                call.outcome = "aborted"
            log.close(call, self._clock())


async def read_body(receive: Receive) -> bytes:
    """Reads the body. Raises `ClientDisconnect`, and `ApiError` if it is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise ApiError(413, f"The request is over {MAX_BODY} bytes: send smaller images.")
        if not message.get("more_body", False):
            return b"".join(parts)


class CallExchange:
    """One accepted call on its connection."""

    def __init__(
        self, call: LoggedCall, plan: CallPlan, clock: Callable[[], float], scope: Scope, send: Send
    ) -> None:
        self.call = call
        self.over = False
        self._plan = plan
        self._clock = clock
        self._scope = scope
        self._send = send

    async def watch(self, receive: Receive) -> None:
        """Raises `ClientGone` as soon as the client has left, unless the answer is complete."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self.over:
            raise ClientGone

    async def answer(self) -> None:
        """Sends the answer at its times, up to its fault if it has one."""
        if self._plan.stream:
            await self._stream()
        elif self._plan.fault is None or self._plan.fault.action == "cut":
            await self._whole()
        else:
            await self._until(self._plan.due[0])
        if self._plan.fault is None:
            self.call.outcome, self.over = "ok", True
        else:
            await self._fault(self._plan.fault)

    async def _until(self, due: float) -> None:
        """Waits until `due` seconds after the call's arrival."""
        wait = self.call.arrived_at + due - self._clock()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _begin(self, content_type: str) -> None:
        now = self._clock()
        millis = str(int((now - self.call.arrived_at) * 1000))
        headers = {**self._plan.headers, **request_id(self._plan.answer.id), "content-type": content_type}
        headers |= {"openai-processing-ms": millis, "openai-version": "2020-10-01"}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        self.call.status, self.call.began_at = 200, now

    async def _write(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _whole(self) -> None:
        await self._until(self._plan.due[0])
        await self._begin(JSON)
        body = self._plan.answer.body()
        if self._plan.fault is not None:
            await self._write(body[: len(body) // 2], more=True)
            return
        self.call.chunks = 1
        await self._write(body, more=False)

    async def _stream(self) -> None:
        plan, writes = self._plan, self._plan.writes
        for index in range(plan.pieces):
            await self._until(plan.due[index])
            if index == 0:
                await self._begin("text/event-stream; charset=utf-8")
            self.call.chunks = index + 1
            last = index + 1 == len(writes)
            # A fault after the last piece must still lack the end of the stream.
            body = writes[index] if plan.fault is None or not last else without_end(writes[index])
            await self._write(body, more=plan.fault is not None or not last)

    async def _fault(self, fault: Fault) -> None:
        match fault.action:
            case "cut":
                if self.call.began_at is None:
                    await self._begin("text/event-stream; charset=utf-8")
                self.call.outcome, self.over = "cut", True
                await self._write(b"", more=False)
            case "disconnect":
                self.call.outcome, self.over = "disconnected", True
                reset_connection(self._scope)
            case _:
                self.call.outcome = "stalled"
                await asyncio.Event().wait()  # until the client or the server goes


def without_end(write: bytes) -> bytes:
    """Returns the first events of a stream's last write, without finish_reason, usage and [DONE]."""
    return b"".join(event + b"\n\n" for event in write.split(b"\n\n") if b'"delta":{"' in event)


def request_id(answer_id: str = "") -> dict[str, str]:
    """Returns the header with the id of the request."""
    return {"x-request-id": f"req_{answer_id.removeprefix('chatcmpl-') or 'refused'}"}


class Control:
    """The other routes: the models, and the control routes for tests."""

    def __init__(self, provider: FakeProvider, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._clock = clock

    async def models(self, request: Request) -> Response:
        """`GET /v1/models` and `GET /v1/models/{name}`."""
        config = self._provider.config
        refusal = no_key(request.headers.get("authorization"), config.api_keys)
        name = request.path_params.get("name")
        if refusal is None and name is not None and name not in config.models:
            refusal = no_model(name)
        if refusal is not None:
            return Response(refusal.body(), refusal.status, media_type=JSON)
        models = [
            {"id": one, "object": "model", "created": 1_700_000_000, "owned_by": "eco2-fake"}
            for one in config.models
            if name in (None, one)
        ]
        return json_response({"object": "list", "data": models} if name is None else models[0])

    async def calls(self, request: Request) -> Response:
        """`GET /_fake/calls?after=N&job=…&run=…`: the log."""
        query = request.query_params
        after = query.get("after", "0")
        if not after.isdigit():
            raise HTTPException(400, "after must be the number of a call")
        log = self._provider.log
        return json_response(
            {"calls": log.select(int(after), query.get("job"), query.get("run")), "dropped": log.dropped}
        )

    async def windows(self, _request: Request) -> Response:
        """`GET /_fake/windows`: the present and the maximum use of each window."""
        config = self._provider.config
        use = self._provider.windows(self._clock())
        return json_response({"window_seconds": config.window_seconds, "charge": config.charge, **use})

    async def faults(self, request: Request) -> Response:
        """`POST /_fake/faults` with a JSON list of faults: replaces the present ones."""
        try:
            faults = msgspec.json.decode(await request.body(), type=list[Fault])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            refusal = invalid(f"Not a list of faults: {error}.", None, "invalid_value")
            return Response(refusal.body(), 400, media_type=JSON)
        self._provider.set_faults(tuple(faults), self._clock())
        return json_response({"faults": faults})

    async def reset(self, _request: Request) -> Response:
        """`POST /_fake/reset`: empties windows and log, and restores the first faults."""
        self._provider.reset(self._clock())
        return json_response({"reset": True})


def json_response(value: object) -> Response:
    """Returns the value as a JSON response."""
    return Response(msgspec.json.encode(value), media_type=JSON)


async def http_error(request: Request, error: Exception) -> Response:
    """Returns the response for an error outside of the API."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    refusal = ApiError(status, f"{detail} ({request.method} {request.url.path})")
    return Response(refusal.body(), status, media_type=JSON)


def build(
    config: FakeConfig,
    clock: Callable[[], float] = time.monotonic,
    sink: Callable[[bytes], object] | None = None,
) -> Starlette:
    """Builds the application. `sink` gets a JSON line per ended call.

    The fault `disconnect` works only under `server.serve`: other servers cannot reset a connection.
    """
    provider = FakeProvider(config, clock(), sink)
    control = Control(provider, clock)
    routes = [
        Route("/v1/chat/completions", Calls(provider, clock), methods=["POST"]),
        Route("/v1/embeddings", Calls(provider, clock, embed=True), methods=["POST"]),
        Route("/v1/models", control.models),
        Route("/v1/models/{name}", control.models),
        Route("/_fake/calls", control.calls),
        Route("/_fake/windows", control.windows),
        Route("/_fake/faults", control.faults, methods=["POST"]),
        Route("/_fake/reset", control.reset, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: http_error})
