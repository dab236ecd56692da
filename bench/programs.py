"""Starts, reads, freezes and kills the processes of a benchmark. None outlives the block that started it."""

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx

START = 40.0
"""Seconds in which a process must listen and be ready."""
_BUILD = Path(__file__).parent.parent / "build"
PEERS = _BUILD / "bench-venv" / "bin" / "python"
"""The Python that has the queues of bench/core, and eco2 (`scripts/setup-bench`)."""
CELERY = _BUILD / "seed-venv" / "bin" / "python"
"""The one with the seed's system and Locust, and eco2, but nothing of the other queues: OpenAI's SDK imports
aiohttp wherever it finds it, which taskiq brings, and no process of the seed had or needs those 9 MB."""
_ANNOUNCED = re.compile(r" on (http://\S+)")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ProgramFailed(Exception):
    """A process did not start, or ended unexpectedly; the message names its log."""


class Program:
    """A running process. `url`: its address. Its log is a file of its name."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.url = ""
        self._process = process
        self._log = log

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._log

    async def listening(self) -> None:
        """Waits until it has printed its address."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START
        while not (found := _ANNOUNCED.search(self._log.read_text(errors="replace"))):
            if not self.running or loop.time() > deadline:
                raise ProgramFailed(f"{self.name} does not listen: see {self._log}")
            await asyncio.sleep(0.05)
        self.url = found[1]

    async def ready(self, http: httpx.AsyncClient) -> None:
        """Waits until /readyz is 200."""
        try:
            async with asyncio.timeout(START):
                while (await http.get(f"{self.url}/readyz")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise ProgramFailed(f"{self.name} is not ready: see {self._log}") from error

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    async def ended(self, within: float) -> None:
        """Waits until it has ended with exit code 0."""
        try:
            code = await asyncio.wait_for(self._process.wait(), within)
        except TimeoutError as error:
            raise ProgramFailed(f"{self.name} did not end within {within:g} s: see {self._log}") from error
        if code != 0:
            raise ProgramFailed(f"{self.name} ended with exit code {code}: see {self._log}")

    async def kill(self) -> None:
        """Kills it and all its child processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


async def start(
    name: str,
    arguments: list[str],
    folder: Path,
    env: Mapping[str, str],
    python: Path | str = sys.executable,
) -> Program:
    """Runs `python -m <arguments>`, without this process' own settings. It ends with this process at the
    latest, however that ends."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ECO2_", "OPENAI_"))}
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-m",
            *arguments,
            env={**kept, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches only the bench, which then ends them
            preexec_fn=_die_with_parent,
        )
    return Program(name, process, log)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
