"""The events of the run: a load, and once each condition that a series measures.

Times are short, since a call takes a second: the run shows that a condition is visible, not how often it
happens.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.acceptance.programs import spawn
from tests.fault.clients import Follower, Submitter, open_http
from tests.fault.fleet import Fleet, running
from tests.fault.pipelines import FLOOD
from tests.fault.provider import Provider, providing
from tests.support.proxy import Proxy

CALL = 1.0
"""Seconds of a model call on average."""
PIPELINES = "eco2.stages:scan,tests.fault.pipelines:bug,tests.fault.pipelines:flood"
SETTINGS = {
    "ECO2_PIPELINES": PIPELINES,
    "ECO2_LOG_FORMAT": "json",
    "ECO2_RPM": "300",
    "ECO2_TPM": "600000",
    "ECO2_DAILY_USD": "5",
    "ECO2_MAX_WAIT": "40",
    "ECO2_TIMEOUT": "40",
    "ECO2_CALL_TIMEOUT": "15",
    "ECO2_DRAIN_GRACE": "20",
    "ECO2_HOLDER_TIMEOUT": "4",
    "ECO2_HEARTBEAT": "1",
    "ECO2_PREFETCH": "20",
    "ECO2_CONCURRENCY": "20",
}


@dataclass
class Scene:
    """A running installation. `say` prints the current step."""

    prefix: str
    broker: str
    fleet: Fleet
    provider: Provider
    http: httpx.AsyncClient
    group: asyncio.TaskGroup
    say: Callable[[str], None]
    submitter: Submitter = field(init=False)
    clients: list[asyncio.Task[None]] = field(default_factory=list)
    deaf: list[socket.socket] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.submitter = Submitter(self.http, self.gateways)

    @property
    def gateways(self) -> list[str]:
        return [slot.url for slot in self.fleet.gateways]

    async def load(self, jobs: int, seconds: float) -> None:
        """Submits that many scans over that many seconds, and follows each to its end."""
        for _ in range(jobs):
            self.clients.append(self.group.create_task(self._client()))
            await asyncio.sleep(seconds / jobs)

    async def over(self) -> None:
        """Waits until every client has seen the end of its job."""
        await asyncio.gather(*self.clients)
        self.clients.clear()

    async def _client(self) -> None:
        self.sent += 1
        job = await self.submitter.until_accepted(f"scan-{self.sent}")
        await Follower(self.http, self.gateways, job).follow()

    async def operate(self, *command: str) -> None:
        """Runs an operator's command."""
        program = await spawn("eco2", *command, env=self._operator)
        await program.read()
        code = await program.process.wait()
        assert code == 0, f"eco2 {' '.join(command)} ended {code}: {program.log()}"

    @property
    def _operator(self) -> Mapping[str, str]:
        return {"ECO2_AMQP_URL": self.broker, "ECO2_PREFIX": self.prefix, "ECO2_PIPELINES": PIPELINES}

    # --- what happens once

    async def bugs(self) -> None:
        """Submits two jobs that fail by a bug and become dead letters."""
        for number in range(2):
            await self.submitter.until_accepted(f"bug-{number}", pipeline="bug", body={"text": "x"})

    async def refusals(self) -> None:
        """Sends requests that the gateway refuses."""
        for body in (b"{", b"{}", b'{"image_url": "http://127.0.0.1/x.jpg"}'):
            headers = {"Content-Type": "application/json"}
            await self.http.post(f"{self.gateways[0]}/scan", content=body, headers=headers)

    async def put_off(self) -> None:
        """Submits one job whose answers are cut off until it is put off."""
        await self.provider.faults({"action": "cut", "kind": "answer"})
        job = await self.submitter.until_accepted("put-off")
        await asyncio.sleep(3 * CALL + 6)
        await self.provider.faults()
        await Follower(self.http, self.gateways, job).follow()

    async def hiccups(self) -> None:
        """Lets some calls fail, and refuses two with 429."""
        await self.provider.faults(
            {"action": "rate_limit", "first": 2}, {"action": "status", "status": 503, "every": 9}
        )

    async def return_of_a_client(self) -> None:
        """Lets a client receive the first event, disconnect, and resume after it."""
        job = await self.submitter.until_accepted("left")
        url = f"{self.gateways[0]}/scan/{job}/events"
        last = ""
        with suppress(httpx.HTTPError):
            async with self.http.stream("GET", url) as response:
                async for line in response.aiter_lines():
                    if line.startswith("id: "):
                        last = line.removeprefix("id: ")
                        break
        async with self.http.stream("GET", url, headers={"Last-Event-ID": last}) as response:
            async for _ in response.aiter_bytes():
                pass

    async def deaf_client(self) -> None:
        """Lets a client request much text and read nothing: its connection is closed after 30 s."""
        job = await self.submitter.until_accepted("flood", pipeline="flood", body=FLOOD)
        at = urlsplit(self.gateways[0])
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect((at.hostname, at.port))
        raw.sendall(f"GET /flood/{job}/events HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        self.deaf.append(raw)

    def cut(self) -> None:
        """Breaks every connection to the broker."""
        for slot in self.fleet.slots:
            assert slot.wire is not None
            slot.wire.cut()

    def kill_a_worker(self) -> None:
        """Kills a worker; the fleet starts it again, and others take over its jobs."""
        self.fleet.workers[1].kill9()


@asynccontextmanager
async def scene(
    folder: Path, broker: str, say: Callable[[str], None], env: Mapping[str, str] | None = None
) -> AsyncIterator[Scene]:
    """Starts a gateway, two workers and a provider on that broker, and waits until they are ready."""
    prefix = f"o{int(time.time()):x}"
    async with providing(CALL) as provider:
        settings = {**SETTINGS, **provider.env, "ECO2_PREFIX": prefix, **(env or {})}
        async with (
            running(folder, settings, 1, 2, url=lambda: broker, wire=Proxy) as fleet,
            open_http() as http,
            asyncio.TaskGroup() as group,
        ):
            each = Scene(prefix, broker, fleet, provider, http, group, say)
            try:
                yield each
            finally:
                for task in each.clients:
                    task.cancel()
                for raw in each.deaf:
                    raw.close()
