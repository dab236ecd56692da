"""The workers of one trial: starts, watches and kills them, with all their child processes."""

import asyncio
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench import programs
from bench.processes import cpu, family, pss
from bench.programs import PEERS, Program, ProgramFailed

PROFILED = 2
"""Seconds that a profile takes."""


class Crew:
    """The workers. `broker`: its process, if this run started it."""

    def __init__(self, workers: Sequence[Program], broker: int | None) -> None:
        self._workers = workers
        self._broker = broker

    def check(self) -> None:
        """Raises `ProgramFailed` if a worker has ended."""
        for worker in self._workers:
            if not worker.running:
                raise ProgramFailed(f"{worker.name} has ended: see {worker.log}")

    def cpu(self) -> float:
        """Returns the CPU seconds of all their processes."""
        return cpu(self._processes())

    def broker_cpu(self) -> float:
        """Returns the CPU seconds of the broker; 0.0 if this run did not start it."""
        return cpu([self._broker]) if self._broker is not None else 0.0

    def memory(self) -> float:
        """Returns the MB of all their processes."""
        return pss(self._processes())

    async def profile(self, file: Path) -> None:
        """Samples the busiest process from now on: collapsed stacks, one per line, for flame graphs."""
        busiest = max(self._processes(), key=lambda pid: cpu([pid]))
        await asyncio.create_subprocess_exec(
            *(str(PEERS.with_name("py-spy")), "record", "--format", "raw", "--rate", "500"),
            *("--duration", str(PROFILED), "--output", str(file), "--pid", str(busiest)),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )

    def _processes(self) -> list[int]:
        return [pid for worker in self._workers for pid in family(worker.pid)]


@asynccontextmanager
async def crew(
    commands: Sequence[Sequence[str]], env: Mapping[str, str], folder: Path, broker: int | None
) -> AsyncIterator[Crew]:
    """Starts the workers in the contender's environment, and ends them afterwards."""
    workers: list[Program] = []
    try:
        for place, command in enumerate(commands, start=1):
            workers.append(await programs.start(f"worker-{place}", [*command], folder, env, PEERS))
        yield Crew(workers, broker)
    finally:
        for worker in workers:
            await worker.kill()
