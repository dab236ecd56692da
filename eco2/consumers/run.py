"""One job in the hands of this worker, from its delivery to its settling, and its run at present."""

import asyncio
import uuid

from eco2.consumers.interrupt import Interrupt
from eco2.event import JobEvent
from eco2.job import Job
from eco2.journal.journal import Journal
from eco2.pipeline import AnyPipeline
from eco2.ports import Delivery


class Run:
    """`delivery` may be replaced by a redelivery; `opened`: the journal has shown that the run is current.

    `deadline`: the job's, by the clock of this process (Unix seconds). `retries`: how often the job was put
    off since it last got on. `offset`, `started`: its rank, see `eco2.ports.Claim`.
    """

    def __init__(self, job: Job, pipeline: AnyPipeline, delivery: Delivery, journal: Journal) -> None:
        self.id = uuid.uuid4().hex
        self.job = job
        self.pipeline = pipeline
        self.delivery = delivery
        self.opened = False
        self.deadline = job.deadline
        self.retries = 0
        self.offset = 0
        self.started = False
        self.interrupt = Interrupt()
        self._journal = journal
        self._written: asyncio.Future[None] | None = None

    def renew(self) -> None:
        """This run was overtaken and is void for good; what this worker does for the job now is another."""
        self.id = uuid.uuid4().hex
        self.opened = False
        self.interrupt.reset()

    def adopt(self, delivery: Delivery) -> Delivery:
        """Takes over a redelivery of the job; returns the one that it replaces, dead or a double."""
        double, self.delivery = self.delivery, delivery
        return double

    def write(self, *events: JobEvent) -> None:
        """Puts events of this run into the journal, in order, without waiting."""
        self._written = self._journal.put(*events)

    async def confirmed(self) -> None:
        """Returns once everything that this run wrote is confirmed."""
        if self._written is not None:
            await asyncio.shield(self._written)  # cancelling the future itself would withdraw the events
