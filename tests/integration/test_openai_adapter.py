"""The OpenAI adapter against the fake provider: answers, streams, usage, faults, limits."""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Literal

import pytest
from PIL import Image
from pydantic import BaseModel

from eco2.call import Answer, Call, InvalidAnswer
from eco2.calls.provider import Provider
from eco2.calls.reservation import Fence
from eco2.calls.router import Router
from eco2.errors import ProviderAccessDenied, ProviderError, ProviderRefused, ProviderTimeout
from eco2.event import StageChanged
from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from eco2.job import Job
from eco2.llm.openai import OpenAIModel
from eco2.llm.provider_errors import retry_after
from eco2.metrics import Metrics
from tests.support.fake_provider import Fake, running

KIND = CallKind(mean=1.0, p99=2.0, completion_tokens=80)
QUICK = FakeConfig(scale=0, kinds={VISION: KIND, ANSWER: KIND})


class Seen(BaseModel):
    major: Literal["재활용폐기물", "일반종량제폐기물"]
    minor: str | None


def photo() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 384), "green").save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def vision(max_tokens: int = 500) -> Call[Seen]:
    return Call("vision", "Classify the waste.", "이거 뭐예요?", Seen, max_tokens, image=photo())


def answer(max_tokens: int = 500, stream: bool = True) -> Call[str]:
    return Call("answer", "Answer.", "이거 어떻게 버려요?", str, max_tokens, stream=stream)


@asynccontextmanager
async def model(url: str, name: str = "gpt-5.1", api_key: str = "key") -> AsyncIterator[OpenAIModel]:
    adapter = OpenAIModel(api_key, f"{url}/v1", name)
    try:
        yield adapter
    finally:
        await adapter.aclose()


async def refused(
    fake: Fake, call: Call[Answer], name: str = "gpt-5.1", key: str = "key", *, closed: bool = True
) -> str:
    """Why; `closed`: every other call would be refused, too."""
    async with model(fake.url, name, key) as adapter:
        with pytest.raises(ProviderRefused) as caught:
            await adapter.complete(call, "job", lambda text: None)
    assert isinstance(caught.value, ProviderAccessDenied) == closed
    return str(caught.value)


async def failed(url: str, call: Call[Answer]) -> ProviderError:
    async with model(url) as adapter:
        with pytest.raises(ProviderError) as caught:
            await adapter.complete(call, "job", lambda text: None)
    return caught.value


class LoneRun:
    """A run that nobody contests, its journal and its clients; it tries each call once."""

    id = "run"
    job = Job(id="job", pipeline="scan", input={}, accepted=0.0, deadline=1.0, digest="")
    offset = 0
    started = False
    age = 0.0
    retries = 1
    allowance = None

    @property
    def scope(self) -> "LoneRun":
        return self

    async def checkpoint(self, *, begins: bool = False) -> None: ...

    async def barrier(self) -> None: ...

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def in_call(self) -> AbstractContextManager[None]:
        return nullcontext()

    stage_started: StageChanged | None = None
    emitted = 0

    def show_started(self, *, granted: bool = False) -> None: ...

    def emit(self, text: str) -> None: ...


async def test_a_structured_answer_is_validated_and_names_its_model_and_cost() -> None:
    async with running(QUICK) as fake, model(fake.url) as adapter:
        reply = await adapter.complete(vision(), "job 1", lambda text: None)
        (logged,) = await fake.calls()
    assert isinstance(reply.value, Seen)
    assert reply.model == "gpt-5.1"
    assert reply.usage.input_tokens == logged["prompt_tokens"] > 70  # a photo of low detail among them
    assert reply.usage.output_tokens == logged["completion_tokens"] > 0
    assert (logged["job"], logged["kind"], logged["charged_tokens"]) == ("job 1", "vision", 500)


async def test_a_streamed_text_is_shown_piece_by_piece_and_counted() -> None:
    pieces: list[str] = []
    async with running(QUICK) as fake, model(fake.url) as adapter:
        reply = await adapter.complete(answer(), "job 1", pieces.append)
        (logged,) = await fake.until(lambda calls: calls[0]["outcome"] == "ok")
    assert len(pieces) == 40
    assert "".join(pieces) == reply.value
    assert reply.usage.output_tokens == 80
    assert (logged["kind"], reply.usage.input_tokens) == ("answer", logged["prompt_tokens"])


async def test_a_text_that_is_not_streamed_comes_whole() -> None:
    pieces: list[str] = []
    async with running(QUICK) as fake, model(fake.url) as adapter:
        whole = await adapter.complete(answer(stream=False), "job 1", pieces.append)
        streamed = await adapter.complete(answer(), "job 1", lambda text: None)
    assert pieces == []
    assert whole.value == streamed.value


async def test_cached_tokens_are_reported() -> None:
    call = Call("answer", "비우고 헹군다. " * 300, "?", str, 500)
    async with running(QUICK) as fake, model(fake.url) as adapter:
        usages = [(await adapter.complete(call, "job", lambda text: None)).usage for _ in range(2)]
    assert [usage.cached_tokens >= 1024 for usage in usages] == [False, True]


async def test_a_text_at_its_limit_is_an_answer_and_a_structured_one_is_not() -> None:
    async with running(QUICK) as fake, model(fake.url) as adapter:
        reply = await adapter.complete(answer(max_tokens=10), "job", lambda text: None)
        assert (reply.usage.output_tokens, bool(reply.value)) == (10, True)
        unfit = await useless(fake.url, vision(max_tokens=3))
    assert "more than 3 tokens" in str(unfit)
    assert (unfit.model, unfit.usage.output_tokens, unfit.usage.cost is not None) == ("gpt-5.1", 3, True)


async def test_an_answer_that_does_not_fit_says_what_is_wrong_and_what_it_cost() -> None:
    strange = {"major": "우주쓰레기", "minor": 7}
    async with running(FakeConfig(scale=0, answers={"Seen": (strange,)})) as fake:
        unfit = await useless(fake.url, vision())
        (logged,) = await fake.calls()
    assert "does not fit Seen" in str(unfit)
    assert unfit.problem == "major: not one of the listed values; minor: Input should be a valid string"
    assert json.loads(unfit.text) == strange
    tokens = (unfit.usage.input_tokens, unfit.usage.output_tokens)
    assert tokens == (logged["prompt_tokens"], logged["completion_tokens"])


@pytest.mark.parametrize("call", [vision(), answer()], ids=["structured", "streamed"])
@pytest.mark.parametrize("action", ["cut", "disconnect"])
async def test_an_answer_that_breaks_off_may_pass(action: str, call: Call[Any]) -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": action})
        assert (await failed(fake.url, call)).retry_after is None
        assert len(await fake.calls()) == 1  # and the SDK did not try again by itself


async def test_a_stalled_call_ends_at_its_timeout() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "stall", "after_chunks": 5})
        async with model(fake.url) as adapter:
            metrics = Metrics()
            provider = Provider("openai", "gpt-5.1", adapter, 1, metrics, None)
            router = Router([provider], Fence(LoneRun()), 1.0, metrics)
            with pytest.raises(ProviderTimeout, match="within 1 s"):
                await router.call(LoneRun(), answer(), LoneRun())
        assert len(await fake.calls()) == 1


async def test_a_provider_that_is_not_there_may_come_back() -> None:
    async with running(QUICK) as fake:
        url = fake.url
    assert "connection" in str(await failed(url, answer()))


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
async def test_a_provider_in_trouble_may_pass(status: int) -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "status", "status": status, "retry_after": 2.5})
        error = await failed(fake.url, vision())
        assert len(await fake.calls()) == 1
    assert (f"HTTP {status}" in str(error), error.retry_after) == (True, 2.5)


async def test_a_rate_limit_says_how_long_to_wait() -> None:
    async with running(FakeConfig(scale=0, rpm=1)) as fake, model(fake.url) as adapter:
        await adapter.complete(answer(), "job", lambda text: None)
        error = await failed(fake.url, answer())
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60


async def test_without_quota_a_call_is_refused() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "quota"})
        assert "no quota left" in await refused(fake, vision())


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [("gpt-9", "key", "HTTP 404"), ("gpt-5.1", "sk-secret", "check OPENAI_API_KEY")],
    ids=["model", "key"],
)
async def test_a_wrong_model_or_key_is_refused(name: str, key: str, reason: str) -> None:
    async with running(FakeConfig(scale=0, api_keys=("key",))) as fake:
        message = await refused(fake, vision(), name, key)
    assert reason in message
    assert "sk-" not in message


async def test_an_image_that_the_provider_does_not_take_is_refused() -> None:
    call = Call("vision", "", "?", Seen, 500, image="data:image/jpeg;base64,AAAA")
    async with running(QUICK) as fake:
        assert "HTTP 400" in await refused(fake, call, closed=False)


async def useless(url: str, call: Call[Answer]) -> InvalidAnswer:
    async with model(url) as adapter:
        with pytest.raises(InvalidAnswer) as caught:
            await adapter.complete(call, "job", lambda text: None)
    return caught.value


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "6500"}, 6.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_the_time_to_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=10.0) == seconds
