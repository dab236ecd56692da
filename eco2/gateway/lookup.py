"""Finding a job for a client: what any replica has shown is never denied here, however far this one lags."""

from msgspec.structs import replace

from eco2.errors import JobForgotten
from eco2.gateway.problem import NotFound
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline

log = get_logger(__name__)


class Lookup:
    """The jobs of one pipeline. `owner` is who asks; with None everyone may ask for everything."""

    def __init__(self, journal: Journal, pipeline: AnyPipeline) -> None:
        self._journal = journal
        self._pipeline = pipeline.name
        self._unfinished = _unfinished(pipeline)

    def whole(self, state: JobState) -> JobState:
        """The state as clients see it: an end that was written without the pipeline's code lacks the members
        of its result; they are null."""
        if state.result is None or state.status != "failed":
            return state
        missing = {name: value for name, value in self._unfinished.items() if name not in state.result}
        if not missing:
            return state
        result = {**missing, **state.result}
        shown = tuple(
            replace(one, result=result) if one.stage == "done" else one for one in state.visible_events
        )
        return replace(state, result=result, visible_events=shown)

    async def known(self, job_id: str, owner: str | None) -> JobState:
        """The job as this replica knows it; one that it does not know is looked for behind a barrier.

        Raises `NotFound` (as for jobs of others: whose ids exist is nobody's business), `JobForgotten`
        (older than the journal), `BrokerUnavailable`.
        """
        state = await self._journal.find(job_id)
        if state is None or state.superseded_by is not None:
            raise NotFound(self._pipeline)
        if state.is_truncated:
            if owner is not None:
                raise JobForgotten("the journal no longer knows whose job this was; submit it again")
        elif state.pipeline != self._pipeline or (owner is not None and state.owner != owner):
            raise NotFound(self._pipeline)
        return state

    async def newest(self, job_id: str, owner: str | None) -> JobState:
        """The job as any replica may have shown it before this call. Raises like `known`."""
        if not (state := await self.known(job_id, owner)).ended:
            await self._journal.barrier()
            state = await self.known(job_id, owner)
        return state


def _unfinished(pipeline: AnyPipeline) -> JSON:
    """The members of the result of a job that did not complete."""
    try:
        return pipeline.result(None)
    except Exception:
        log.exception("a pipeline's result(None) failed by a bug: failed jobs show none of its members")
        return {}
