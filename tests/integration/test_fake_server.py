"""The running fake: its windows against a recount of its own log, its times, its log file, its stop."""

import asyncio
import socket
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest

from bench.fake_capacity import measure
from eco2.errors import ConfigurationError
from eco2.fake.config import ANSWER, CallKind, Charge, FakeConfig
from eco2.fake.latency import from_mean_and_p99, uniform
from eco2.fake.server import serve
from tests.support.fake_provider import Fake, Logged, running

SPAN = 0.4
KEY = {"authorization": "Bearer k"}


async def ask(fake: Fake, job: str, limit: int, words: int = 1) -> int:
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "병 " * words}],
        "max_completion_tokens": limit,
    }
    answer = await fake.http.post("/v1/chat/completions", json=body, headers=KEY | {"x-eco2-job": job})
    return answer.status_code


def recount(calls: list[Logged], until: Logged, tokens: bool) -> int:
    """What arrived in the window that ends with `until`, without `until`, over all calls that counted."""
    now = until["arrived_at"]
    return sum(
        call["charged_tokens"] if tokens else 1
        for call in calls
        if call["counted"] and now - SPAN < call["arrived_at"] and call["n"] < until["n"]
    )


@pytest.mark.parametrize("charge", ["request", "input", "usage"])
async def test_a_recount_of_the_log_finds_every_decision_right(charge: Charge) -> None:
    config = FakeConfig(scale=0, rpm=25, tpm=1500, charge=charge, window_seconds=SPAN)
    draws = Random(3)
    async with running(config) as fake:

        async def client(name: int) -> None:
            for turn in range(25):
                await ask(fake, f"{name}.{turn}", draws.randint(1, 200), draws.randint(1, 60))

        async with asyncio.TaskGroup() as group:
            for name in range(8):
                group.create_task(client(name))
        calls, windows = await fake.calls(), await fake.windows()
    assert len(calls) == 200
    assert [call["arrived_at"] for call in calls] == sorted(call["arrived_at"] for call in calls)
    for call in calls:
        requests, tokens = recount(calls, call, tokens=False), recount(calls, call, tokens=True)
        fits = requests + 1 <= 25 and tokens + call["charged_tokens"] <= 1500
        assert fits == call["counted"] == (call["status"] == 200)
    counted = [call for call in calls if call["counted"]]
    assert windows["requests"]["peak"] == max(recount(calls, call, tokens=False) + 1 for call in counted)
    assert windows["tokens"]["peak"] == max(
        recount(calls, call, tokens=True) + call["charged_tokens"] for call in counted
    )
    assert {call["outcome"] for call in calls} == {"ok", "rate_limited"}


async def test_a_call_takes_the_time_drawn_for_its_job() -> None:
    kind = CallKind(mean=0.2, p99=0.4, completion_tokens=20)
    jobs = [f"job {index}" for index in range(12)]
    async with running(FakeConfig(seed=9, kinds={ANSWER: kind})) as fake:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(ask(fake, job, 20))
        calls = {call["job"]: call for call in await fake.calls()}
    drawn = {job: from_mean_and_p99(0.2, 0.4).at(uniform(9, job, ANSWER)) for job in jobs}
    assert {job: call["latency"] for job, call in calls.items()} == pytest.approx(drawn)
    for job, call in calls.items():
        assert call["began_at"] - call["arrived_at"] >= drawn[job]


async def test_a_stream_spans_its_latency_from_the_first_token_on() -> None:
    kind = CallKind(mean=0.4, p99=0.4, completion_tokens=60)
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}], "stream": True}
    async with running(FakeConfig(kinds={ANSWER: kind}, first_token_fraction=0.5)) as fake:
        await fake.http.post("/v1/chat/completions", json=body, headers=KEY)
        (call,) = await fake.calls()
    assert call["began_at"] - call["arrived_at"] >= 0.2 - 1e-9
    assert call["ended_at"] - call["began_at"] >= 0.15  # all but the first piece follow after that
    assert call["ended_at"] - call["arrived_at"] >= 0.4 - 1e-9


async def test_the_kind_is_taken_from_the_header_and_the_log_can_be_asked_for_parts() -> None:
    async with running(FakeConfig(scale=0, log_size=2)) as fake:
        for job in ("a", "b", "c"):
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": job}]}
            marked = KEY | {"x-eco2-kind": "summary", "x-eco2-job": job, "x-eco2-run": f"run {job}"}
            await fake.http.post("/v1/chat/completions", json=body, headers=marked)
        assert [call["kind"] for call in await fake.calls()] == ["summary", "summary"]
        assert [call["n"] for call in await fake.calls(after=2)] == [3]
        assert [call["n"] for call in await fake.calls(job="b")] == [2]
        assert [call["n"] for call in await fake.calls(run="run c")] == [3]
        assert (await fake.http.get("/_fake/calls")).json()["dropped"] == 1
        assert (await fake.http.get("/_fake/calls?after=x")).status_code == 400


async def test_jobs_are_named_by_their_text_where_a_pattern_finds_a_name() -> None:
    async with running(FakeConfig(scale=0, job_pattern=r"\(case (\d+)\)")) as fake:
        for content in ("병 (case 7)", "다른 병 (case 7)", "병"):
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}]}
            await fake.http.post("/v1/chat/completions", json=body, headers=KEY | {"x-eco2-job": "an id"})
        assert [call["job"] for call in await fake.calls()] == ["7", "7", "an id"]


@pytest.mark.parametrize("pattern", ["case", "(a)(b)", "("])
def test_a_pattern_without_exactly_one_group_fails_at_start(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="one group"):
        FakeConfig(job_pattern=pattern)


async def test_every_ended_call_is_a_line_of_the_log_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with running(FakeConfig(scale=0, rpm=2, log_path=str(path))) as fake:
        for job in ("a", "b", "c"):
            await ask(fake, job, 5)
        calls = await fake.calls()
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert lines == calls
    assert [line["outcome"] for line in lines] == ["ok", "ok", "rate_limited"]


async def outcome(fake: Fake) -> str:
    try:
        return str(await ask(fake, "job", 5))
    except httpx.TransportError:
        return "connection lost"


async def test_it_stops_at_once_although_calls_are_under_way() -> None:
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(serve(FakeConfig(scale=100), "127.0.0.1", 0, stop, port.set_result))
        url = f"http://127.0.0.1:{await port}"
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
            fake = Fake(url, http)
            asking = group.create_task(outcome(fake))
            await fake.until(lambda calls: len(calls) == 1)
            stop.set()
            assert await asking == "connection lost"


async def test_a_port_or_a_log_that_cannot_be_had_is_said_at_start() -> None:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="choose another --port"):
            await serve(FakeConfig(), "127.0.0.1", port, stop, lambda port: None)
    with pytest.raises(ConfigurationError, match="choose another path"):
        await serve(FakeConfig(log_path="/nowhere/calls"), "127.0.0.1", 0, stop, lambda port: None)


async def test_other_paths_and_methods_are_errors_in_openais_shape() -> None:
    async with running(FakeConfig()) as fake:
        for answer, status in (
            (await fake.http.get("/v1/responses"), 404),
            (await fake.http.get("/v1/chat/completions"), 405),
        ):
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.alone
async def test_a_pair_of_calls_costs_less_cpu_than_the_benchmark_allows() -> None:
    """100 pairs a second on 0.9 of a core are 9 ms of CPU per pair; other load does not count as CPU time."""
    result = await measure(pairs=40, seconds=2.0, loop_name="uvloop", settle=2.0)
    assert set(result.statuses) == {200}
    assert result.calls >= 2 * 40  # half of the load at least: the client was not held up
    assert result.cores * result.seconds / (result.calls / 2) <= 0.009
