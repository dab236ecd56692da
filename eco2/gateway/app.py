"""The HTTP applications, built from data: routes, middleware, error handlers, lifespan."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from eco2.gateway.acceptance import Acceptance
from eco2.gateway.config import GatewayConfig
from eco2.gateway.feeds import Feeds
from eco2.gateway.health import probe_routes, readiness
from eco2.gateway.lookup import Lookup
from eco2.gateway.problem import handlers, json_response
from eco2.gateway.result import ResultEndpoint
from eco2.gateway.stream import StreamEndpoint
from eco2.gateway.submission import KEY_HEADERS, SubmissionEndpoint
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker, Clock

PREFIXES = ("", "/api/v1")


def build(
    *,
    pipelines: Sequence[AnyPipeline],
    broker: Broker,
    journal: Journal,
    metrics: Metrics,
    config: GatewayConfig,
    stop: asyncio.Event,
    clock: Clock,
) -> Starlette:
    """The gateway. `broker` and `journal` are run by the caller; setting `stop` ends the event streams."""
    feeds = Feeds(journal, stop)
    acceptance = Acceptance(broker, journal, clock, config.publish_timeout, config.job_deadline)
    routes: list[BaseRoute] = [*probe_routes(readiness(broker, journal, stop), metrics)]
    for pipeline in pipelines:
        lookup = Lookup(journal, pipeline.name)
        submit = SubmissionEndpoint(pipeline, acceptance, metrics, config)
        stream = StreamEndpoint(feeds, lookup, metrics, config)
        result = ResultEndpoint(lookup, config)
        for prefix in PREFIXES:
            root = f"{prefix}/{pipeline.name}"
            routes += [
                Route(root, submit.post, methods=["POST"]),
                Route(f"{root}/{{job_id}}/events", stream.get),
                Route(f"{root}/{{job_id}}/result", result.get),
                *(Route(f"{root}/{path}", _document(make)) for path, make in pipeline.routes.items()),
            ]
    metrics.count_skipped(lambda: journal.view.skipped)
    return Starlette(
        routes=routes,
        middleware=_middleware(config),
        exception_handlers=handlers(config.retry_after),
        lifespan=_lifespan(broker, feeds),
    )


def build_probes(*, broker: Broker, journal: Journal, metrics: Metrics, stop: asyncio.Event) -> Starlette:
    """A worker's own small application: health, readiness, metrics."""
    metrics.count_skipped(lambda: journal.view.skipped)
    return Starlette(
        routes=probe_routes(readiness(broker, journal, stop), metrics),
        exception_handlers=handlers(retry_after=1),
    )


def _document(make: Callable[[], JSON]) -> Callable[[Request], object]:
    async def get(_: Request) -> Response:
        return json_response(make())

    return get


def _middleware(config: GatewayConfig) -> list[Middleware]:
    if not config.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_credentials=True,
            allow_methods=["GET", "POST"],
            allow_headers=[
                *KEY_HEADERS,
                "Authorization",
                "Content-Type",
                "Last-Event-ID",
                "X-User-ID",
                "traceparent",
            ],
            expose_headers=["Retry-After"],
        )
    ]


def _lifespan(broker: Broker, feeds: Feeds) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with feeds.flowing(broker):
            yield

    return lifespan
