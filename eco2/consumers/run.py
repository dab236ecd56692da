"""One run: a job in the hands of this worker, from its delivery to its settling.

The only mutable value of the engine: the delivery may be replaced by a redelivery, and the run may be
interrupted. An interrupt ends the run's timeout scope, so no task is cancelled from outside.
"""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never

from eco2.event import JobEvent
from eco2.job import Job
from eco2.journal.journal import Journal
from eco2.pipeline import AnyPipeline
from eco2.ports import Delivery


class Run:
    def __init__(self, job: Job, pipeline: AnyPipeline, delivery: Delivery, journal: Journal) -> None:
        self.id = uuid.uuid4().hex
        self.job = job
        self.pipeline = pipeline
        self.delivery = delivery
        self.opened = False
        self.interrupted: str | None = None
        self._journal = journal
        self._draining = False
        self._calling = False
        self._scope: asyncio.Timeout | None = None
        self._written: asyncio.Future[None] | None = None

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

    def scope(self, seconds: float) -> asyncio.Timeout:
        """The time that the stages have. `interrupt` ends it early."""
        self._scope = asyncio.timeout(seconds)
        return self._scope

    def close(self) -> None:
        """The stages are over: from here on nothing interrupts the run."""
        self._scope = None

    def interrupt(self, reason: str) -> None:
        """Ends the stages at their next await; `interrupted` tells why."""
        if self._scope is not None and not self._scope.expired():
            self.interrupted = self.interrupted or reason
            self._scope.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """Stops the run: now, or before its next model call if one is in flight."""
        self._draining = True
        if not self._calling:
            self.interrupt("drain")

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A model call is in flight: a drain waits for it."""
        self._calling = True
        try:
            yield
        finally:
            self._calling = False

    async def may_call(self) -> None:
        """Returns if the run may begin a model call; a draining run ends here instead."""
        if self._draining or self.interrupted:
            await self._leave()

    async def _leave(self) -> Never:
        self.interrupt("drain")
        await asyncio.get_running_loop().create_future()  # the scope ends this wait
        raise AssertionError("an interrupted run went on")
