"""Two fake providers on real connections; one of them answers 503 for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from eco2.assembly import Listening, process
from eco2.client import Client
from eco2.fake.config import FakeConfig
from eco2.service import run
from eco2.settings import ProviderSettings, Settings
from tests.fake_provider import Fake, running

RPM = 3000
"""So much that the first minute of a leader, whose window is full, has room for the jobs of this test."""


def remote(fake: Fake, model: str) -> ProviderSettings:
    return ProviderSettings.model_validate(
        {"api_key": "key", "base_url": f"{fake.url}/v1", "model": model, "rpm": RPM, "tpm": 6_000_000}
    )


@asynccontextmanager
async def installation(one: Fake, other: Fake) -> AsyncIterator[str]:
    """`eco2 serve` with both providers: its URL."""
    settings = Settings(
        providers={"one": remote(one, "gpt-5.1"), "other": remote(other, "gpt-5-mini")},
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


async def answered(fake: Fake) -> int:
    return sum(call["status"] == 200 for call in await fake.calls())


async def test_an_outage_of_one_provider_fails_no_job_and_ends_by_itself() -> None:
    quick = FakeConfig(scale=0.02, rpm=RPM, tpm=6_000_000)
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
        assert await load(40) == {"completed"}
        during = [call for call in await one.calls() if call["status"] == 503]
        assert 5 <= len(during) <= 12  # as many as open the breaker, and those that go ahead
        await one.faults()
        before = await answered(one)
        async with asyncio.timeout(30):
            while await answered(one) <= before:
                assert await load(10) == {"completed"}
        for fake in (one, other):
            windows = await fake.windows()
            assert windows["requests"]["peak"] <= RPM
            assert all(call["status"] != 429 for call in await fake.calls())
