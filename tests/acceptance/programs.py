"""Real `eco2` processes for acceptance tests: started, waited for until ready, stopped by SIGTERM."""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import httpx

from tests.clients.provider import NO_LIMITS

START = 30.0
"""Seconds in which a process must listen and be ready."""
STOP = 30.0

_ANNOUNCED = re.compile(r" on (http://\S+)")


class Program:
    """A running `eco2 …`. `url`: what it listens on."""

    def __init__(self, process: asyncio.subprocess.Process, copy: IO[str] | None = None) -> None:
        self.process = process
        self._copy = copy
        self.url = ""
        self.lines: deque[str] = deque(maxlen=200)
        self._announced = asyncio.Event()

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            if self._copy is not None:
                print(line, file=self._copy, flush=True)
            if not self.url and (found := _ANNOUNCED.search(line)):
                self.url = found[1]
                self._announced.set()
        self._announced.set()

    async def listening(self) -> None:
        async with asyncio.timeout(START):
            await self._announced.wait()
        assert self.url, self.log()

    async def ready(self) -> None:
        """Waits for /readyz to say 200."""
        async with httpx.AsyncClient(base_url=self.url) as client, asyncio.timeout(START):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # HTTP sets no event
                await asyncio.sleep(0.05)

    def connections(self, port: int) -> int:
        """TCP connections of the process to `port`, as the kernel counts them."""
        root = Path(f"/proc/{self.process.pid}")
        inodes = {os.readlink(fd) for fd in (root / "fd").iterdir() if fd.exists()}
        rows = [line.split() for name in ("tcp", "tcp6") for line in _lines(root / "net" / name)]
        ours = {
            row[9]
            for row in rows
            if int(row[2].rsplit(":", 1)[1], 16) == port and row[3] == "01" and f"socket:[{row[9]}]" in inodes
        }
        return len(ours)  # the kernel may list one twice while the table changes

    def log(self) -> str:
        return "\n".join(self.lines)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []


@asynccontextmanager
async def eco2(
    *args: str, env: Mapping[str, str] | None = None, probe: bool = True
) -> AsyncIterator[Program]:
    """Runs `eco2 args…`; on leaving it must end by itself, with exit code 0, after a SIGTERM."""
    program = await spawn("eco2", *args, env=env)
    process = program.process
    async with asyncio.TaskGroup() as group:
        group.create_task(program.read())
        try:
            await program.listening()
            if probe:
                await program.ready()
            yield program
        except BaseException:
            process.kill()
            raise
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), STOP)
    assert process.returncode == 0, program.log()


async def spawn(
    module: str, *args: str, env: Mapping[str, str] | None = None, copy: IO[str] | None = None
) -> Program:
    """Starts `python -m module args…`; whoever calls reads its lines (also into `copy`) and ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *args,
        env={**clean_environment(), **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return Program(process, copy)


def clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ECO2_", "OPENAI_"))}


@asynccontextmanager
async def provider(scale: float) -> AsyncIterator[dict[str, str]]:
    """A fake provider; yields the environment that makes a worker use it."""
    limits = ("--rpm", "0", "--tpm", "0")
    async with eco2("fake-openai", "--port", "0", "--scale", str(scale), *limits, probe=False) as fake:
        yield {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": fake.url, "ECO2_IMAGE_URLS": "on", **NO_LIMITS}
