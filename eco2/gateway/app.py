"""The HTTP applications, built from data: routes, middleware, error handlers, lifespan."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from eco2.gateway.acceptance import Acceptance
from eco2.gateway.body import Room
from eco2.gateway.compat import Compat
from eco2.gateway.config import GatewayConfig
from eco2.gateway.feeds import Feeds
from eco2.gateway.guard import Guard, secured
from eco2.gateway.health import metrics_route, probe_routes, readiness, unserved
from eco2.gateway.lookup import Lookup
from eco2.gateway.openapi import document
from eco2.gateway.owner import OWNER_HEADER
from eco2.gateway.problem import LONGEST_QUOTE, handlers, json_response
from eco2.gateway.result import ResultEndpoint
from eco2.gateway.stream import StreamEndpoint
from eco2.gateway.submission import KEY_HEADERS, SubmissionEndpoint
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker, Clock

PREFIXES = ("", "/api/v1")


class _Guarded(Starlette):
    """Starlette's, with a `Guard` before everything, and every answer `secured`, also a 500."""

    def __init__(self, hosts: Sequence[str], origins: Sequence[str], **starlettes: Any) -> None:
        super().__init__(**starlettes)
        self._hosts = hosts
        self._origins = origins

    def build_middleware_stack(self) -> ASGIApp:
        """Called by Starlette."""
        return secured(Guard(super().build_middleware_stack(), self._hosts, self._origins))


def build(
    *,
    pipelines: Sequence[AnyPipeline],
    broker: Broker,
    journal: Journal,
    metrics: Metrics,
    config: GatewayConfig,
    stop: asyncio.Event,
    clock: Clock,
) -> ASGIApp:
    """The gateway. `broker` and `journal` are run by the caller; setting `stop` ends the event streams."""
    feeds = Feeds(journal, stop, config)
    room = Room(config.upload_room, config.retry_after)
    acceptance = Acceptance(
        broker, journal, clock, config.publish_timeout, config.job_deadline, config.daily_usd
    )
    names = [pipeline.name for pipeline in pipelines]
    checks = readiness(broker, journal, stop)
    routes: list[BaseRoute] = [*probe_routes(checks, lambda: unserved(journal, names))]
    for pipeline in pipelines:
        lookup = Lookup(journal, pipeline)
        submit = SubmissionEndpoint(pipeline, acceptance, room, metrics, config)
        stream = StreamEndpoint(pipeline.name, feeds, lookup, metrics, config)
        result = ResultEndpoint(lookup, config)
        for prefix in PREFIXES:
            root = f"{prefix}/{pipeline.name}"
            routes += [
                Route(root, submit.post, methods=["POST"]),
                Route(f"{root}/{{job_id}}/events", stream.get),
                Route(f"{root}/{{job_id}}/result", result.get),
                *(Route(f"{root}/{path}", _document(make)) for path, make in pipeline.routes.items()),
                Route(f"{root}/{{job_id:uuid}}", _no_method, methods=()),
            ]
    routes += _descriptions(pipelines, config)
    metrics.gateway(names)
    app = _Guarded(
        config.hosts,
        config.cors_origins,
        routes=routes,
        exception_handlers=handlers(config.retry_after),
        lifespan=_lifespan(broker, feeds),
    )
    app.router.redirect_slashes = False  # to http:, whatever the client came by, and without our error body
    app.router.default = _unserved(pipelines)
    outer = _cross_origin(app, config)
    return Compat(outer, pipelines[0].name) if config.compat else outer


def build_probes(
    *, broker: Broker, journal: Journal, metrics: Metrics, stop: asyncio.Event, hosts: Sequence[str] = ()
) -> Starlette:
    """The small application of a port that clients do not reach: health, readiness, metrics."""
    return _Guarded(
        hosts,
        (),
        routes=[
            *probe_routes(readiness(broker, journal, stop), lambda: unserved(journal, ())),
            metrics_route(metrics),
        ],
        exception_handlers=handlers(retry_after=1),
    )


def _document(make: Callable[[], JSON]) -> Callable[[Request], object]:
    async def get(_: Request) -> Response:
        return json_response(make())

    return get


def _descriptions(pipelines: Sequence[AnyPipeline], config: GatewayConfig) -> Iterator[Route]:
    """`/openapi.json` under each prefix; the one that was asked comes first among the servers."""
    for prefix in PREFIXES:
        prefixes = sorted(PREFIXES, key=lambda one: one != prefix)
        described = document(pipelines, config, prefixes)
        # Written once: a model that cannot be described stops the process at its start, not its clients.
        yield Route(f"{prefix}/openapi.json", _written(msgspec.json.encode(described)))


def _written(body: bytes) -> Callable[[Request], object]:
    async def get(_: Request) -> Response:
        return Response(body, media_type="application/json")

    return get


def _unserved(pipelines: Sequence[AnyPipeline]) -> ASGIApp:
    """Answers what no route serves: most often the name of a pipeline is wrong, or it is served elsewhere."""
    names = ", ".join(pipeline.name for pipeline in pipelines)

    async def refuse(scope: Scope, _: Receive, __: Send) -> None:
        path = scope["path"][:LONGEST_QUOTE]
        found = re.fullmatch(r"(?:/api/v1)?/([a-z0-9-]+)", path)
        if scope["method"] == "POST" and found:
            raise HTTPException(404, f"this gateway serves no pipeline {found[1]}; it serves {names}")
        raise HTTPException(404, f"nothing is served at {path}; GET /openapi.json lists what is")

    return refuse


async def _no_method(_: Request) -> Response:
    """A job has no representation of its own, only events and a result, and cannot be cancelled yet."""
    raise HTTPException(405, headers={"Allow": ""})


def _cross_origin(app: ASGIApp, config: GatewayConfig) -> ASGIApp:
    """The application behind CORS, which must be outermost: pages shall see errors of every kind."""
    if not config.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.cors_origins,
        allow_credentials=True,
        allow_methods=["GET", "POST"],
        allow_headers=[
            *KEY_HEADERS,
            "Authorization",
            "Content-Type",
            "Last-Event-ID",
            OWNER_HEADER,
            "traceparent",
        ],
        expose_headers=["Retry-After"],
    )


def _lifespan(broker: Broker, feeds: Feeds) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with feeds.flowing(broker):
            yield

    return lifespan
