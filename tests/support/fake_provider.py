"""Runs the fake OpenAI provider for a test, and reads what it logged."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI

from eco2.fake.config import FakeConfig
from eco2.fake.server import serve

Logged = dict[str, Any]


@dataclass(frozen=True)
class Fake:
    """A fake that is running. `url` has no path."""

    url: str
    http: httpx.AsyncClient

    def openai(self, api_key: str = "key") -> AsyncOpenAI:
        """The official client, pointed at the fake, without retries."""
        return AsyncOpenAI(api_key=api_key, base_url=f"{self.url}/v1", max_retries=0)

    async def calls(self, **query: str | int) -> list[Logged]:
        """The log, by arrival."""
        calls: list[Logged] = (await self.http.get("/_fake/calls", params=query)).json()["calls"]
        return calls

    async def until(self, wanted: Callable[[list[Logged]], bool], seconds: float = 10) -> list[Logged]:
        """The log as soon as it is as wanted; fails after `seconds`."""
        async with asyncio.timeout(seconds):
            while not wanted(calls := await self.calls()):  # noqa: ASYNC110 - the state is in a server
                await asyncio.sleep(0.01)
        return calls

    async def faults(self, *faults: dict[str, object]) -> None:
        """Replaces the faults in force."""
        (await self.http.post("/_fake/faults", json=list(faults))).raise_for_status()

    async def windows(self) -> Logged:
        """What the windows hold."""
        windows: Logged = (await self.http.get("/_fake/windows")).json()
        return windows


@asynccontextmanager
async def running(config: FakeConfig) -> AsyncIterator[Fake]:
    """A fake on a free port of the loopback, stopped at the end."""
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(config, "127.0.0.1", 0, stop, port.set_result))
        url = f"http://127.0.0.1:{await port}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
                yield Fake(url, http)
        finally:
            stop.set()
