"""The jobs in this worker's hands, each from its delivery to its settlement, and their runs."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from eco2.consumers.scope import CancelScope, Reason, TimeCode
from eco2.errors import BudgetExceeded, TooLarge
from eco2.event import JobEvent
from eco2.job import Job
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.pipeline import AnyPipeline
from eco2.ports import Delivery


class Allowance:
    """The USD that a job may cost: see `eco2.calls.caller.Allowance`.

    What its runs have paid counts, as far as it is recorded, and what is reserved for calls in flight here.
    """

    def __init__(self, limit: Decimal, job: str, run: str, view: View) -> None:
        self.limit = limit
        self._job = job
        self._run = run
        self._view = view
        self._paid = self._reserved = Decimal()

    def reserve(self, most: Decimal) -> None:
        """Reserves what a call may cost, until `settle`. Raises `BudgetExceeded` if less is left."""
        state = self._view.get(self._job)
        recorded = {} if state is None else state.spent
        # This run knows what it paid before the own tail shows its records.
        paid = self._paid + sum(usd for run, usd in recorded.items() if run != self._run)
        if paid + self._reserved + most > self.limit:
            others = f", {self._reserved:f} USD more are reserved for calls in flight" * bool(self._reserved)
            raise BudgetExceeded(
                f"this job has cost {paid:f} USD{others}, and its next call may cost {most:f} USD, but all "
                f"of its calls may cost {self.limit:f} USD: ask for less, or send it again with a higher "
                "limit (Job-Max-USD, max_usd)"
            )
        self._reserved += most

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replaces what was reserved for a call by what it cost."""
        self._reserved -= reserved
        self._paid += cost


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a job. Its stages work inside `scope`. `allowance`: None if any cost will do.

    `retries`: how often the job was put off since its last progress. `offset`, `started`, `age`: its rank,
    see `eco2.ports.GrantRequest`.
    """

    id: str
    job: Job
    scope: CancelScope
    retries: int
    offset: int
    started: bool
    age: float
    allowance: Allowance | None = None


class ActiveJob:
    """A job in this worker's hands, as `order` describes it. `delivery` may be replaced by a redelivery.

    `run`: once the journal shows that it is the job's current one; None while the job waits here.
    """

    def __init__(self, order: Job, pipeline: AnyPipeline, delivery: Delivery, journal: Journal) -> None:
        self.id = order.id
        self.order = order
        self.pipeline = pipeline
        self.delivery = delivery
        self.run: Run | None = None
        self._journal = journal
        self._scope: CancelScope | None = None
        self._draining = False
        self._written: asyncio.Future[None] | None = None

    def adopt(self, delivery: Delivery) -> Delivery:
        """Takes over a redelivery of the job; returns the one that it replaces, dead or a double."""
        double, self.delivery = self.delivery, delivery
        return double

    def write(self, *events: JobEvent) -> None:
        """Puts events of the job into the journal, in order, without waiting."""
        self._written = self._journal.put(*events)
        self._written.add_done_callback(self._end_if_refused)

    def _end_if_refused(self, written: asyncio.Future[None]) -> None:
        """Ends a run whose events the broker never takes: it would pay on although an output is lost."""
        if not written.cancelled() and isinstance(error := written.exception(), TooLarge):
            self.cancel(error)

    async def confirmed(self) -> None:
        """Returns once everything that was written for the job is confirmed."""
        if self._written is not None:
            await asyncio.shield(self._written)  # cancelling the future itself would withdraw the events

    def scope(self, seconds: float, code: TimeCode = "TIMEOUT", max_wait: float | None = None) -> CancelScope:
        """Makes the scope that `cancel`, `drain` and `limit` mean from now on."""
        self._scope = CancelScope(seconds, code, max_wait=max_wait, draining=self._draining)
        return self._scope

    def limit(self, seconds: float, code: TimeCode) -> None:
        """Ends the work on the job after `seconds` from now."""
        if self._scope is not None:
            self._scope.limit(seconds, code)

    def cancel(self, reason: Reason) -> None:
        """Ends the work on the job at its next await."""
        if self._scope is not None:
            self._scope.cancel(reason)

    def drain(self) -> None:
        """Ends the work on the job as soon as no paid reply would be lost."""
        self._draining = True
        if self._scope is not None:
            self._scope.drain()


class ActiveJobs:
    """All jobs in the hands of this process, by id: running, on standby for another holder, or waiting."""

    def __init__(self) -> None:
        self._jobs: dict[str, ActiveJob] = {}
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[ActiveJob]:
        return iter(tuple(self._jobs.values()))

    def get(self, job_id: str) -> ActiveJob | None:
        """Returns the job, or None where this process does not have it."""
        return self._jobs.get(job_id)

    def add(self, job: ActiveJob) -> None:
        """Adds a job that the worker took."""
        self._jobs[job.id] = job

    def remove(self, job: ActiveJob) -> None:
        """Removes a job that the worker lets go of; may be called again."""
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]
        if not self._jobs:
            self._idle.set()

    def cancel(self, reason: Reason) -> None:
        """Ends the work on all jobs at their next await."""
        for job in self:
            job.cancel(reason)

    async def idle(self) -> None:
        """Returns once there is no job left."""
        while self._jobs:
            self._idle.clear()
            await self._idle.wait()
