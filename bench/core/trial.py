"""Makes one measurement: a full queue, workers that empty it, a clock that runs only while all of them
work.

1. All jobs are in the queue, persistent and confirmed. 2. The workers start. 3. When each of them (each of
its processes that run jobs) has had one, and a share of all is done, the clock and the CPU meters are read.
4. They are read again while the queue still has some. 5. The rest is done, the workers are killed, and the
queue must be empty: unacked jobs would be in it again. Of jobs that sleep all count, from the first start to
the last end.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiormq.abc import AbstractChannel
from pamqp.common import FieldValue

from bench.core import filling, marks
from bench.core.contender import PREFETCH, SLEEP, WAVES, Contender
from bench.core.crew import Crew, crew
from bench.core.filling import Message
from bench.programs import PEERS, ProgramFailed, start
from eco2.broker import rabbitmq
from eco2.broker.topology import Exchange, Topology

WARM = 0.15
"""Share of all jobs before the clock runs."""
LEFT = 200
"""Jobs that are left when it stops: a worker that waits for work is not measured."""
PATIENCE = 60.0
"""Seconds for all jobs; a worker that takes longer has failed."""
LOOK = 0.01
SETTLED = 0.5
"""Seconds for the acks of the last jobs."""
RETURNED = 0.2
"""Seconds until a job that was not acked is in the queue again."""
QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement. `seconds`: how long each job sleeps; 0.0: an empty job."""

    contender: Contender
    workers: int
    seconds: float

    @property
    def jobs(self) -> int:
        if not self.seconds:
            return self.contender.jobs
        return self.contender.slots(self.seconds) * self.workers * WAVES

    @property
    def processes(self) -> int:
        """The number of processes that run jobs."""
        return self.workers * (self.contender.slots(self.seconds) if self.contender.forks else 1)

    @property
    def commands(self) -> list[list[str]]:
        return [self.contender.arguments(self.seconds, f"{place}@core") for place in range(self.workers)]


@dataclass(frozen=True, slots=True)
class Figures:
    """The result: `jobs` in `seconds`. `cpu`, `broker_cpu`: seconds of CPU per 1,000 jobs. `memory`: MB of
    all workers. `ideal`: minimum seconds for jobs that sleep; 0.0 for others."""

    jobs: int
    seconds: float
    cpu: float
    broker_cpu: float
    memory: float
    ideal: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds


@dataclass
class Bench:
    """The environment of trials. `broker`: its process, if this run started it. `profiles`: a folder;
    profiles cost speed."""

    url: str
    folder: Path
    broker: int | None = None
    profiles: Path | None = None
    _samples: dict[tuple[str, float], Message] = field(default_factory=dict)

    async def measure(self, trial: Trial) -> Figures:
        """Runs one trial. Raises `ProgramFailed` if a worker ends, is too slow, or does not ack."""
        folder = self.folder / f"{trial.contender.name}-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        connection, channel = await filling.connect(self.url)
        filled = self._journal if trial.contender.role == "eco2" else self._queue
        try:
            async with filled(trial, channel) as (queue, env):
                figures = await self._emptied(trial, folder, env)
                await asyncio.sleep(RETURNED)
                if left := (await channel.queue_declare(queue, passive=True)).message_count:
                    raise ProgramFailed(f"{left} jobs of {trial.contender.name} were not acked: see {folder}")
        finally:
            await connection.close()
        shutil.rmtree(folder)
        return figures

    async def _emptied(self, trial: Trial, folder: Path, env: Mapping[str, str]) -> Figures:
        env = {**self._env(trial.contender, folder), **env}
        async with crew(trial.commands, env, folder, self.broker) as running:
            try:
                async with asyncio.timeout(PATIENCE):
                    if trial.seconds:
                        figures = await _sleeping(running, folder, trial)
                    else:
                        figures = await _idle(running, folder, trial, self.profiles)
            except TimeoutError as error:
                raise ProgramFailed(f"{trial.contender.name} took too long: see {folder}") from error
            await asyncio.sleep(SETTLED)
        return figures

    @asynccontextmanager
    async def _queue(
        self, trial: Trial, channel: AbstractChannel
    ) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
        """Fills a queue for the contender, and checks afterwards that it is empty."""
        contender = trial.contender
        sample = await self._sample(contender, trial.seconds, channel)
        try:
            await filling.fill(channel, contender.queue, filling.copies(sample, trial.jobs))
            yield contender.queue, {}
        finally:
            for queue in filter(None, (contender.queue, contender.results)):
                await channel.queue_purge(queue)

    @asynccontextmanager
    async def _journal(
        self, trial: Trial, channel: AbstractChannel
    ) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
        """Prepares an installation of eco2 with jobs in its queue and its journal, and removes it
        afterwards."""
        topology = Topology(f"core-{uuid.uuid4().hex[:8]}", ("core",))
        queue = topology.queue("jobs.core")
        await rabbitmq.apply(self.url, topology)
        try:
            jobs = filling.jobs(trial.seconds, trial.jobs)
            await filling.announce(channel, topology.stream, jobs)
            await filling.fill(channel, queue, filling.orders(jobs))
            yield queue, _settings(self.url, topology)
        finally:
            for entity in topology.entities:
                if isinstance(entity, Exchange):
                    await channel.exchange_delete(entity.name)
                else:
                    await channel.queue_delete(entity.name)

    async def _sample(self, contender: Contender, seconds: float, channel: AbstractChannel) -> Message:
        """Returns a job that the contender's own client made; this also declares its queues."""
        if (contender.name, seconds) not in self._samples:
            for queue in filter(None, (contender.results, "" if contender.module else contender.queue)):
                await channel.queue_declare(queue, durable=True, arguments=QUORUM)
            made = filling.plain(seconds)
            if contender.module:
                name, arguments = f"{contender.name}-client", [contender.module, str(seconds)]
                env = self._env(contender, self.folder)
                client = await start(name, arguments, self.folder, env, PEERS)
                try:
                    await client.ended(PATIENCE)
                finally:
                    await client.kill()
                made = await filling.taken(channel, contender.queue)
            self._samples[contender.name, seconds] = made
        return self._samples[contender.name, seconds]

    def _env(self, contender: Contender, folder: Path) -> dict[str, str]:
        return {
            "CORE_URL": self.url,
            "CORE_QUEUE": contender.queue,
            "CORE_RESULTS": contender.results,
            "CORE_PREFETCH": str(PREFETCH),
            "CORE_MARKS": str(folder),
            **contender.env,
        }


def _settings(url: str, topology: Topology) -> dict[str, str]:
    """Returns the settings of `eco2 worker`."""
    return {
        "ECO2_AMQP_URL": url,
        "ECO2_PREFIX": topology.prefix,
        "ECO2_PIPELINES": "bench.core.engine.pipeline:core",
        "ECO2_PREFETCH": str(PREFETCH),
        "ECO2_RETENTION_HOURS": str(topology.retention_hours),
        "ECO2_WORKER_PORT": "0",
        "ECO2_LOG_LEVEL": "warning",
        "OPENAI_API_KEY": "no call is made",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }


async def _idle(running: Crew, folder: Path, trial: Trial, profiles: Path | None) -> Figures:
    def warm(done: marks.Tally) -> bool:
        return done.processes >= trial.processes and done.ended >= trial.jobs * WARM

    await _until(running, folder, warm)
    if profiles is not None:
        await running.profile(profiles / f"{trial.contender.name}.txt")
    began, first = time.monotonic(), marks.read(folder)
    cpu, broker = running.cpu(), running.broker_cpu()
    if first.ended > trial.jobs / 2:
        raise ProgramFailed(f"one worker was ready long before another: see {folder}")
    await _until(running, folder, lambda done: done.ended >= trial.jobs - LEFT)
    seconds, last = time.monotonic() - began, marks.read(folder)
    cpu, broker = running.cpu() - cpu, running.broker_cpu() - broker
    memory = running.memory()
    await _until(running, folder, lambda done: done.ended >= trial.jobs)
    jobs = last.ended - first.ended
    return Figures(jobs, seconds, 1000 * cpu / jobs, 1000 * broker / jobs, memory, 0.0)


async def _sleeping(running: Crew, folder: Path, trial: Trial) -> Figures:
    await _until(running, folder, lambda done: done.begun > 0)
    cpu, broker = running.cpu(), running.broker_cpu()
    await _until(running, folder, lambda done: done.begun >= trial.jobs)
    memory = running.memory()
    await _until(running, folder, lambda done: done.ended >= trial.jobs)
    cpu, broker = running.cpu() - cpu, running.broker_cpu() - broker
    done, jobs = marks.read(folder), trial.jobs
    seconds = done.last - done.first
    return Figures(jobs, seconds, 1000 * cpu / jobs, 1000 * broker / jobs, memory, WAVES * SLEEP)


async def _until(running: Crew, folder: Path, reached: Callable[[marks.Tally], bool]) -> None:
    while not reached(marks.read(folder)):
        running.check()
        await asyncio.sleep(LOOK)
