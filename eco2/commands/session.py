"""An operator's command as a process of the installation: connected, with a view filled from the journal.

It never makes anything at the broker: a mistyped prefix is an error, not a second installation.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from eco2 import brokers, service
from eco2.assembly import pipelines
from eco2.broker.topology import Topology
from eco2.commands.waiting import waiting
from eco2.errors import ConfigurationError, Eco2Error, JobForgotten
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.operator.letters import Letter
from eco2.pipeline import AnyPipeline
from eco2.ports import Broker
from eco2.service import Component
from eco2.settings import Settings


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with, for as long as it runs."""

    settings: Settings
    topology: Topology
    pipelines: Mapping[str, AnyPipeline]
    broker: Broker
    journal: Journal

    def letters(self, limit: int) -> AbstractAsyncContextManager[list[Letter]]:
        """The oldest dead letters, in our hands while the block lasts; what is not dropped goes back."""
        return brokers.letters(self.settings, self.topology, limit)  # type: ignore[return-value]  # a narrower list

    async def find(self, jobs: Iterable[str]) -> dict[str, JobState | None]:
        """What the journal says of each job; None if it does not know it, or not any more."""
        wanted = list(jobs)
        found: dict[str, JobState | None] = {}
        with waiting(f"the journal's word on {len(wanted)} jobs") as tell:

            async def find(job: str) -> None:
                try:
                    found[job] = await self.journal.find(job)
                except JobForgotten:
                    found[job] = None
                tell(f"{len(found)} found")

            async with asyncio.TaskGroup() as group:
                for job in wanted:
                    group.create_task(find(job))
        return found


@asynccontextmanager
async def session(settings: Settings, command: str) -> AsyncIterator[Session]:
    """Open while the block lasts. Raises `ConfigurationError` for wrong settings, `BrokerUnavailable`."""
    if settings.amqp_url is None:
        raise ConfigurationError(
            f"`eco2 {command}` works on the RabbitMQ of gateways and workers: set ECO2_AMQP_URL to it"
        )
    loaded = pipelines(settings)
    topology = brokers.topology(settings, loaded)
    with waiting("the broker"):
        if differences := await brokers.check(settings, topology):
            raise ConfigurationError(
                "\n".join(["no installation is at this broker (ECO2_PREFIX?):", *differences])
            )
    broker = brokers.open_broker(settings, topology, command, alone=False)
    journal = Journal(broker, settings.view_minutes * 60, time.time)
    stop = asyncio.Event()
    running = [Component("broker", broker.run), Component("journal", journal.run)]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(running, stop))
            with waiting(f"the journal of the last {settings.view_minutes:g} minutes"):
                await journal.filled.wait()
            yield Session(settings, topology, {each.name: each for each in loaded}, broker, journal)
            stop.set()
    except BaseExceptionGroup as failures:
        if (cause := _cause(failures)) is not None:
            raise cause from None
        raise


def _cause(error: BaseException) -> Eco2Error | None:
    """The one error of ours that everything else followed from."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Eco2Error) else None
