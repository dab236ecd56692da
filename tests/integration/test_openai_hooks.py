"""The last moment before a call leaves, and the limits that the provider names, over a real connection."""

import asyncio

import pytest

from eco2.call import Call
from eco2.errors import RetryableError
from eco2.fake.config import ANSWER, CallKind, FakeConfig
from eco2.llm.openai import OpenAIModel
from tests.support.fake_provider import running

QUICK = FakeConfig(
    scale=0, rpm=700, tpm=90_000, kinds={ANSWER: CallKind(mean=1.0, p99=2.0, completion_tokens=20)}
)
CALL = Call("answer", "Answer.", "이거 어떻게 버려요?", str, 100, stream=True)


async def test_nothing_leaves_before_it_may_and_nothing_at_all_if_it_must_not() -> None:
    class TooOld(RetryableError):
        pass

    async def refuse() -> None:
        raise TooOld("the grant is too old")

    async with running(QUICK) as fake:
        adapter = OpenAIModel("key", f"{fake.url}/v1", "gpt-5.1")
        may = asyncio.Event()
        asked = asyncio.Event()

        async def wait() -> None:
            asked.set()
            await may.wait()

        for _ in range(2):  # on a new connection, and on one that is kept
            asked.clear()
            may.clear()
            before = len(await fake.calls())
            call = asyncio.ensure_future(adapter.complete(CALL, "job", lambda _: None, wait))
            await asked.wait()
            assert len(await fake.calls()) == before
            may.set()
            assert (await call).value
            assert len(await fake.calls()) == before + 1
            with pytest.raises(TooOld):
                await adapter.complete(CALL, "job", lambda _: None, refuse)
            assert len(await fake.calls()) == before + 1
        await adapter.aclose()


async def test_the_limits_of_the_provider_are_told() -> None:
    told: list[tuple[float | None, float | None]] = []
    async with running(QUICK) as fake:
        adapter = OpenAIModel(
            "key", f"{fake.url}/v1", "gpt-5.1", on_limits=lambda *limits: told.append(limits)
        )
        await adapter.complete(CALL, "job", lambda _: None)
        await adapter.aclose()
    assert told == [(700.0, 90_000.0)]
