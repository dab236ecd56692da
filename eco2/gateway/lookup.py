"""Finding a job for a client: what any replica has shown is never denied here, however far this one lags."""

from eco2.errors import Gone
from eco2.gateway.problem import NotFound
from eco2.journal.journal import Journal
from eco2.journal.state import JobState


class Lookup:
    """The jobs of one pipeline. `owner` is who asks; with None everyone may ask for everything."""

    def __init__(self, journal: Journal, pipeline: str) -> None:
        self._journal = journal
        self._pipeline = pipeline

    async def known(self, job_id: str, owner: str | None) -> JobState:
        """The job as this replica knows it; one that it does not know is looked for behind a barrier.

        Raises `NotFound` (as for jobs of others: whose ids exist is nobody's business), `Gone` (older than
        the journal), `BrokerUnavailable`.
        """
        state = await self._journal.find(job_id)
        if state is None or state.by is not None:
            raise NotFound(self._pipeline)
        if state.cut:
            if owner is not None:
                raise Gone("the journal no longer knows whose job this was; submit it again")
        elif state.pipeline != self._pipeline or (owner is not None and state.owner != owner):
            raise NotFound(self._pipeline)
        return state

    async def newest(self, job_id: str, owner: str | None) -> JobState:
        """The job as any replica may have shown it before this call. Raises like `known`."""
        if not (state := await self.known(job_id, owner)).ended:
            await self._journal.barrier()
            state = await self.known(job_id, owner)
        return state
