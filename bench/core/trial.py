"""One measurement: a queue that is full, workers that empty it, a clock that runs only while all of them do.

1. All jobs are in the queue, persistent and confirmed. 2. The workers start. 3. Once each of them (each of its
processes that run jobs) has had one and a share of all is done, the clock and the CPU meters are read. 4. They
are read again while the queue still has some left. 5. The rest is done, the workers are killed, and the queue
must be empty: what was not acked would come back. Of sleeping jobs all count, from the first that begins to
the last that ends.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiormq.abc import AbstractChannel

from bench.core import filling, marks
from bench.core.contender import PREFETCH, SLEEP, Contender
from bench.core.crew import Crew, WorkerFailed, crew
from bench.core.filling import Message
from bench.programs import PEERS
from eco2.broker import rabbitmq
from eco2.broker.topology import Exchange, Topology

WARM = 0.15
"""Share of all jobs before the clock runs."""
LEFT = 200
"""Jobs that are still to do when it stops: a worker that has nothing to do is not measured."""
PATIENCE = 60.0
"""Seconds for all of it; a worker that takes longer has failed."""
LOOK = 0.01
SETTLED = 0.5
"""Seconds for the acks of the last jobs."""


@dataclass(frozen=True, slots=True)
class Figures:
    """`jobs` in `seconds`; `cpu`, `broker_cpu`: seconds of CPU per 1,000 of them; `memory`: MB of all workers; `ideal`: seconds
    that sleeping jobs take at least."""

    jobs: int
    seconds: float
    cpu: float
    memory: float
    broker_cpu: float = 0.0
    ideal: float = 0.0

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds


@dataclass(frozen=True, slots=True)
class Bench:
    """Where trials run. `profiles`: a folder for profiles of what runs while the clock does; it costs speed.
    `node`: the broker's process, if it is ours."""

    url: str
    folder: Path
    samples: dict[tuple[str, float], Message]
    profiles: Path | None = None
    node: int | None = None

    async def sample(self, contender: Contender, seconds: float, channel: AbstractChannel) -> Message:
        """A job as the contender's own client makes it; its queues exist afterwards."""
        known = self.samples.get((contender.name, seconds))
        if known is None:
            known = await self._published(contender, seconds, channel)
            self.samples[contender.name, seconds] = known
        return known

    async def _published(self, contender: Contender, seconds: float, channel: AbstractChannel) -> Message:
        queue = f"core.{contender.name}"
        if contender.role == "stores":
            await channel.queue_declare(f"{queue}.results", durable=True, arguments={"x-queue-type": "quorum"})
        if not contender.module:
            await channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
            return filling.plain(seconds)
        env = self.env(contender, queue, self.folder)
        log = self.folder / f"{contender.name}-sample.log"
        async with crew([[str(PEERS), "-m", contender.module, str(seconds)]], env, log) as publisher:
            code = await publisher.ended()
        if code:
            raise WorkerFailed(f"no job could be made: see {log}")
        return await filling.taken(channel, queue)

    def env(self, contender: Contender, queue: str, folder: Path) -> dict[str, str]:
        return {
            "CORE_URL": self.url,
            "CORE_QUEUE": queue,
            "CORE_PREFETCH": str(PREFETCH),
            "CORE_MARKS": str(folder),
            **contender.env,
        }


async def measure(bench: Bench, contender: Contender, workers: int, seconds: float, share: float) -> Figures:
    """`share` of the usual number of jobs."""
    number = contender.sleepers(workers) if seconds else round(contender.jobs * share)
    folder = bench.folder / f"{contender.name}-{workers}-{seconds:g}-{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    connection, channel = await filling.connect(bench.url)
    try:
        if contender.role == "eco2":
            return await _engine(bench, contender, workers, seconds, number, folder, channel)
        sample = await bench.sample(contender, seconds, channel)
        queue = f"core.{contender.name}"
        await filling.fill(channel, queue, filling.copies(sample, number))
        env = bench.env(contender, queue, folder)
        try:
            return await _run(bench, contender, workers, seconds, number, env, folder, channel, queue)
        finally:
            await channel.queue_purge(queue)
            if contender.role == "stores":
                await channel.queue_purge(f"{queue}.results")
    finally:
        await connection.close()


async def _engine(
    bench: Bench,
    contender: Contender,
    workers: int,
    seconds: float,
    number: int,
    folder: Path,
    channel: AbstractChannel,
) -> Figures:
    """With queues of its own, so that the journal holds the jobs of this trial only."""
    prefix = f"core-{uuid.uuid4().hex[:8]}"
    topology = Topology(prefix, ("core",), ("sweep", "quota-openai"))
    await rabbitmq.apply(bench.url, topology)
    queue = topology.queue("jobs.core")
    try:
        jobs = filling.jobs(seconds, number)
        await filling.announce(channel, topology, jobs)
        await filling.fill(channel, queue, filling.orders(jobs))
        env = bench.env(contender, queue, folder) | {
            "ECO2_AMQP_URL": bench.url,
            "ECO2_PREFIX": prefix,
            "ECO2_PIPELINES": "bench.core.engine.pipeline:core",
            "ECO2_PREFETCH": str(PREFETCH),
            "ECO2_RETENTION_HOURS": str(topology.retention_hours),
            "ECO2_WORKER_PORT": "0",
            "ECO2_LOG_LEVEL": "warning",
            "OPENAI_API_KEY": "no call is made",
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        }
        return await _run(bench, contender, workers, seconds, number, env, folder, channel, queue)
    finally:
        for entity in topology.entities:
            if isinstance(entity, Exchange):
                await channel.exchange_delete(entity.name)
            else:
                await channel.queue_delete(entity.name)


async def _run(
    bench: Bench,
    contender: Contender,
    workers: int,
    seconds: float,
    number: int,
    env: dict[str, str],
    folder: Path,
    channel: AbstractChannel,
    queue: str,
) -> Figures:
    slots = contender.slots(seconds)
    commands = [
        [
            str(PEERS),
            "-m",
            *(
                word.format(slots=slots, node=f"{place}@core", multiplier=max(1, PREFETCH // slots))
                for word in contender.command
            ),
        ]
        for place in range(workers)
    ]
    async with crew(commands, env, folder / "workers.log", bench.node) as running:
        watch = _sleeping if seconds else _idle
        async with asyncio.timeout(PATIENCE):
            profile = bench.profiles and bench.profiles / f"{contender.name}.txt"
            processes = workers * (slots if contender.forks else 1)
            figures = await watch(running, folder, number, processes, slots * workers, profile)
        await asyncio.sleep(SETTLED)
    await asyncio.sleep(0.2)
    left = (await channel.queue_declare(queue, passive=True)).message_count
    if left:
        raise WorkerFailed(f"{left} jobs of {contender.name} were not acked: see {folder}")
    shutil.rmtree(folder)
    return figures


async def _idle(running: Crew, folder: Path, number: int, processes: int, _: int, profile: Path | None) -> Figures:
    await _until(running, folder, lambda done: done.processes >= processes and done.ended >= number * WARM)
    if profile is not None:
        await running.profile(profile)
    begin, begin_cpu, begin_broker = marks.read(folder), running.cpu(), running.broker_cpu()
    began = time.monotonic()
    if begin.ended > number / 2:
        raise WorkerFailed(f"the workers started too late after each other: see {folder}")
    await _until(running, folder, lambda done: done.ended >= number - LEFT)
    end, end_cpu, end_broker = marks.read(folder), running.cpu(), running.broker_cpu()
    seconds = time.monotonic() - began
    memory = running.memory()
    await _until(running, folder, lambda done: done.ended >= number)
    jobs = end.ended - begin.ended
    thousands = jobs / 1000
    return Figures(
        jobs, seconds, (end_cpu - begin_cpu) / thousands, memory, (end_broker - begin_broker) / thousands
    )


async def _sleeping(running: Crew, folder: Path, number: int, _: int, slots: int, __: Path | None) -> Figures:
    await _until(running, folder, lambda done: done.begun > 0)
    cpu, broker = running.cpu(), running.broker_cpu()
    await _until(running, folder, lambda done: done.begun >= number)
    memory = running.memory()
    await _until(running, folder, lambda done: done.ended >= number)
    done, cpu, broker = marks.read(folder), running.cpu() - cpu, running.broker_cpu() - broker
    thousands = number / 1000
    return Figures(
        number,
        done.last - done.first,
        cpu / thousands,
        memory,
        broker / thousands,
        number / slots * SLEEP,
    )


async def _until(running: Crew, folder: Path, reached: Callable[[marks.Tally], bool]) -> None:
    while not reached(marks.read(folder)):
        running.check()
        await asyncio.sleep(LOOK)
