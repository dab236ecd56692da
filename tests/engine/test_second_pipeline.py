"""A second pipeline on the unchanged engine, beside the scan: written and called by the public API alone."""

import ast
import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eco2 import assembly, service
from eco2.client import Client, ClientEvent, Refused
from eco2.fake.config import FakeConfig
from eco2.pipeline import Upload
from eco2.settings import Settings
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
        "helpdesk.py": {"eco2.pipeline"},
        "rewards.py": set(),
    }
    assert not any(module.startswith("tests") for modules in imported.values() for module in modules)


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
