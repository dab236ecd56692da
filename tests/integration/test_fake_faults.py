"""Every fault, as a client sees it, and what the log says of it."""

import asyncio
from typing import Any

import httpx
import msgspec
import openai
import pytest

from eco2.fake.config import FakeConfig
from eco2.fake.faults import Fault
from tests.support.fake_provider import Fake, running

QUICK = FakeConfig(scale=0)
HELLO: list[Any] = [{"role": "user", "content": "이거 어떻게 버려요?"}]


async def create(fake: Fake, **options: Any) -> Any:
    return await fake.openai().chat.completions.create(model="gpt-4o", messages=HELLO, **options)


async def streamed(fake: Fake) -> list[Any]:
    return [chunk async for chunk in await create(fake, stream=True)]


async def collect(stream: Any, received: list[Any]) -> None:
    """Reads a stream that may break; what came before is kept."""
    async for chunk in stream:
        received.append(chunk)


async def test_a_status_is_answered_at_once_counted_and_passes() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "status", "status": 503, "retry_after": 2.5, "first": 1})
        with pytest.raises(openai.InternalServerError) as caught:
            await create(fake)
        await create(fake)
        calls, windows = await fake.calls(), await fake.windows()
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after-ms"] == "2500"
    assert [(call["outcome"], call["counted"]) for call in calls] == [("failed", True), ("ok", True)]
    assert windows["requests"]["used"] == 2


@pytest.mark.parametrize(
    ("action", "code"), [("rate_limit", "rate_limit_exceeded"), ("quota", "insufficient_quota")]
)
async def test_a_429_on_demand_is_not_counted(action: str, code: str) -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": action})
        with pytest.raises(openai.RateLimitError) as caught:
            await create(fake)
        (call,), windows = await fake.calls(), await fake.windows()
    assert caught.value.code == code
    assert ("retry-after" in caught.value.response.headers) == (action == "rate_limit")
    assert (call["outcome"], call["counted"], windows["requests"]["used"]) == ("rate_limited", False, 0)


async def test_a_cut_stream_ends_cleanly_without_a_finish_reason() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "cut"})
        chunks = await streamed(fake)
        (call,) = await fake.calls()
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 20
    assert {chunk.choices[0].finish_reason for chunk in chunks} == {None}
    assert (call["outcome"], call["status"], call["chunks"]) == ("cut", 200, 20)


@pytest.mark.parametrize(("after", "pieces"), [(0, 0), (1, 1), (40, 40), (99, 40)])
async def test_a_stream_can_be_cut_anywhere(after: int, pieces: int) -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "cut", "after_chunks": after})
        chunks = await streamed(fake)
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == pieces
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)


async def test_a_plain_answer_is_cut_inside_its_json() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "cut"})
        body = {"model": "gpt-4o", "messages": HELLO}
        answer = await fake.http.post(
            "/v1/chat/completions", json=body, headers={"authorization": "Bearer k"}
        )
    assert answer.status_code == 200
    assert answer.text.startswith('{"id":"chatcmpl-')
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        answer.json()


async def test_a_disconnect_resets_the_connection_before_or_inside_the_answer() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "disconnect", "after_chunks": 3})
        with pytest.raises(openai.APIConnectionError):
            await create(fake)
        stream = await create(fake, stream=True)
        received: list[Any] = []
        with pytest.raises(openai.APIConnectionError):
            await collect(stream, received)
        calls = await fake.until(lambda calls: all(call["ended_at"] for call in calls))
    assert len(received) <= 4  # the opening chunk and three pieces; the reset may overtake some
    assert [(call["outcome"], call["status"], call["chunks"]) for call in calls] == [
        ("disconnected", None, 0),
        ("disconnected", 200, 3),
    ]
    assert not any(call["client_disconnected"] for call in calls)


async def test_a_disconnect_is_a_reset_and_no_orderly_close() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "disconnect"})
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(fake.url).port)
        body = msgspec.json.encode({"model": "gpt-4o", "messages": HELLO})
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_stall_never_answers_until_the_client_gives_up() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "stall"})
        with pytest.raises(openai.APITimeoutError):
            await create(fake, timeout=1.0)
        (call,) = await fake.until(lambda calls: bool(calls[0]["ended_at"]))
    assert (call["outcome"], call["status"], call["client_disconnected"]) == ("stalled", None, True)


async def test_a_stream_can_stall_in_the_middle() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "stall", "after_chunks": 5})
        stream = await create(fake, stream=True, timeout=1.0)
        received: list[Any] = []
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
            await collect(stream, received)
    assert len([chunk for chunk in received if chunk.choices[0].delta.content]) == 5


async def test_faults_of_the_start_come_back_at_a_reset() -> None:
    async with running(FakeConfig(scale=0, faults=(Fault(action="status", first=1),))) as fake:
        with pytest.raises(openai.InternalServerError):
            await create(fake)
        await create(fake)
        assert (await fake.http.post("/_fake/reset")).is_success
        assert await fake.calls() == []
        assert (await fake.windows())["requests"] == {"limit": 500, "used": 0, "peak": 0, "reset": 0.0}
        with pytest.raises(openai.InternalServerError):
            await create(fake)


async def test_a_fault_that_makes_no_sense_is_refused_and_changes_nothing() -> None:
    async with running(QUICK) as fake:
        await fake.faults({"action": "status", "status": 502})
        for body in ([{"action": "explode"}], [{"action": "cut", "every": 0}], {"action": "cut"}):
            answer = await fake.http.post("/_fake/faults", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].startswith("Not a list of faults")
        with pytest.raises(openai.InternalServerError):
            await create(fake)


async def test_a_client_that_leaves_is_noticed() -> None:
    async with running(FakeConfig(scale=10)) as fake:  # minutes
        asking = asyncio.ensure_future(create(fake))
        await fake.until(lambda calls: len(calls) == 1)
        asking.cancel()
        (call,) = await fake.until(lambda calls: bool(calls[0]["ended_at"]))
    assert (call["outcome"], call["client_disconnected"], call["status"]) == ("aborted", True, None)
    assert asking.cancelled()
