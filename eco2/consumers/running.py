"""The jobs in the hands of this process, by id: at work, parked, or about to begin."""

import asyncio
from collections.abc import Iterator

from eco2.consumers.run import Run


class Running:
    """One per process; the worker fills it, and whoever asks who holds a job is answered from it."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs.values()))

    def get(self, job_id: str) -> Run | None:
        """The run of the job, or None where this process has nothing of it."""
        return self._runs.get(job_id)

    def add(self, run: Run) -> None:
        """The worker took the job."""
        self._runs[run.job.id] = run

    def forget(self, run: Run) -> None:
        """The worker let go of the job; may be called again."""
        if self._runs.get(run.job.id) is run:
            del self._runs[run.job.id]
        if not self._runs:
            self._idle.set()

    async def idle(self) -> None:
        """Returns once there is no job left."""
        while self._runs:
            self._idle.clear()
            await self._idle.wait()
