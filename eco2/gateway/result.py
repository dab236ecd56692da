"""GET /{pipeline}/{id}/result: the result, or how far the job is. Never behind what a stream has shown."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import BrokerUnavailable
from eco2.gateway.config import GatewayConfig
from eco2.gateway.lookup import Lookup
from eco2.gateway.owner import reader
from eco2.gateway.problem import json_response
from eco2.journal.state import JobState


class ResultEndpoint:
    """The results of one pipeline."""

    def __init__(self, lookup: Lookup, config: GatewayConfig) -> None:
        self._lookup = lookup
        self._config = config

    async def get(self, request: Request) -> Response:
        """200 with the result of an ended job, however it ended; 202 before; 401, 404, 410, 503."""
        owner = reader(request, self._config.auth)
        try:
            async with asyncio.timeout(self._config.publish_timeout):
                state = await self._lookup.newest(request.path_params["job_id"], owner)
        except TimeoutError as error:
            raise BrokerUnavailable("the journal cannot be read at present; try again soon") from error
        if state.ended:
            return json_response(self._lookup.whole(state).result)
        return json_response(progress(state), 202, {"Retry-After": str(self._config.retry_after)})


def progress(state: JobState) -> dict[str, object]:
    """What a client that polls can show meanwhile."""
    last = state.visible_events[-1]
    message = "waiting for a worker" if last.stage == "queued" else f"{last.stage} {last.status}"
    return {
        "status": "processing",
        "message": message,
        "current_stage": last.stage,
        "progress": last.progress,
    }
