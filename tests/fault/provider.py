"""The provider of the suite: the fake in a process of its own, and what the suite asks of it.

`python -m tests.fault.provider SECONDS [RPM TPM]` serves it on a free port until SIGTERM: vision sees the
same can each time, so that no answer needs a repair. A call takes `SECONDS` on average; one in a hundred 2.5
times as long. Limits of 0 are none.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx

from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from eco2.fake.server import serve
from eco2.service import stop_on_signals
from tests.acceptance.programs import STOP, spawn
from tests.clients.provider import Sighting
from tests.fault.evidence import Call


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that runs. `url` ends in `/v1`."""

    url: str
    http: httpx.AsyncClient

    @property
    def env(self) -> dict[str, str]:
        """What makes a worker use it."""
        return {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": self.url, "ECO2_IMAGE_URLS": "on"}

    async def faults(self, *faults: Mapping[str, object]) -> None:
        """Replaces the faults in force; none: it works again."""
        (await self.http.post("/_fake/faults", json=list(faults))).raise_for_status()

    async def calls(self) -> tuple[Call, ...]:
        """Every call so far, by arrival."""
        answer = (await self.http.get("/_fake/calls")).raise_for_status().json()
        assert not answer["dropped"], "the provider's log is too short for this run"
        return tuple(
            Call(
                one["job"],
                one["kind"],
                one["wall"],
                one["began_at"] is not None,
                one["fault"] if one["began_at"] is not None else None,
            )
            for one in answer["calls"]
        )

    async def minute(self) -> tuple[int, int]:
        """Calls that were refused with 429, and the most requests in any minute."""
        answer = (await self.http.get("/_fake/calls")).raise_for_status().json()
        windows = (await self.http.get("/_fake/windows")).raise_for_status().json()
        return sum(one["status"] == 429 for one in answer["calls"]), int(windows["requests"]["peak"])

    async def in_flight(self) -> set[str]:
        """Jobs with a call that has not ended."""
        answer = (await self.http.get("/_fake/calls")).raise_for_status().json()
        return {one["job"] for one in answer["calls"] if one["outcome"] == "running"}


@asynccontextmanager
async def providing(
    seconds: float, tpm: int | None = None, rpm: int | None = None
) -> AsyncIterator[Provider]:
    """Runs the provider. `tpm`, `rpm`: its limits of tokens and requests a minute; None: no limit."""
    program = await spawn("tests.fault.provider", str(seconds), str(rpm or 0), str(tpm or 0))
    async with asyncio.TaskGroup() as group:
        group.create_task(program.read())
        try:
            await program.listening()
            origin = program.url.removesuffix("/v1")
            async with httpx.AsyncClient(base_url=origin, timeout=30, trust_env=False) as http:
                yield Provider(program.url, http)
        finally:
            if program.process.returncode is None:
                program.process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(program.process.wait(), STOP)
                except TimeoutError:
                    program.process.kill()


def config(seconds: float, tpm: int | None = None, rpm: int | None = None) -> FakeConfig:
    """Latencies that vary by job, no limits but `tpm` and `rpm`."""
    kinds = {kind: CallKind(seconds, 2.5 * seconds, 40) for kind in (VISION, ANSWER)}
    return replace(Sighting(seconds=seconds).config(), kinds=kinds, chunks=8, tpm=tpm, rpm=rpm)


async def _main(seconds: float, rpm: int | None, tpm: int | None) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)

    def say(port: int) -> None:
        print(f"fake provider on http://127.0.0.1:{port}/v1", file=sys.stderr, flush=True)

    await serve(config(seconds, tpm, rpm), "127.0.0.1", 0, stop, say)


if __name__ == "__main__":
    rpm, tpm = (int(limit) or None for limit in sys.argv[2:4] or ("0", "0"))
    asyncio.run(_main(float(sys.argv[1]), rpm, tpm))
