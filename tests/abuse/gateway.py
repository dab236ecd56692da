"""A gateway in a process of its own under hostile requests, and what it and its children use."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.acceptance.programs import Program, eco2

EVERY = 0.01
"""Seconds between two looks at the children, which may live for less than a second."""


@dataclass
class Usage:
    """Bytes at the most, while it was watched. `gateway`: of the process itself; `children`: of all that
    lived at one time, each at its own peak. `processes`: children that lived at one time."""

    gateway: int = 0
    children: int = 0
    processes: int = 0

    def look(self, pid: int) -> None:
        self.gateway = max(self.gateway, peak(pid))
        living = children(pid)
        self.processes = max(self.processes, len(living))
        self.children = max(self.children, sum(peak(child) for child in living))


@dataclass(frozen=True)
class Victim:
    """A running gateway. `http`: a client of it, without limits of its own."""

    program: Program
    http: httpx.AsyncClient

    @property
    def pid(self) -> int:
        return self.program.process.pid

    async def photo(self, data: bytes) -> httpx.Response:
        """Uploads a picture."""
        return await self.http.post("/scan", files={"image": ("photo", data, "image/jpeg")})

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Usage]:
        """Measures the gateway during the block; complete at its end."""
        usage = Usage()

        async def watch() -> None:
            while True:
                usage.look(self.pid)
                await asyncio.sleep(EVERY)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            yield usage
            watching.cancel()
        usage.look(self.pid)


@asynccontextmanager
async def gateway(amqp_url: str, prefix: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Victim]:
    """A ready gateway, which must end by itself after a SIGTERM."""
    own = {"ECO2_AMQP_URL": amqp_url, "ECO2_PREFIX": prefix, "ECO2_PORT": "0"}
    limits = httpx.Limits(max_connections=None)
    async with (
        eco2("gateway", env={**own, **(env or {})}) as program,
        httpx.AsyncClient(base_url=program.url, timeout=60, limits=limits, trust_env=False) as http,
    ):
        yield Victim(program, http)


def children(pid: int) -> list[int]:
    """The child processes that live."""
    with suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def peak(pid: int) -> int:
    """The largest resident memory of a process, in bytes; 0 once it is gone."""
    return _status(pid).get("VmHWM", 0) * 1024


def alive(pid: int) -> bool:
    """Whether the process runs: it is neither gone nor a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def cpu_seconds_of_all(pid: int) -> float:
    """CPU time that the process and its children have used, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / 100
    return cpu_seconds(pid) + ended + sum(cpu_seconds(child) for child in children(pid))


def starved(*pids: int) -> float:
    """Seconds that the main threads of the processes have waited for a CPU that other programs had."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in pids) / 1e9


def _status(pid: int) -> dict[str, int]:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in lines)
            if name.startswith("Vm")
        }
    return {}
