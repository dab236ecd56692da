"""Cancels jobs for clients, in whatever state they are."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import BrokerUnavailable, InvalidInput
from eco2.gateway.auth import owner_of
from eco2.gateway.config import GatewayConfig
from eco2.gateway.lookup import Lookup
from eco2.gateway.problem import json_response
from eco2.journal.journal import Journal
from eco2.journal.state import JobState, cancelled
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.ports import Clock

log = get_logger(__name__)


class JobEnded(InvalidInput):
    """The job had ended in another way before it could be cancelled."""

    code = "ENDED"

    def __init__(self, state: JobState) -> None:
        super().__init__(f"the job has {state.status} already; fetch its result", status=409)


class CancelEndpoint:
    """DELETE /{pipeline}/{id}.

    The end is written to the journal, where the first one counts. So it needs no worker: the one that has the
    job sees the end and stops, whatever it awaits, and one that gets its order later drops the order.
    """

    def __init__(
        self, lookup: Lookup, journal: Journal, metrics: Metrics, config: GatewayConfig, clock: Clock
    ) -> None:
        self._lookup = lookup
        self._journal = journal
        self._metrics = metrics
        self._config = config
        self._clock = clock

    async def delete(self, request: Request) -> Response:
        """200 with the result of the job, cancelled now or before; 409 if it ended else; 401, 404, 410."""
        owner = owner_of(request, self._config.auth)
        try:
            async with asyncio.timeout(self._config.publish_timeout):
                state = await self._lookup.newest(str(request.path_params["job_id"]), owner)
                if not state.ended:
                    state = await self._cancel(state)
        except TimeoutError as error:
            raise BrokerUnavailable("the journal confirmed nothing; cancel the job again") from error
        if state.status != "cancelled":
            raise JobEnded(state)
        return json_response(self._lookup.fill_result(state).result)

    async def _cancel(self, state: JobState) -> JobState:
        """Returns the job with the end that stands."""
        end = cancelled(state, self._clock())
        self._journal.put(end)
        while not state.ended:
            state = await self._journal.view.change(state.job, state)
        if (state.status, state.updated_at) == (end.status, end.ts):  # not that of another request
            log.info("cancelled", job=state.job)
            self._metrics.job_ended(state.pipeline, "cancelled", "CANCELLED")
        return state
