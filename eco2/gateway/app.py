"""Builds the HTTP applications from data: routes, middleware, error handlers, lifespan."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from eco2.gateway.acceptance import Acceptance
from eco2.gateway.auth import OWNER_HEADER, Guard
from eco2.gateway.batch import MAX_ACCEPTING, BatchEndpoint
from eco2.gateway.body import BodyMemory
from eco2.gateway.cancel import CancelEndpoint
from eco2.gateway.compat import Compat
from eco2.gateway.config import GatewayConfig
from eco2.gateway.health import metrics_route, probe_routes, readiness, unserved
from eco2.gateway.hub import Hub
from eco2.gateway.lookup import Lookup, ResultEndpoint
from eco2.gateway.openapi import document
from eco2.gateway.problem import MAX_QUOTE, handlers, json_response
from eco2.gateway.stream import StreamEndpoint
from eco2.gateway.submission import (
    KEY_HEADERS,
    MAX_USD_HEADER,
    MAX_WAIT_HEADER,
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    SubmissionEndpoint,
)
from eco2.journal.journal import Journal
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker, Clock

PREFIXES = ("", "/api/v1")
CORS: Mapping[str, Any] = {
    "allow_credentials": True,
    "allow_methods": ["DELETE", "GET", "POST"],
    "allow_headers": [
        *KEY_HEADERS,
        MAX_WAIT_HEADER,
        TIMEOUT_HEADER,
        MAX_USD_HEADER,
        PRIORITY_HEADER,
        "Authorization",
        "Content-Type",
        "Last-Event-ID",
        OWNER_HEADER,
        "traceparent",
    ],
    "expose_headers": ["Retry-After"],
}
"""Permissions of pages of the allowed origins."""


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
    """Returns the gateway. The caller runs `broker` and `journal`; setting `stop` ends the event streams."""
    hub = Hub(journal, stop, config)
    memory = BodyMemory(config.upload_room, config.retry_after)
    accepting = asyncio.Semaphore(MAX_ACCEPTING)
    names = [pipeline.name for pipeline in pipelines]
    checks = readiness(broker, journal, stop)
    routes: list[BaseRoute] = [*probe_routes(checks, lambda: unserved(journal, names))]
    for pipeline in pipelines:
        acceptance = Acceptance(pipeline, broker, journal, config, clock)
        lookup = Lookup(journal, pipeline)
        submit = SubmissionEndpoint(pipeline, acceptance, memory, metrics, config)
        batch = BatchEndpoint(pipeline, submit, accepting, stop)
        stream = StreamEndpoint(pipeline.name, hub, lookup, metrics, config, clock)
        cancel = CancelEndpoint(lookup, journal, metrics, config, clock)
        routes += job_routes(pipeline, submit, batch, stream, ResultEndpoint(hub, lookup, config), cancel)
    for prefix in PREFIXES:
        # Written once: a model that cannot be described stops the process at its start, not its clients.
        described = msgspec.json.encode(document(pipelines, config, sorted(PREFIXES, key=prefix.__ne__)))
        routes.append(json_route(f"{prefix}/openapi.json", partial(msgspec.Raw, described)))
    metrics.gateway(names)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, config.hosts, config.cors_origins)],
        exception_handlers=handlers(config.retry_after),
        lifespan=lambda _: hub.running(broker),
    )
    app.router.redirect_slashes = False  # to http:, whatever the client came by, and without our error body
    app.router.default = not_served(names)
    # CORS is outermost, so that pages see errors of every kind.
    outer = CORSMiddleware(app, config.cors_origins, **CORS) if config.cors_origins else app
    return Compat(outer, names[0]) if config.compat else outer


def build_probes(
    *, broker: Broker, journal: Journal, metrics: Metrics, stop: asyncio.Event, hosts: Sequence[str] = ()
) -> Starlette:
    """Returns the application of a port that clients do not reach: health, readiness, metrics."""
    routes = probe_routes(readiness(broker, journal, stop), lambda: unserved(journal, ()))
    return Starlette(
        routes=[*routes, metrics_route(metrics)],
        middleware=[Middleware(Guard, hosts, ())],
        exception_handlers=handlers(retry_after=1),
    )


def job_routes(
    pipeline: AnyPipeline,
    submit: SubmissionEndpoint,
    batch: BatchEndpoint,
    stream: StreamEndpoint,
    result: ResultEndpoint,
    cancel: CancelEndpoint,
) -> Iterator[BaseRoute]:
    """Yields the routes of one pipeline under each prefix."""
    for prefix in PREFIXES:
        root = f"{prefix}/{pipeline.name}"
        yield Route(root, submit.post, methods=["POST"])
        yield Route(f"{root}/batch", batch.post, methods=["POST"])
        yield Route(f"{root}/{{job_id}}/events", stream.get)
        yield Route(f"{root}/{{job_id}}/result", result.get)
        for path, make in pipeline.routes.items():
            yield json_route(f"{root}/{path}", make)
        yield Route(f"{root}/{{job_id:uuid}}", cancel.delete, methods=["DELETE"])


def json_route(path: str, make: Callable[[], object]) -> Route:
    """Returns a route that answers with what `make()` returns, as JSON."""

    async def get(_: Request) -> Response:
        return json_response(make())

    return Route(path, get)


def not_served(names: Sequence[str]) -> ASGIApp:
    """Answers a path without route: most often a pipeline's name is wrong, or another gateway serves it."""

    async def refuse(scope: Scope, _: Receive, __: Send) -> None:
        path = scope["path"][:MAX_QUOTE]
        found = re.fullmatch(r"(?:/api/v1)?/([a-z0-9-]+)(?:/batch)?", path)
        if scope["method"] == "POST" and found:
            raise HTTPException(
                404, f"this gateway serves no pipeline {found[1]}; it serves {', '.join(names)}"
            )
        raise HTTPException(404, f"nothing is served at {path}; GET /openapi.json lists all paths")

    return refuse
