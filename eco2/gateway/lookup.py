"""Finds jobs for clients. A replica never denies what another one has shown, however far it lags."""

import asyncio
import math
from contextlib import suppress

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import BrokerUnavailable, InvalidInput, JobForgotten, OverCapacity
from eco2.gateway.auth import owner_of
from eco2.gateway.config import GatewayConfig
from eco2.gateway.hub import Hub
from eco2.gateway.problem import NotFound, json_response
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline

MAX_WAIT = 30.0
"""Seconds that a request for a result may wait; proxies and clients give up after 30 to 60 s of silence."""

log = get_logger(__name__)


class Lookup:
    """Finds the jobs of one pipeline. `owner`: of the request; with None every job may be read."""

    def __init__(self, journal: Journal, pipeline: AnyPipeline) -> None:
        self._journal = journal
        self._pipeline = pipeline.name
        try:
            self._unfinished = pipeline.result_json(None)
        except Exception:
            log.exception("a pipeline's result(None) failed by a bug: failed jobs show none of its members")
            self._unfinished = {}

    def fill_result(self, state: JobState) -> JobState:
        """Adds the members that the result of a job lacks which did not complete, as null.

        An end that was written without the pipeline's code has none of its members.
        """
        if (
            state.result is None
            or state.status == "completed"
            or self._unfinished.keys() <= state.result.keys()
        ):
            return state
        result = {**self._unfinished, **state.result}
        shown = tuple(
            replace(one, result=result) if one.stage == "done" else one for one in state.visible_events
        )
        return replace(state, result=result, visible_events=shown)

    async def known(self, job_id: str, owner: str | None) -> JobState:
        """Returns the job as this replica knows it; an unknown one is looked for after a barrier.

        Raises `NotFound` (also for a job of another owner, so that no client learns which ids exist),
        `JobForgotten` (older than the journal), `BrokerUnavailable`.
        """
        state = await self._journal.find(job_id)
        if state is None or state.superseded_by is not None:
            raise NotFound(self._pipeline)
        if state.is_truncated:
            if owner is not None:
                raise JobForgotten(
                    "the journal no longer has the owner of this job; submit the request again"
                )
        elif state.pipeline != self._pipeline or (owner is not None and state.owner != owner):
            raise NotFound(self._pipeline)
        return state

    async def newest(self, job_id: str, owner: str | None) -> JobState:
        """Returns the job as any replica may have shown it before this call. Raises like `known`."""
        if not (state := await self.known(job_id, owner)).ended:
            await self._journal.barrier()
            state = await self.known(job_id, owner)
        return state


class ResultEndpoint:
    """GET /{pipeline}/{id}/result. The answer is never older than what a stream has shown."""

    def __init__(self, hub: Hub, lookup: Lookup, config: GatewayConfig) -> None:
        self._hub = hub
        self._lookup = lookup
        self._config = config

    async def get(self, request: Request) -> Response:
        """200 with the result of an ended job, however it ended; 202 before; 401, 404, 410, 422, 503.

        With `?wait=` it answers when the job has ended, and 202 only after that many seconds. A wait counts
        as an event stream; where those are too many, and when the process stops, there is none.
        """
        owner, seconds = (
            owner_of(request, self._config.auth),
            wait_asked(request.query_params.get("wait", "")),
        )
        state = await self._newest(request.path_params["job_id"], owner)
        if seconds and not state.ended:
            with suppress(OverCapacity), self._hub.streams.open(state.job, owner):
                await self._ended_or_gone(state.job, seconds, request)
                state = await self._newest(state.job, owner)
        if state.ended:
            return json_response(self._lookup.fill_result(state).result)
        last = state.visible_events[-1]
        message = "waiting for a worker" if last.stage == "queued" else f"{last.stage} {last.status}"
        if state.retrying:
            message = f"{state.retrying.stage} failed for the moment, and is tried again"
        content = {
            "status": "processing",
            "message": message,
            "current_stage": last.stage,
            "progress": last.progress,
        }
        return json_response(content, 202, {"Retry-After": str(self._config.retry_after)})

    async def _newest(self, job_id: str, owner: str | None) -> JobState:
        try:
            async with asyncio.timeout(self._config.publish_timeout):
                return await self._lookup.newest(job_id, owner)
        except TimeoutError as error:
            raise BrokerUnavailable("the journal cannot be read at present; try again soon") from error

    async def _ended_or_gone(self, job_id: str, seconds: float, request: Request) -> None:
        """Returns when the job has ended or left the view, its client is gone, or the process stops."""
        gone = False

        async def watch(changed: asyncio.Event) -> None:
            nonlocal gone
            while not gone:
                gone = (await request.receive())["type"] == "http.disconnect"
            changed.set()

        with self._hub.subscribers.subscribe(job_id) as changed, suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                watching = group.create_task(watch(changed))
                while (state := self._hub.view.get(job_id)) is not None and not state.ended:
                    if gone or self._hub.stop.is_set():
                        break
                    changed.clear()
                    await changed.wait()
                watching.cancel()


def wait_asked(value: str) -> float:
    """Returns the seconds that a request asks to wait, at most `MAX_WAIT`. Raises `InvalidInput`."""
    try:
        seconds = float(value or "0") if value.isascii() else math.nan
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidInput(f"wait must be a number of seconds from 0 on; more than {MAX_WAIT:g} is as much")
    return min(seconds, MAX_WAIT)
