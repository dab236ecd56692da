"""The Celery app of `examples/from_celery` and its port, each on a real RabbitMQ, by one fake provider."""

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from eco2 import assembly, service
from eco2.client import Client
from eco2.fake.config import FakeConfig
from eco2.fake.faults import Fault
from eco2.settings import Settings
from tests.support.fake_provider import Fake, Logged, running

ROOT = Path(__file__).parents[2]
REVIEWS = ["It leaks.", "Too loud.", "Fine.", "Slow."]
INPUT = {"product": "kettle", "reviews": REVIEWS}
RATING = {"stars": 2, "complaint": "it leaks"}
SUBMIT = """
import json, sys
from examples.from_celery.before import submit
print(json.dumps(submit("kettle", sys.argv[1:]).get(timeout=100)))
"""
REVOKE = """
import sys
from examples.from_celery.before import cancel, submit
job = submit("kettle", sys.argv[1:])
sys.stdin.readline()
cancel(job)
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


async def producer(program: str, environment: dict[str, str]) -> Process:
    """Starts a client of the Celery app."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *REVIEWS),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def test_both_survive_a_429_and_give_the_same_result(
    amqp_url: str, prefix: str, tmp_path: Path
) -> None:
    fault = {"action": "rate_limit", "first": 1, "retry_after": 0.1}
    async with running(FakeConfig(scale=0, answers={"Rating": (RATING,)})) as fake:
        await fake.faults(fault)
        with celery(fake, amqp_url, prefix, tmp_path) as environment:
            client = await producer(SUBMIT, environment)
            before = json.loads((await client.communicate())[0])
        by_celery = await fake.calls()
        await fake.faults(fault)
        async with eco2(fake, amqp_url, prefix) as port:
            after = await port.result(await port.submit("reviews", INPUT))
        by_eco2 = (await fake.calls())[len(by_celery) :]
    assert before == {"stars": 2.0, "summary": after["summary"]}
    assert after["stars"] == 2.0
    for calls in (by_celery, by_eco2):
        assert sorted(call["status"] for call in calls) == [*[200] * (len(REVIEWS) + 1), 429]
    assert by_celery[-1]["prompt_tokens"] == by_eco2[-1]["prompt_tokens"]  # of the summary


async def test_both_break_the_calls_off_of_a_job_that_is_revoked(
    amqp_url: str, prefix: str, tmp_path: Path
) -> None:
    async with running(FakeConfig(faults=(Fault(action="stall"),))) as fake:

        def in_flight(number: int) -> Callable[[list[Logged]], bool]:
            return lambda calls: [call["outcome"] for call in calls].count("running") == number

        with celery(fake, amqp_url, prefix, tmp_path) as environment:
            client = await producer(REVOKE, environment)
            await fake.until(in_flight(4), seconds=60)
            await client.communicate(b"\n")
            await fake.until(in_flight(0), seconds=60)
        async with eco2(fake, amqp_url, prefix) as port:
            job = await port.submit("reviews", INPUT)
            await fake.until(in_flight(4), seconds=60)
            ended = await port.cancel(job)
            await fake.until(in_flight(0), seconds=60)
        assert len(await fake.calls()) == 8
    assert ended["status"] == "cancelled"
