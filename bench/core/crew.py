"""The workers of one trial: started, watched, killed, with everything that they have started themselves."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bench.programs import PEERS

BOUND = 90
"""Seconds after which a worker dies even if the bench could not end it."""
_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerFailed(Exception):
    """A worker did not do what it should; the message says where its log is."""


class Crew:
    """Each worker leads a session of its own; whatever it starts stays in there."""

    def __init__(self, log: Path, node: int | None) -> None:
        self._workers: list[asyncio.subprocess.Process] = []
        self._log = log
        self._node = node

    def check(self) -> None:
        """Raises `WorkerFailed` if one has ended."""
        if any(worker.returncode is not None for worker in self._workers):
            raise WorkerFailed(f"a worker has ended: see {self._log}")

    async def ended(self) -> int:
        """The greatest exit code, once all have ended by themselves."""
        return max([await worker.wait() for worker in self._workers])

    def cpu(self) -> float:
        """Seconds of user and system time that all of their processes have taken."""
        return sum(int(stat[11]) + int(stat[12]) for _, stat in self._processes()) / _TICKS

    def broker_cpu(self) -> float:
        """The same of the broker; 0.0 where it is not ours."""
        if self._node is None:
            return 0.0
        stat = Path(f"/proc/{self._node}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    def memory(self) -> float:
        """Their proportional share, in MB."""
        return sum(_pss(pid) for pid, _ in self._processes()) / 1024

    async def profile(self, file: Path) -> None:
        """Samples the busiest process for two seconds: collapsed stacks, one a line, for any flame graph."""
        busiest, _ = max(self._processes(), key=lambda each: int(each[1][11]))
        spy = str(PEERS.with_name("py-spy"))
        command = [spy, "record", "-d", "2", "-r", "500", "-f", "raw", "-o", str(file), "-p", str(busiest)]
        await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)

    def _processes(self) -> list[tuple[int, list[str]]]:
        sessions = {str(worker.pid) for worker in self._workers}
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                stat = path.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat[3] in sessions:
                found.append((int(path.parent.name), stat))
        return found

    async def kill(self) -> None:
        for pid, _ in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self._workers:
            await worker.wait()


@asynccontextmanager
async def crew(commands: list[list[str]], env: Mapping[str, str], log: Path, node: int | None = None) -> AsyncIterator[Crew]:
    """Started inside, gone afterwards."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ECO2_", "OPENAI_"))}
    here = Crew(log, node)
    try:
        for command in commands:
            with log.open("ab") as output:
                here._workers.append(
                    await asyncio.create_subprocess_exec(
                        "timeout",
                        "--signal=KILL",
                        str(BOUND),
                        *command,
                        env={**kept, **env},
                        stdin=DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        yield here
    finally:
        await here.kill()


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
