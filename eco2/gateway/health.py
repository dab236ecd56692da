"""Probes and metrics, the same for gateway and worker.

Alive means that the event loop turns, nothing more: a probe that asks the broker kills healthy processes when
the broker is slow. Ready means that the process can do its work now.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eco2.gateway.problem import json_response
from eco2.journal.journal import Journal
from eco2.metrics import Metrics
from eco2.ports import Broker

Checks = Mapping[str, Callable[[], bool]]
"""What must hold for readiness, by what is said when it does not."""


def readiness(broker: Broker, journal: Journal, stop: asyncio.Event) -> Checks:
    """The checks of a process that lives on the journal."""
    return {
        "the broker is not connected": lambda: broker.ready,
        "the journal is not read yet": journal.filled.is_set,
        "the process is stopping": lambda: not stop.is_set(),
    }


def probe_routes(checks: Checks, metrics: Metrics) -> list[Route]:
    """`/healthz`, `/readyz` (503 with the reasons), `/metrics`."""

    async def healthz(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        reasons = [reason for reason, holds in checks.items() if not holds()]
        if reasons:
            return json_response({"status": "not ready", "reasons": reasons}, 503)
        return json_response({"status": "ready"})

    async def scrape(_: Request) -> Response:
        return Response(metrics.render(), headers={"Content-Type": metrics.content_type})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]
