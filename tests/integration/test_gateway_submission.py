"""POST: what is accepted, what is refused and how, and one job per key whichever gateways are asked."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from eco2.event import Queued
from eco2.pipeline import Pipeline, language_model_required
from eco2.stages import scan
from tests.support.gateways import CONFIG, ECHO, Cluster, EchoInput, cluster, eventually, life
from tests.unit.stages.test_request import CUP


@asynccontextmanager
async def one() -> AsyncIterator[tuple[Cluster, httpx.AsyncClient]]:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        yield world, http


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_an_accepted_job_has_its_order_out_and_urls_with_the_prefix_used(prefix: str) -> None:
    async with one() as (world, http):
        response = await http.post(f"{prefix}/echo", json={"text": "hello", "model": "large"})
        job_id = response.json()["job_id"]
        assert response.status_code == 202
        assert response.json() == {
            "job_id": job_id,
            "status": "queued",
            "stream_url": f"{prefix}/echo/{job_id}/events",
            "result_url": f"{prefix}/echo/{job_id}/result",
        }
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        assert (job.id, job.pipeline, job.input, job.model) == (job_id, "echo", {"text": "hello"}, "large")
        assert (job.max_wait, job.timeout) == (CONFIG.max_wait, CONFIG.timeout)


async def test_an_upload_is_parsed_by_the_pipeline() -> None:
    async with one() as (world, http):
        files = {"image": ("a.jpg", b"x" * 1000, "image/jpeg")}
        response = await http.post("/photo", files=files, data={"question": "깡통?", "model": "small"})
        assert response.status_code == 202
        await eventually(lambda: bool(world.worker.orders))
        assert world.worker.orders[0].input == {"size": 1000, "question": "깡통?"}
        assert world.worker.orders[0].model == "small"


@pytest.mark.parametrize(
    ("path", "request_", "status", "code"),
    [
        ("/echo", {"content": b"{"}, 422, "INVALID_REQUEST"),
        ("/echo", {"content": b"[1]"}, 422, "INVALID_REQUEST"),
        ("/echo", {"content": b"[" * 100_000}, 422, "INVALID_REQUEST"),
        ("/echo", {"content": b""}, 422, "INVALID_REQUEST"),
        ("/echo", {"json": {"text": 1}}, 422, "INVALID_REQUEST"),
        ("/echo", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 422, "INVALID_REQUEST"),
        (
            "/echo",
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            422,
            "INVALID_REQUEST",
        ),
        (
            "/echo",
            {"content": b"--b\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=c"}},
            422,
            "INVALID_REQUEST",
        ),
        ("/echo", {"json": {"text": "x" * 300_000}}, 413, "REQUEST_TOO_LARGE"),
        ("/photo", {"files": {"image": b"x" * 300_000}}, 413, "IMAGE_TOO_LARGE"),
        ("/photo", {"json": {"question": "?"}}, 400, "IMAGE_URL_REQUIRED"),
        ("/echo", {"json": {"text": "a", "model": "huge"}}, 400, "UNSUPPORTED_MODEL"),
        ("/echo", {"json": {"text": "a", "model": 7}}, 400, "UNSUPPORTED_MODEL"),
        ("/echo", {"json": {"text": "a"}, "headers": {"Idempotency-Key": "k" * 256}}, 422, "INVALID_REQUEST"),
        ("/nothing", {"json": {}}, 404, "NOT_FOUND"),
    ],
)
async def test_refusals_have_a_detail_and_a_code(
    path: str, request_: Mapping[str, Any], status: int, code: str
) -> None:
    async with one() as (world, http):
        response = await http.post(path, **request_)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.json()["detail"]
        assert world.gateways[0].journal.view.recent() == []


@pytest.mark.parametrize(
    ("models", "default", "pinned", "refused"),
    [
        (("local",), None, None, True),
        (("local",), None, "local", True),
        (("large", "local"), "local", None, True),
        (("large", "local"), "local", "large", False),
        (("large", "local"), "large", "local", True),
        (("large",), None, None, False),
        (("large", "local"), None, None, False),
    ],
)
async def test_what_only_the_local_model_could_take_is_refused_at_once(
    models: tuple[str, ...], default: str | None, pinned: str | None, refused: bool
) -> None:
    local = "local" if "local" in models else None
    config = replace(CONFIG, models=models, default_model=default, local_model=local)
    letter = Pipeline("letter", EchoInput, (), ECHO.result, check_local=language_model_required)
    picture = "data:image/jpeg;base64," + base64.b64encode(CUP).decode()
    async with (
        cluster(config=config, pipelines=(letter, scan, ECHO)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):

        async def submitted(pipeline: str, **fields: str) -> tuple[int, str | None]:
            answer = await http.post(f"/{pipeline}", json=fields | ({"model": pinned} if pinned else {}))
            return answer.status_code, answer.json().get("code")

        taken = (202, None)
        assert await submitted("letter", text="a") == ((422, "MODEL_REQUIRED") if refused else taken)
        url = await submitted("scan", image_url="https://photos.example/can.jpg")
        assert url == ((422, "IMAGE_URL_UNSUPPORTED") if refused else taken)
        assert await submitted("scan", image_url=picture) == taken
        assert await submitted("echo", text="a") == taken
        await eventually(lambda: len(world.worker.orders) == (2 if refused else 4))


async def test_a_body_without_declared_length_is_cut_at_the_limit() -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 10_000
            yield b"x" * 10_000

    async with one() as (_, http):
        response = await http.post("/echo", content=chunks(), headers={"Content-Type": "application/json"})
        assert response.status_code == 413


async def test_the_detail_names_the_field_and_the_models() -> None:
    async with one() as (_, http):
        misfit = (await http.post("/echo", json={})).json()
        assert misfit["detail"] == "text: Field required"
        model = (await http.post("/echo", json={"text": "a", "model": "huge"})).json()
        assert model["supported_models"] == ["small", "large"]
        assert "small, large" in model["detail"]
        wrong_method = await http.get("/echo")
        assert (wrong_method.status_code, wrong_method.json()["code"]) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Idempotency-Key"])
async def test_the_same_key_and_body_is_the_same_job(header: str) -> None:
    async with one() as (world, http):
        first = await http.post("/echo", json={"text": "a", "model": "small"}, headers={header: "k"})
        again = await http.post("/api/v1/echo", json={"model": "small", "text": "a"}, headers={header: "k"})
        other = await http.post("/echo", json={"text": "b"}, headers={header: "k"})
        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json()["job_id"] == first.json()["job_id"]
        assert again.json()["stream_url"].startswith("/api/v1/echo/")
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        await eventually(lambda: bool(world.worker.orders))
        assert len(world.worker.orders) == 1


async def test_each_key_that_is_sent_must_fit_and_the_standard_name_counts_first() -> None:
    misfit = "k" * 256
    async with one() as (_, http):

        async def posted(*headers: tuple[str, str]) -> httpx.Response:
            return await http.post("/echo", json={"text": "a"}, headers=list(headers))

        for headers in (
            [("Idempotency-Key", "k"), ("X-Idempotency-Key", misfit)],
            [("X-Idempotency-Key", "k"), ("Idempotency-Key", misfit)],
            [("Idempotency-Key", "k"), ("Idempotency-Key", misfit)],
        ):
            refused = await posted(*headers)
            assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")
        first = await posted(("X-Idempotency-Key", "other"), ("Idempotency-Key", "k"))
        again = await posted(("Idempotency-Key", "k"))
        assert again.json()["job_id"] == first.json()["job_id"]


async def test_an_upload_with_the_same_key_must_have_the_same_bytes() -> None:
    async with one() as (_, http):
        key = {"Idempotency-Key": "k"}
        first = await http.post("/photo", files={"image": ("a.jpg", b"1")}, headers=key)
        renamed = await http.post("/photo", files={"image": ("b.jpg", b"1")}, headers=key)
        other = await http.post("/photo", files={"image": ("a.jpg", b"2")}, headers=key)
        assert renamed.json()["job_id"] == first.json()["job_id"]
        assert other.json()["code"] == "IDEMPOTENCY_MISMATCH"


async def test_one_key_at_two_gateways_at_once_is_one_job() -> None:
    async with cluster(2) as world, httpx.AsyncClient() as http:
        answers = await asyncio.gather(
            *(
                http.post(
                    f"{world.gateways[index % 2].url}/echo",
                    json={"text": "a"},
                    headers={"Idempotency-Key": "k"},
                )
                for index in range(20)
            )
        )
        assert {answer.status_code for answer in answers} == {200, 202}
        [winner] = {answer.json()["job_id"] for answer in answers}
        assert [answer.status_code for answer in answers].count(202) == 1
        view = world.gateways[1].journal.view
        holder = view.by_key("", "k", time.time())
        assert holder == winner
        await eventually(lambda: bool(world.worker.orders))
        assert {job.id for job in world.worker.orders} == {winner}


async def test_a_loser_with_another_body_is_told_so() -> None:
    async with cluster(2) as world, httpx.AsyncClient() as http:
        answers = await asyncio.gather(
            *(
                http.post(f"{gateway.url}/echo", json={"text": text}, headers={"Idempotency-Key": "k"})
                for gateway, text in zip(world.gateways, "ab", strict=True)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [202, 422]


async def test_the_id_that_lost_its_key_does_not_exist_for_clients() -> None:
    async with one() as (world, http):
        winner = await _announced(world)
        lost = msgspec.structs.replace(winner, job="0192a000-0000-7000-8000-000000000002")
        await world.worker.append(lost)
        view = world.gateways[0].journal.view
        await eventually(
            lambda: (state := view.get(lost.job)) is not None and state.superseded_by == winner.job
        )
        assert (await http.get(f"/echo/{lost.job}/result")).status_code == 404
        assert (await http.get(f"/echo/{lost.job}/events")).status_code == 404


async def test_a_known_key_whose_order_may_not_be_out_is_ordered_before_it_is_answered() -> None:
    """What another gateway left when it crashed between `queued` and the order."""
    async with one() as (world, http):
        queued = await _announced(world)
        answer = await http.post("/echo", json={"text": "a"}, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["job_id"]) == (200, queued.job)
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        assert (job.id, job.accepted, job.input, job.key) == (queued.job, queued.ts, {"text": "a"}, "k")


async def test_a_known_key_whose_job_runs_is_answered_without_another_order() -> None:
    async with one() as (world, http):
        queued = await _announced(world)
        await world.worker.append(life(queued.job)[0])
        view = world.gateways[0].journal.view
        await eventually(lambda: (state := view.get(queued.job)) is not None and state.run == "r1")
        world.server.block("disk alarm")
        answer = await http.post("/echo", json={"text": "a"}, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["job_id"]) == (200, queued.job)
        assert world.worker.orders == []


async def test_a_blocked_broker_is_503_and_leaves_nothing() -> None:
    async with one() as (world, http):
        world.server.block("disk alarm")
        response = await http.post("/echo", json={"text": "a"})
        assert (response.status_code, response.json()["code"]) == (503, "BROKER_UNAVAILABLE")
        assert response.headers["Retry-After"] == str(CONFIG.retry_after)
        assert "disk alarm" in response.json()["detail"]
        world.server.unblock()
        accepted = await http.post("/echo", json={"text": "b"})
        await eventually(lambda: bool(world.worker.orders))
        assert [job.id for job in world.worker.orders] == [accepted.json()["job_id"]]
        assert len(world.gateways[0].journal.view.recent()) == 1


async def _announced(world: Cluster) -> Queued:
    """The `queued` of a request that some gateway announced and did not order: key "k", text "a"."""
    now = time.time()
    queued = Queued(
        ts=now,
        job="0192a000-0000-7000-8000-000000000001",
        pipeline="echo",
        deadline=now + 180,
        max_usd=0.5,
        digest=hashlib.sha256(b'["echo", {"text": "a"}, {}]').hexdigest(),
        key="k",
    )
    await world.worker.append(queued)
    await world.everywhere(queued.job, 0)
    return queued


async def test_a_key_that_is_sent_again_tells_how_far_its_job_is() -> None:
    async with one() as (world, http):
        key = {"Idempotency-Key": "k"}
        job_id = (await http.post("/echo", json={"text": "a"}, headers=key)).json()["job_id"]
        said = []
        for events in ([], life(job_id)[:1], life(job_id)[1:]):
            await world.worker.append(*events)
            await world.gateways[0].journal.barrier()
            again = await http.post("/echo", json={"text": "a"}, headers=key)
            assert (again.status_code, again.json()["job_id"]) == (200, job_id)
            said.append(again.json()["status"])
        assert said == ["queued", "running", "completed"]


async def test_lists_in_lists_are_taken_or_refused_however_deep() -> None:
    class Anything(BaseModel):
        model_config = ConfigDict(extra="allow")

    pipeline = Pipeline("any", Anything, (), lambda _: {})
    async with (
        cluster(pipelines=(pipeline,)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        statuses = {}
        for depth in (20, 200, 300, 500, 700, 900, 950, 1000, 5000):
            response = await http.post("/any", content=b'{"x": ' + b"[" * depth + b"]" * depth + b"}")
            statuses[depth] = response.status_code
        assert (statuses[20], statuses[5000]) == (202, 422)
        assert set(statuses.values()) == {202, 422}
        accepted = [status for status in statuses.values() if status == 202]
        assert len(world.gateways[0].journal.view.recent()) == len(accepted)


@pytest.mark.parametrize(
    ("headers", "times"),
    [
        ({}, (60.0, 180.0)),
        ({"Job-Max-Wait": "2.5"}, (2.5, 180.0)),
        ({"job-timeout": "1e1", "Job-Max-Wait": "60"}, (60.0, 10.0)),
    ],
)
async def test_a_client_may_shorten_the_times_that_the_pipeline_or_the_settings_give(
    headers: Mapping[str, str], times: tuple[float, float]
) -> None:
    pipeline = replace(ECHO, max_wait=60.0)
    async with (
        cluster(pipelines=(pipeline,)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        job_id = (await http.post("/echo", json={"text": "a"}, headers=headers)).json()["job_id"]
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        assert (job.max_wait, job.timeout, job.deadline) == (*times, job.accepted + sum(times))
        state = world.gateways[0].journal.view.get(job_id)
        assert state is not None
        assert (state.max_wait, state.timeout) == times


@pytest.mark.parametrize("value", ["180.1", "0", "-1", "", "abc", "nan", "inf", "1_0", "1, 2", "9" * 50])
@pytest.mark.parametrize("header", ["Job-Max-Wait", "Job-Timeout"])
async def test_a_time_above_that_of_the_pipeline_is_refused_as_is_what_is_none(
    header: str, value: str
) -> None:
    async with one() as (_, http):
        response = await http.post("/echo", json={"text": "a"}, headers={header: value})
        assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST")
        assert "at most 180 here" in response.json()["detail"]


@pytest.mark.parametrize(
    ("most", "headers", "limit"),
    [
        (None, {}, None),
        (None, {"Job-Max-USD": "0.05"}, 0.05),
        (2.0, {}, 2.0),
        (2.0, {"job-max-usd": "1e-2"}, 0.01),
    ],
)
async def test_a_client_may_limit_the_cost_as_the_pipeline_does(
    most: float | None, headers: Mapping[str, str], limit: float | None
) -> None:
    pipeline = replace(ECHO, max_usd=most)
    async with (
        cluster(pipelines=(pipeline,)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        job_id = (await http.post("/echo", json={"text": "a"}, headers=headers)).json()["job_id"]
        await eventually(lambda: bool(world.worker.orders))
        assert [job.max_usd for job in world.worker.orders] == [limit]
        state = world.gateways[0].journal.view.get(job_id)
        assert state is not None
        assert state.max_usd == limit


@pytest.mark.parametrize(("most", "value"), [(2.0, "2.1"), (None, "1000001"), (None, "0"), (None, "1 USD")])
async def test_a_cost_above_that_of_the_pipeline_is_refused_as_is_what_is_none(
    most: float | None, value: str
) -> None:
    pipeline = replace(ECHO, max_usd=most)
    async with (
        cluster(pipelines=(pipeline,)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        response = await http.post("/echo", json={"text": "a"}, headers={"Job-Max-USD": value})
        assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST")
        assert f"a number of USD, more than 0 and at most {most or 1e6:g} here" in response.json()["detail"]


@pytest.mark.parametrize(
    ("model", "headers", "code"),
    [
        ("large", {"Job-Max-USD": "1"}, "PRICE_UNKNOWN"),
        ("large", {}, None),
        ("small", {"Job-Max-USD": "1"}, None),
        (None, {"Job-Max-USD": "1"}, None),  # it may go to `small`
    ],
)
async def test_a_limited_job_whose_model_has_no_known_price_is_refused(
    model: str | None, headers: Mapping[str, str], code: str | None
) -> None:
    async with one() as (_, http):
        body = {"text": "a"} if model is None else {"text": "a", "model": model}
        response = await http.post("/echo", json=body, headers=headers)
        assert response.json().get("code") == code
        assert response.status_code == (202 if code is None else 422)
        if code is not None:
            assert "name one of: small" in response.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "priority", "max_wait"),
    [
        ({}, "interactive", 180.0),
        ({"Job-Priority": "interactive"}, "interactive", 180.0),
        ({"Job-Priority": "batch"}, "batch", 3265.0),
        ({"job-priority": "batch", "Job-Max-Wait": "200"}, "batch", 200.0),
    ],
)
async def test_a_client_may_let_a_job_wait_for_all_others(
    headers: Mapping[str, str], priority: str, max_wait: float
) -> None:
    async with one() as (world, http):
        job_id = (await http.post("/echo", json={"text": "a"}, headers=headers)).json()["job_id"]
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        state = world.gateways[0].journal.view.get(job_id)
        assert state is not None
        assert (job.priority, job.max_wait) == (state.priority, state.max_wait) == (priority, max_wait)


@pytest.mark.parametrize("value", ["", "high", "BATCH", "batch, batch"])
async def test_another_priority_is_refused_and_the_answer_names_those_that_there_are(value: str) -> None:
    async with one() as (_, http):
        for path in ("/echo", "/echo/batch"):
            response = await http.post(path, json={"text": "a"}, headers={"Job-Priority": value})
            assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST")
            assert "Job-Priority must be interactive or batch" in response.json()["detail"]


async def test_a_job_that_its_key_names_keeps_its_bounds() -> None:
    async with one() as (world, http):
        queued = await _announced(world)
        headers = {
            "Idempotency-Key": "k",
            "Job-Timeout": "5",
            "Job-Max-USD": "5",
            "Job-Priority": "batch",
        }
        assert (await http.post("/echo", json={"text": "a"}, headers=headers)).status_code == 200
        await eventually(lambda: bool(world.worker.orders))
        [job] = world.worker.orders
        assert (job.id, job.max_wait, job.timeout, job.max_usd) == (queued.job, 180.0, 180.0, 0.5)
        assert job.priority == "interactive"
