"""Finding a job for a client: what any replica has shown is never denied here, however far this one lags."""

from eco2.gateway.problem import NotFound
from eco2.journal.journal import Journal
from eco2.journal.state import JobState


class Lookup:
    """The jobs of one pipeline."""

    def __init__(self, journal: Journal, pipeline: str) -> None:
        self._journal = journal
        self._pipeline = pipeline

    async def known(self, job_id: str) -> JobState:
        """The job as this replica knows it; one that it does not know is looked for behind a barrier.

        Raises `NotFound`, `Gone` (older than the journal), `BrokerUnavailable`.
        """
        state = await self._journal.find(job_id)
        if state is None or state.pipeline != self._pipeline or state.by is not None:
            raise NotFound(self._pipeline, job_id)
        return state

    async def newest(self, job_id: str) -> JobState:
        """The job as any replica may have shown it before this call. Raises like `known`."""
        if not (state := await self.known(job_id)).ended:
            await self._journal.barrier()
            state = await self.known(job_id)
        return state
