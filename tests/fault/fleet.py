"""Gateways and workers as processes that are kept running, the way an orchestrator would.

A process that ended without being asked to is started again after `RESTART` seconds, on the same port. Every
end that was not ordered is remembered: what a worker had in flight then may be paid again.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import httpx

from tests.acceptance.programs import STOP, Program, spawn
from tests.fault.evidence import Check, Death
from tests.support.proxy import Proxy
from tests.support.rabbitmq import free_ports

RESTART = 1.0
"""Seconds after which a process that died is started again."""

Role = Literal["gateway", "worker"]


class Slot:
    """The place of one process: started, kept running, replaced."""

    def __init__(
        self, role: Role, number: int, env: Mapping[str, str], wire: Proxy | None, log: IO[str]
    ) -> None:
        port, probes = free_ports(2)
        port_name = "ECO2_PORT" if role == "gateway" else "ECO2_WORKER_PORT"
        self.role = role
        self.name = f"{role}-{number}"
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{probes if role == 'gateway' else port}/metrics"
        self.wire = wire
        self.env = {**env, port_name: str(port), "ECO2_PROBES_PORT": str(probes)}
        if wire is not None:
            self.env["ECO2_AMQP_URL"] = wire.url
        self._log = log
        self._program: Program | None = None
        self._up = asyncio.Event()
        self._wanted = True
        self._absent = False
        self._stopping = False
        self._killed_at: float | None = None
        self.deaths: list[Death] = []
        self.bad_ends: list[str] = []
        self.starts = 0

    @property
    def log(self) -> Path:
        """What the process writes."""
        return Path(self._log.name)

    @property
    def pid(self) -> int:
        assert self._program is not None, "not started yet"
        return self._program.process.pid

    @property
    def worker(self) -> str:
        """How the process's name in the journal begins."""
        return f"{os.uname().nodename}-{self.pid}"

    @property
    def broker_ports(self) -> list[int]:
        """Of each node that it may connect to."""
        return [int(port) for port in re.findall(r":(\d+)\b", self.env["ECO2_AMQP_URL"])]

    @property
    def _module(self) -> str:
        return "tests.support.skewed_clock" if "CLOCK_AHEAD" in self.env else "eco2"

    async def set_clock(self, ahead: float) -> None:
        """Starts it again on a machine whose clock is wrong; returns once it says so and is not ready."""
        self.env["CLOCK_AHEAD"] = str(ahead)
        starts = self.starts
        self.terminate()
        while self.starts == starts:  # noqa: ASYNC110 - a process's end
            await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            while "clock" not in await _reasons(http):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)

    def connections(self) -> int:
        """To the broker, as the kernel counts them; 0 while it is down."""
        if self._program is None or self._program.process.returncode is not None:
            return 0
        try:
            return sum(map(self._program.connections, self.broker_ports))
        except OSError:
            return 0  # it ended while we looked

    async def run(self) -> None:
        """Keeps the process running until `stop`."""
        while self._wanted:
            self._stopping, self._killed_at = False, None
            self.starts += 1
            program = self._program = await spawn(self._module, self.role, env=self.env, copy=self._log)
            reading = asyncio.create_task(program.read())
            watching = asyncio.create_task(self._ready(program))
            try:
                code = await program.process.wait()
            except asyncio.CancelledError:
                if program.process.returncode is None:
                    program.process.kill()
                raise
            finally:
                self._up.clear()
                watching.cancel()
                await reading
            if not self._stopping:
                self.deaths.append(self._death())
            elif code != 0:
                self.bad_ends.append(f"{self.name} ended {code} after SIGTERM: {list(program.lines)[-1:]}")
            while self._absent and self._wanted:  # noqa: ASYNC110 - two conditions, neither urgent
                await asyncio.sleep(0.1)
            if self._wanted:
                await asyncio.sleep(RESTART)

    def _death(self) -> Death:
        """Of a process that ended just now: when the signal was sent, if we sent one."""
        return Death(self.worker, self._killed_at or time.time())

    async def _ready(self, program: Program) -> None:
        while True:
            try:
                await program.listening()
                await program.ready()
            except (OSError, TimeoutError, httpx.HTTPError):  # on a busy machine both may take long
                continue
            self._up.set()
            return

    async def up(self) -> None:
        """Waits until it runs and says that it is ready."""
        await self._up.wait()

    def kill9(self, *, away: bool = False) -> float:
        """The process dies at once; `away`: it is not started again before `back`. Returns when."""
        self._absent = away
        self._killed_at = at = time.time()
        self._send(signal.SIGKILL)
        self._up.clear()
        return at

    def back(self) -> None:
        """It may be started again."""
        self._absent = False

    def freeze(self) -> Death:
        """SIGSTOP: it stands still, and its connections stay open."""
        death = Death(self.worker, time.time())
        self._send(signal.SIGSTOP)
        if self.role == "worker":
            self.deaths.append(death)
        return death

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    async def replace(self) -> None:
        """SIGTERM; returns once it has drained and its successor is ready."""
        starts = self.starts
        self.terminate()
        while self.starts == starts:  # noqa: ASYNC110 - a process's end
            await asyncio.sleep(0.05)
        await self.up()

    def terminate(self) -> None:
        self._stopping = True
        self._up.clear()
        self._send(signal.SIGTERM)

    async def stop(self) -> None:
        """The end: SIGTERM, and nothing follows it."""
        self._wanted = False
        if self._program is None or self._program.process.returncode is not None:
            return
        self.thaw()
        self.terminate()
        try:
            await asyncio.wait_for(self._program.process.wait(), STOP)
        except TimeoutError:
            self.bad_ends.append(f"{self.name} did not end within {STOP:g} s of its SIGTERM")
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._program is not None and self._program.process.returncode is None:
            self._program.process.send_signal(number)


async def _reasons(http: httpx.AsyncClient) -> str:
    """Why it is not ready; nothing while it cannot be asked."""
    try:
        answer = await http.get("/readyz")
    except httpx.TransportError:
        return ""
    return "" if answer.status_code == 200 else answer.text


@dataclass(frozen=True, slots=True)
class Fleet:
    """`gateways` and `workers`, each in the order in which they were started."""

    gateways: Sequence[Slot]
    workers: Sequence[Slot]

    @property
    def slots(self) -> list[Slot]:
        return [*self.gateways, *self.workers]

    @property
    def deaths(self) -> tuple[Death, ...]:
        """Of workers; a gateway pays nothing."""
        return tuple(death for slot in self.workers for death in slot.deaths)

    async def ready(self) -> None:
        async with asyncio.TaskGroup() as group:
            for slot in self.slots:
                group.create_task(slot.up())

    async def stop(self) -> None:
        """All at once, workers first: what they write last is still shown."""
        async with asyncio.TaskGroup() as group:
            for slot in self.slots:
                group.create_task(slot.stop())

    def ended_well(self) -> Check:
        """Whoever was asked to end did, with exit code 0."""
        bad = [why for slot in self.slots for why in slot.bad_ends]
        return Check("every drain ends with exit code 0", not bad, "; ".join(bad))


@asynccontextmanager
async def running(
    folder: Path,
    env: Mapping[str, str],
    gateways: int,
    workers: int,
    *,
    url: Callable[[], str],
    wire: type[Proxy] | None,
) -> AsyncIterator[Fleet]:
    """A fleet that is ready. `wire`: what each process reaches the broker over."""
    async with AsyncExitStack() as stack:

        async def slot(role: Role, number: int) -> Slot:
            own = await stack.enter_async_context(wire.to(url())) if wire else None
            log = stack.enter_context((folder / f"{role}-{number}.log").open("a"))
            return Slot(role, number, {"ECO2_AMQP_URL": url(), **env}, own, log)

        fleet = Fleet(
            [await slot("gateway", number) for number in range(gateways)],
            [await slot("worker", number) for number in range(workers)],
        )
        tasks = []
        async with asyncio.TaskGroup() as group:
            try:
                for each in fleet.slots:
                    tasks.append(group.create_task(each.run(), name=each.name))
                    if each is fleet.workers[0]:
                        await each.up()  # so that it is the oldest, and not by chance
                await fleet.ready()
                yield fleet
                await fleet.stop()
            finally:
                for task in tasks:
                    task.cancel()
