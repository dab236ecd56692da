"""A second pipeline on the unchanged engine, beside the scan: written and called by the public API alone."""

import ast
import asyncio
import dataclasses
import io
import json
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from PIL import Image

from eco2 import assembly, service
from eco2.client import Client, ClientEvent, Refused
from eco2.errors import ConfigurationError
from eco2.fake.config import FakeConfig
from eco2.pipeline import Context, Pipeline, Stage, Upload
from eco2.settings import Settings
from eco2.stages import DEMO_PHOTO
from tests.examples import shop
from tests.examples.ask import ask
from tests.support.fake_provider import running
from tests.support.scripted_provider import USAGE, completion, saying

EXAMPLES = Path(__file__).parents[1] / "examples"
MESSAGE = "My parcel has not arrived, I need it today."
LETTER = "We look at it at once. A colleague of the delivery desk will answer you."


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


@asynccontextmanager
async def serving(
    pipelines: str = "eco2.stages:scan,tests.examples.helpdesk:helpdesk", **more: Any
) -> AsyncIterator[str]:
    """The gateway's URL; gateway, worker and broker in memory run for the length of the block.

    `more`: settings.
    """
    settings = Settings(port=0, pipelines=pipelines, **more)
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    listening = assembly.Listening(gateway=port.set_result)
    async with (
        assembly.process(settings, "serve", stop, listening) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(service.run(components, stop))
        try:
            yield f"http://{settings.host}:{await port}"
        finally:
            stop.set()


def imports(path: Path) -> set[str]:
    """The modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=str(module)):
                found.add(module)
    return found


def test_the_examples_import_nothing_but_the_public_api() -> None:
    imported = {path.name: imports(path) for path in EXAMPLES.glob("*.py")}
    ours = {
        name: {module for module in modules if module.partition(".")[0] == "eco2"}
        for name, modules in imported.items()
    }
    assert ours == {
        "agent.py": {"eco2.pipeline"},
        "ask.py": {"eco2.client"},
        "book.py": {"eco2.pipeline"},
        "helpdesk.py": {"eco2.pipeline"},
        "rewards.py": set(),
        "shop.py": {"eco2.pipeline"},
        "test_helpdesk.py": {"eco2.testing"},
    }
    of_tests = {module for modules in imported.values() for module in modules if module.startswith("tests")}
    assert of_tests == {"tests.examples.helpdesk"}


async def test_its_events_come_in_order_and_end_with_the_result() -> None:
    async with serving() as url, Client(url, patience=10.0) as client:
        job = await client.submit("helpdesk", {"text": MESSAGE})
        assert job.stream_url == f"/helpdesk/{job.id}/events"
        events = [event async for event in client.events(job)]
        result = await client.result(job)
    durable = [event for event in events if event.seq is not None]
    assert [(event.name, event.status, event.seq, event.progress) for event in durable] == [
        ("queued", "started", 0, 0),
        ("triage", "started", 10, 0),
        ("triage", "completed", 11, 50),
        ("letter", "started", 20, 50),
        ("letter", "completed", 21, 100),
        ("done", "completed", 31, 100),
    ]
    assert durable[2].result == {"topic": "delivery", "urgent": True}
    assert durable[-1].result == result
    assert live_text(events) in LETTER
    assert result["triage"] == {"topic": "delivery", "urgent": True}
    assert result["letter"] == LETTER
    assert (result["task_id"], result["status"], result["error"]) == (job.id, "completed", None)
    assert isinstance(result["usage"], dict)
    assert {name: used["model"] for name, used in result["usage"].items()} == dict.fromkeys(
        ("triage", "letter"), "local/efficientnet-lite0"
    )


def live_text(events: list[ClientEvent]) -> str:
    """What the client saw of the letter while it was written; may be none of it, never anything else."""
    return "".join(event.text or "" for event in events if event.name == "letter.delta")


async def test_each_event_and_result_is_as_openapi_describes_it() -> None:
    requests: list[tuple[str, dict[str, str], dict[str, Path]]] = [
        ("helpdesk", {"text": MESSAGE}, {}),
        ("scan", {"user_input": "Where?"}, {"image": DEMO_PHOTO}),
    ]
    async with (
        serving() as url,
        Client(url, patience=10.0) as client,
        httpx.AsyncClient(base_url=url) as http,
    ):
        components = (await http.get("/openapi.json")).json()["components"]
        statuses = []
        for pipeline, fields, files in requests:
            job = await client.submit(pipeline, fields, files=files)
            stream = (await http.get(job.stream_url)).text
            durable = re.findall(r"^event: .*\ndata: (.*)\nid: ", stream, re.MULTILINE)
            result = await client.result(job)
            for name, data in [("event", json.loads(each)) for each in durable] + [("result", result)]:
                schema = components["schemas"][f"{pipeline}.{name}"] | {"components": components}
                jsonschema_rs.validate(schema, data)
            statuses.append((pipeline, result["status"], len(durable)))
    assert statuses == [("helpdesk", "completed", 6), ("scan", "completed", 10)]


async def test_resources_are_open_while_a_worker_has_jobs_and_closed_after_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job is at work when the worker is told to stop; it is given back, and then the store is closed."""
    said: list[str] = []
    at_work = asyncio.Event()

    @asynccontextmanager
    async def store() -> AsyncIterator[list[str]]:
        said.append("open")
        yield said
        said.append("close")

    async def price(context: Context[shop.Question, list[str]]) -> shop.Price:
        at_work.set()
        try:
            await asyncio.Event().wait()
        finally:
            context.resources.append(f"left {context.input.article}")
        raise AssertionError

    slow = Pipeline("shop", shop.Question, (Stage("price", price, shop.Price),), shop.result, resources=store)
    monkeypatch.setattr(shop, "shop", slow)
    async with serving("tests.examples.shop:shop") as url, Client(url, patience=10.0) as client:
        assert said == ["open"]
        await client.submit("shop", {"article": "bottle"})
        await at_work.wait()
    assert said == ["open", "left bottle", "close"]


async def test_a_process_whose_resources_cannot_be_opened_does_not_start_unless_it_is_a_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def store() -> AbstractAsyncContextManager[sqlite3.Connection]:
        raise OSError("no route to the store")

    settings = Settings(pipelines="tests.examples.shop:shop", amqp_url="amqp://127.0.0.1:1/")
    broken = dataclasses.replace(shop.shop, resources=store)
    monkeypatch.setattr(shop, "shop", broken)
    with pytest.raises(
        ConfigurationError, match="pipeline 'shop': its `resources` cannot be opened: OSError"
    ):
        async with assembly.process(settings, "serve", asyncio.Event()):
            raise AssertionError("it must not start")
    async with assembly.process(settings, "gateway", asyncio.Event()) as components:
        assert components


async def test_a_stage_that_blocks_the_loop_is_named_in_the_log_with_its_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def blocks() -> list[dict[str, Any]]:
        lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return [line for line in lines if "blocked the event loop" in line["event"]]

    async def price(_: Context[shop.Question]) -> shop.Price:
        time.sleep(1.5)  # noqa: ASYNC251  # the fault itself
        return shop.Price(cents=1)

    slow = Pipeline("shop", shop.Question, (Stage("price", price, shop.Price),), shop.result)
    monkeypatch.setattr(shop, "shop", slow)
    async with serving("tests.examples.shop:shop") as url, Client(url, patience=10.0) as client:
        job = await client.submit("shop", {"article": "bottle"})
        await client.result(job)
        async with asyncio.timeout(30):
            while not blocks():  # noqa: ASYNC110  # a line of the log sets no event
                await asyncio.sleep(0.05)
    [line] = blocks()
    assert line["event"].startswith("stage price of pipeline shop blocked the event loop for 1.")
    assert line["job_id"] == job.id
    assert line["stack"][-1].startswith("engine/test_second_pipeline.py:")


async def test_the_example_with_resources_answers() -> None:
    async with serving("tests.examples.shop:shop") as url, Client(url, patience=10.0) as client:
        found = await client.result(await client.submit("shop", {"article": "bottle"}))
        missing = await client.result(await client.submit("shop", {"article": "moon"}))
    assert (found["status"], found["cents"]) == ("completed", 25)
    assert missing["error"] == {"code": "NO_PRICE", "message": "there is no price of moon"}


async def test_a_client_goes_on_behind_the_event_that_it_saw_last() -> None:
    async with serving("tests.examples.helpdesk:helpdesk") as url, Client(url, patience=10.0) as client:
        job = await client.submit("helpdesk", {"text": "I want a refund."})
        first = [event async for event in client.events(job) if event.seq is not None]
        rest = [event.seq async for event in client.events(job, last_event_id=first[2].id)]
    assert rest == [20, 21, 31]


async def test_the_client_program_gets_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving("tests.examples.helpdesk:helpdesk") as url:
        result = await ask(url, MESSAGE)
    assert result["letter"] == LETTER
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "queued started"
    assert lines[-1] == "done completed"


async def test_a_request_that_does_not_fit_the_input_model_is_refused() -> None:
    async with serving("tests.examples.helpdesk:helpdesk") as url, Client(url, patience=10.0) as client:
        with pytest.raises(Refused) as refused:
            await client.submit("helpdesk", {"text": ""})
        assert (refused.value.status, refused.value.code) == (422, "INVALID_REQUEST")
        with pytest.raises(Refused) as unknown:
            await client.submit("scan", {"image_url": "https://photos.example/can.jpg"})
        assert unknown.value.status == 404


async def test_the_scan_runs_beside_it() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    upload = Upload("grey.png", "image/png", picture.getvalue())
    async with serving() as url, Client(url, patience=10.0) as client:
        scan = await client.submit("scan", {}, files={"image": upload})
        letter = await client.submit("helpdesk", {"text": MESSAGE})
        scanned, answered = await asyncio.gather(client.result(scan), client.result(letter))
    assert scanned["status"] == "completed"
    assert scanned["pipeline_result"] is not None
    assert answered["letter"] == LETTER


async def test_the_example_of_branches_sums_up_each_chapter_under_its_name() -> None:
    chapters = [f"Chapter {number} begins. It goes on." for number in range(1, 31)]
    async with running(FakeConfig(scale=0.05)) as fake:
        provider = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{fake.url}/v1"}
        async with (
            serving("tests.examples.book:book", **provider) as url,
            Client(url, patience=10.0) as client,
        ):
            job = await client.submit("book", {"chapters": chapters})
            events = [event async for event in client.events(job)]
        calls = await fake.calls()
    result = events[-1].result
    assert result is not None
    assert (result["status"], len(calls)) == ("completed", 31)
    assert isinstance(result["chapters"], list)
    shown: dict[str | None, str] = {}
    for event in events:
        if event.name == "summarise.delta":
            shown[event.call] = shown.get(event.call, "") + (event.text or "")
    assert shown
    for call, text in shown.items():
        assert call is not None
        assert result["chapters"][int(call.removeprefix("chapter-")) - 1].startswith(text)
    assert {event.call for event in events if event.name == "blurb.delta"} == {None}
    counts = [(event.done or 0, event.total) for event in events if event.name == "summarise.progress"]
    assert {total for _, total in counts} == {30}
    assert counts == sorted(counts)


async def test_the_example_of_branches_works_without_a_language_model() -> None:
    async with serving("tests.examples.book:book") as url, Client(url, patience=10.0) as client:
        result = await client.result(await client.submit("book", {"chapters": ["One. More.", "Two. More."]}))
    assert (result["chapters"], result["blurb"]) == (["One.", "Two."], "One.")


async def test_an_agent_uses_its_tool_before_it_answers() -> None:
    config = FakeConfig(scale=0, answers={"opening_hours": ({"day": "saturday"},)})
    async with running(config) as fake:
        provider = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{fake.url}/v1"}
        async with (
            serving("tests.examples.agent:agent", **provider) as url,
            Client(url, patience=10.0) as client,
        ):
            answered = await client.result(await client.submit("agent", {"text": "When are you open?"}))
        first, second = await fake.calls()
    assert answered["status"] == "completed"
    assert answered["answer"]
    assert answered["usage"]["answer"]["calls"] == 2  # type: ignore[index]
    assert second["prompt_tokens"] > first["prompt_tokens"] + len("saturday: 10 to 14") / 4


async def test_an_agent_that_only_asks_for_tools_ends_its_job() -> None:
    wish = {"tool_calls": [{"function": {"name": "opening_hours", "arguments": {"day": "sunday"}}}]}
    async with saying(completion("tool_calls", wish, usage=USAGE)) as provider:
        settings = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": provider}
        async with (
            serving("tests.examples.agent:agent", **settings) as url,
            Client(url, patience=10.0) as client,
        ):
            failed = await client.result(await client.submit("agent", {"text": "When are you open?"}))
    assert failed["error"]["code"] == "NO_ANSWER"  # type: ignore[index]
    assert failed["usage"]["answer"]["calls"] == 6  # type: ignore[index]


async def test_an_agent_is_refused_where_no_language_model_is_offered() -> None:
    async with serving("tests.examples.agent:agent") as url, Client(url, patience=10.0) as client:
        with pytest.raises(Refused) as refused:
            await client.submit("agent", {"text": "When are you open?"})
    assert refused.value.code == "MODEL_REQUIRED"
