"""The official openai client works against the fake as it does against OpenAI."""

import base64
import io
from typing import Any, Literal

import openai
import pytest
from PIL import Image
from pydantic import BaseModel

from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from tests.support.fake_provider import Fake, running

KIND = CallKind(mean=1.0, p99=2.0, completion_tokens=160)
QUICK = FakeConfig(scale=0, kinds={VISION: KIND, ANSWER: KIND})
HELLO: list[Any] = [{"role": "user", "content": "이거 어떻게 버려요?"}]


class Part(BaseModel):
    name: str
    dirty: bool


class Seen(BaseModel):
    major: Literal["재활용폐기물", "일반종량제폐기물"]
    minor: str | None
    parts: list[Part]


def photo() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 384), "green").save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def looking(url: str) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": [{"type": "text", "text": "?"}, image]},
    ]


async def seen(fake: Fake, job: str, **options: Any) -> Any:
    return await fake.openai().chat.completions.parse(
        model="gpt-5.1",
        messages=looking(photo()),
        response_format=Seen,
        extra_headers={"x-eco2-job": job, "x-eco2-run": "r1"},
        **options,
    )


async def test_structured_output_is_parsed_by_the_client() -> None:
    async with running(QUICK) as fake:
        reply = await seen(fake, "job 1", max_completion_tokens=500)
        assert isinstance(reply.choices[0].message.parsed, Seen)
        assert reply.choices[0].finish_reason == "stop"
        (call,) = await fake.calls()
    assert (call["kind"], call["job"], call["run"], call["outcome"]) == ("vision", "job 1", "r1", "ok")
    assert reply.usage.prompt_tokens == call["prompt_tokens"] > 70
    assert reply.usage.completion_tokens == call["completion_tokens"]
    assert reply.usage.total_tokens == call["prompt_tokens"] + call["completion_tokens"]
    assert call["charged_tokens"] == 500
    assert call["arrived_at"] <= call["began_at"] <= call["ended_at"]


async def test_the_same_job_is_answered_alike_and_other_jobs_are_not() -> None:
    async with running(QUICK) as fake:
        texts = [(await seen(fake, job)).choices[0].message.content for job in ("a", "b", "c", "d", "a")]
    assert texts[0] == texts[4]
    assert len(set(texts)) > 1


async def test_fixed_answers_are_used_by_name_of_the_schema() -> None:
    fixed = {"major": "재활용폐기물", "minor": "우유팩", "parts": []}
    async with running(FakeConfig(scale=0, answers={"Seen": (fixed,)})) as fake:
        reply = await seen(fake, "job 1")
    assert reply.choices[0].message.parsed == Seen.model_validate(fixed)


async def test_a_limit_that_is_too_low_cuts_a_structured_answer() -> None:
    async with running(QUICK) as fake:
        with pytest.raises(openai.LengthFinishReasonError):
            await seen(fake, "job 1", max_completion_tokens=3)


async def test_a_stream_has_forty_pieces_a_finish_reason_and_usage() -> None:
    async with running(QUICK) as fake:
        stream = await fake.openai().chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        (call,) = await fake.until(lambda calls: calls[0]["outcome"] == "ok")
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([text for text in texts if text]) == 40 == call["chunks"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.completion_tokens, usage.prompt_tokens) == (160, call["prompt_tokens"])
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_without_usage_ends_with_its_finish_reason() -> None:
    async with running(QUICK) as fake:
        stream = await fake.openai().chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, max_completion_tokens=10
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.usage for chunk in chunks} == {None}


async def test_a_plain_answer_reports_cached_tokens_the_second_time() -> None:
    messages: list[Any] = [{"role": "system", "content": "비우고 헹군다. " * 300}, *HELLO]
    async with running(QUICK) as fake:
        create = fake.openai().chat.completions.create
        usages: list[Any] = [(await create(model="gpt-4o", messages=messages)).usage for _ in range(2)]
    cached = [usage.prompt_tokens_details.cached_tokens for usage in usages]
    assert cached[0] == 0
    assert cached[1] >= 1024
    assert cached[1] % 128 == 0


async def test_models_are_listed_and_looked_up() -> None:
    async with running(FakeConfig(models=("gpt-5.1", "own"))) as fake:
        assert [model.id async for model in fake.openai().models.list()] == ["gpt-5.1", "own"]
        assert (await fake.openai().models.retrieve("own")).id == "own"
        with pytest.raises(openai.NotFoundError):
            await fake.openai().models.retrieve("gpt-9")


async def test_errors_arrive_as_the_clients_own() -> None:
    async with running(FakeConfig(scale=0, api_keys=("key",))) as fake:
        create = fake.openai().chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="gpt-9", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as unknown:
            await create(model="gpt-4o", messages=HELLO, extra_body={"temprature": 1})
        with pytest.raises(openai.BadRequestError) as image:
            await create(model="gpt-4o", messages=looking("data:image/jpeg;base64,AAAA"))
        with pytest.raises(openai.AuthenticationError) as key:
            await fake.openai("other").chat.completions.create(model="gpt-4o", messages=HELLO)
        calls = await fake.calls()
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "temprature")
    assert image.value.param == "messages[1].content[1].image_url.url"
    assert key.value.code == "invalid_api_key"
    assert [call["status"] for call in calls] == [404, 400, 400, 401]
    assert {(call["outcome"], call["counted"]) for call in calls} == {("refused", False)}


async def test_over_the_limit_is_429_with_the_time_to_wait() -> None:
    async with running(FakeConfig(scale=0, rpm=1, tpm=1000)) as fake:
        create = fake.openai().chat.completions.with_raw_response.create
        good = await create(model="gpt-4o", messages=HELLO, max_completion_tokens=400)
        with pytest.raises(openai.RateLimitError) as caught:
            await create(model="gpt-4o", messages=HELLO)
    assert good.headers["x-ratelimit-limit-requests"] == "1"
    assert good.headers["x-ratelimit-remaining-requests"] == "0"
    assert good.headers["x-ratelimit-remaining-tokens"] == "600"
    headers = caught.value.response.headers
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 50_000 < int(headers["retry-after-ms"]) <= 60_000
    assert 50 < int(headers["retry-after"]) <= 60
    assert headers["x-request-id"]


async def test_a_request_larger_than_the_limit_names_tokens_and_no_time() -> None:
    async with running(FakeConfig(scale=0, tpm=100)) as fake:
        with pytest.raises(openai.RateLimitError) as caught:
            await fake.openai().chat.completions.create(
                model="gpt-4o", messages=HELLO, max_completion_tokens=101
            )
    assert caught.value.type == "tokens"
    assert "retry-after" not in caught.value.response.headers
