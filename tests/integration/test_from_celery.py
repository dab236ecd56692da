"""The Celery app of `examples/from_celery` and its port, each on a real RabbitMQ, by one fake provider."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from eco2 import assembly, service
from eco2.client import Client
from eco2.fake.config import FakeConfig
from eco2.settings import Settings
from tests.support.fake_provider import Fake, running

ROOT = Path(__file__).parents[2]
REVIEWS = ["It leaks.", "Too loud.", "Fine.", "Slow."]
RATING = {"stars": 2, "complaint": "it leaks"}
SUBMIT = """
import json, sys
from examples.from_celery.before import submit
print(json.dumps(submit("kettle", sys.argv[1:]).get(timeout=100)))
"""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


@contextmanager
def celery(fake: Fake, amqp_url: str, prefix: str, folder: Path) -> Iterator[dict[str, str]]:
    """Runs a Celery worker for the length of the block; yields the environment of its clients."""
    environment = {
        **os.environ,
        "BROKER_URL": amqp_url,
        "RESULT_BACKEND": folder.as_uri(),
        "QUEUE": f"{prefix}.reviews",
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": f"{fake.url}/v1",
    }
    command = [sys.executable, "-m", "celery", "-A", "examples.from_celery.before", "worker"]
    options = ["-c", "4", "--without-gossip", "--without-mingle", "-l", "warning"]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield environment
        finally:
            worker.terminate()
            worker.wait(30)


@asynccontextmanager
async def eco2(fake: Fake, amqp_url: str, prefix: str) -> AsyncIterator[Client]:
    """Runs gateway and worker for the length of the block; yields a client."""
    provider: dict[str, Any] = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{fake.url}/v1"}
    pipelines = "examples.from_celery.after:reviews"
    settings = Settings(port=0, amqp_url=amqp_url, prefix=prefix, pipelines=pipelines, **provider)
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    listening = assembly.Listening(gateway=port.set_result)
    async with (
        assembly.process(settings, "serve", stop, listening) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(service.run(components, stop))
        try:
            async with Client(f"http://{settings.host}:{await port}") as client:
                yield client
        finally:
            stop.set()


async def test_both_make_the_same_calls_and_give_the_same_result(
    amqp_url: str, prefix: str, tmp_path: Path
) -> None:
    async with running(FakeConfig(scale=0, answers={"Rating": (RATING,)})) as fake:
        with celery(fake, amqp_url, prefix, tmp_path) as environment:
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SUBMIT, *REVIEWS),
                cwd=ROOT,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
            )
            before = json.loads((await client.communicate())[0])
        by_celery = await fake.calls()
        async with eco2(fake, amqp_url, prefix) as port:
            job = await port.submit("reviews", {"product": "kettle", "reviews": REVIEWS})
            after = await port.result(job)
        by_eco2 = (await fake.calls())[len(by_celery) :]
    assert before == {"stars": 2.0, "summary": after["summary"]}
    assert after["stars"] == 2.0
    assert len(by_celery) == len(by_eco2) == len(REVIEWS) + 1
    assert {call["status"] for call in (*by_celery, *by_eco2)} == {200}
    assert by_celery[-1]["prompt_tokens"] == by_eco2[-1]["prompt_tokens"]  # of the summary
