"""Connects a command to the installation: to the broker, with a view filled from the journal.

It creates nothing at the broker: a mistyped prefix is an error, not a second installation.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from eco2 import brokers, service
from eco2.assembly import pipelines
from eco2.broker.topology import Topology
from eco2.commands.bootstrap import first_error
from eco2.commands.spinner import spinner
from eco2.errors import ConfigurationError, Eco2Error, JobForgotten
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.operator.dead_jobs import DeadMessage
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker
from eco2.service import Component
from eco2.settings import Settings

MAX_ENDED_BYTES = 200_000_000
"""Bytes of ended jobs that a command keeps, packed; the oldest beyond that are left out."""


@dataclass(frozen=True, slots=True)
class OperatorSession:
    """The connections and settings of a running command."""

    settings: Settings
    topology: Topology
    pipelines: Mapping[str, AnyPipeline]
    broker: Broker
    journal: Journal

    def letters(self, limit: int) -> AbstractAsyncContextManager[list[DeadMessage]]:
        """Holds the oldest dead letters while the block runs; those not dropped return to the queue."""
        return brokers.open_dead_letters(self.settings, self.topology, limit)  # type: ignore[return-value]  # a narrower list

    async def find(self, jobs: Iterable[str]) -> dict[str, JobState | None]:
        """Returns the state of each job; None if the journal does not have it (any more)."""
        ids = list(jobs)
        states: dict[str, JobState | None] = {}
        with spinner(f"the states of {len(ids)} jobs in the journal") as show_progress:

            async def find(job: str) -> None:
                try:
                    states[job] = await self.journal.find(job)
                except JobForgotten:
                    states[job] = None
                show_progress(f"{len(states)} found")

            async with asyncio.TaskGroup() as group:
                for job in ids:
                    group.create_task(find(job))
        return states


@asynccontextmanager
async def open_session(
    settings: Settings, command: str, ended: float | None = None
) -> AsyncIterator[OperatorSession]:
    """Connects while the block runs. Raises `ConfigurationError` for wrong settings, `BrokerUnavailable`.

    `ended`: seconds; the view also has the jobs accepted so long ago that have ended (`MAX_ENDED_BYTES`).
    """
    if settings.amqp_url is None:
        raise ConfigurationError(
            f"`eco2 {command}` needs the RabbitMQ of the gateways and workers: set ECO2_AMQP_URL to it"
        )
    loaded = pipelines(settings)
    topology = brokers.topology(settings, loaded)
    with spinner("the broker"):
        if differences := await brokers.check(settings, topology):
            raise ConfigurationError(
                "\n".join(["this broker has no such installation; check ECO2_PREFIX:", *differences])
            )
    broker = brokers.open_broker(settings, topology, command, alone=False)
    life = brokers.longest_life(settings, loaded)
    if ended is None:
        view = View(settings.view_minutes * 60, time.time, life=life)
        journal = Journal(broker, view, snapshots=broker)
    else:  # without a snapshot, which has no jobs that ended before it
        view = View(ended, time.time, life=life, results=MAX_ENDED_BYTES)
        journal = Journal(broker, view)
    stop = asyncio.Event()
    components = [Component("broker", broker.run), Component("journal", journal.run)]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(components, stop))
            with spinner("the journal of the last minutes"):
                await journal.filled.wait()
            yield OperatorSession(settings, topology, {each.name: each for each in loaded}, broker, journal)
            stop.set()
    except BaseExceptionGroup as failures:
        if isinstance(error := first_error(failures), Eco2Error):
            raise error from None
        raise
