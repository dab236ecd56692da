"""Two fake providers on real connections; one of them answers 503 for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from eco2.assembly import Listening, process
from eco2.calls.provider import FAILURES
from eco2.client import Client
from eco2.fake.config import FakeConfig
from eco2.service import run
from eco2.settings import ProviderSettings, Settings
from tests.support.fake_provider import Fake, running

RPM = 3000
"""So much that the first minute of a leader, whose window is full, has room for the jobs of this test."""


def remote(fake: Fake, model: str, slots: int) -> ProviderSettings:
    limits = {"rpm": RPM, "tpm": 6_000_000, "concurrency": slots}
    return ProviderSettings.model_validate(
        {"api_key": "key", "base_url": f"{fake.url}/v1", "model": model, **limits}
    )


@asynccontextmanager
async def installation(one: Fake, other: Fake) -> AsyncIterator[str]:
    """`eco2 serve` with both providers: its URL. The first has so many slots that it gets calls for sure."""
    settings = Settings(
        providers={"one": remote(one, "gpt-5.1", 40), "other": remote(other, "gpt-5-mini", 4)},
        pipelines="tests.examples.helpdesk:helpdesk",
        port=0,
    )
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with (
        process(settings, "serve", stop, Listening(gateway=port.set_result)) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run(components, stop))
        try:
            yield f"http://127.0.0.1:{await port}"
        finally:
            stop.set()


async def answers(fake: Fake, status: int) -> int:
    return sum(call["status"] == status for call in await fake.calls())


async def test_an_outage_of_one_provider_fails_no_job_and_ends_by_itself() -> None:
    quick = FakeConfig(scale=0.005, rpm=RPM, tpm=6_000_000)
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(running(quick)) for _ in range(2)]
        client = await stack.enter_async_context(
            Client(await stack.enter_async_context(installation(one, other)))
        )

        async def ended(number: int) -> str:
            job = await client.submit("helpdesk", {"text": f"question {number}"})
            return str((await client.result(job))["status"])

        async def load(jobs: int) -> set[str]:
            return set(await asyncio.gather(*(ended(number) for number in range(jobs))))

        assert await load(10) == {"completed"}
        await one.faults({"action": "status", "status": 503})
        async with asyncio.timeout(30):
            while await answers(one, 503) < FAILURES:
                assert await load(20) == {"completed"}
        opened = await answers(one, 503)
        assert await load(25) == {"completed"}
        assert await answers(one, 503) - opened <= 5  # those that go ahead
        await one.faults()
        before = await answers(one, 200)
        async with asyncio.timeout(60):
            while await answers(one, 200) <= before:
                assert await load(10) == {"completed"}
        for fake in (one, other):
            windows = await fake.windows()
            assert windows["requests"]["peak"] <= RPM
            assert all(call["status"] != 429 for call in await fake.calls())
