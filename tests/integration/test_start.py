"""Starts of real processes on RabbitMQ: what the log says of a good one, and how a refused one ends."""

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from eco2 import __version__, log
from tests.support.installation import installation

PROGRAM = [sys.executable, "-m", "eco2"]


async def run(*args: str, **variables: str) -> tuple[int, str]:
    """The exit code and the errors of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *args, env=variables | {"PYTHONPATH": "."}, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.mark.parametrize("command", ["gateway", "worker", "serve"])
async def test_a_refused_login_is_one_line(command: str, amqp_url: str, prefix: str) -> None:
    parts = urlsplit(amqp_url)
    wrong = parts._replace(netloc=f"nobody:hunter2@{parts.netloc.rpartition('@')[2]}").geturl()
    code, errors = await run(command, "--port", "0", ECO2_AMQP_URL=wrong, ECO2_PREFIX=prefix)
    assert code == 2
    last = errors.splitlines()[-1]
    assert re.match(r"eco2: the broker at [\w.:]+ refuses the login of ECO2_AMQP_URL", last)
    assert "Traceback" not in errors
    assert "hunter2" not in errors


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log at debug, as JSON lines; afterwards logging is as it was."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    log.configure("debug", "json", stream)
    yield stream
    log.configure()
    root.handlers = before
    root.setLevel(level)


async def test_a_good_start_says_what_is_in_force_and_warns_of_nothing(
    lines: io.StringIO, amqp_url: str, prefix: str
) -> None:
    """A whole scan at `ECO2_LOG_LEVEL=debug` shows neither the photo nor the question nor a key."""
    question = "어디에버려요zebra"
    async with installation(amqp_url, prefix) as here, here.worker():
        job = await here.client.submit(
            "scan", {"image_url": "https://example.org/q.jpg", "user_input": question}
        )
        await here.client.result(job)
        photo = await here.submit()
        await here.client.result(photo)
    text = lines.getvalue()
    found = [json.loads(line) for line in text.splitlines()]
    starts = [line for line in found if line["event"] == "starting"]
    assert [start["role"] for start in starts] == ["gateway", "worker"]
    for start in starts:
        assert start["version"] == __version__
        assert start["pipelines"] == ["scan"]
        assert start["prefix"] == prefix
        assert start["broker"].startswith("amqp://***@")
        assert start["prefetch"] == 10
        assert "500 requests/min, 500000 tokens/min" in start["providers"]["openai"]
    advice = "the settings work, but"  # the installation's prefetch is small on purpose
    warned = [line for line in found if line["level"] in ("warning", "error") and line["event"] != advice]
    # Some versions of the broker have faults of their own, of which the start warns.
    assert [
        line
        for line in warned
        if line["logger"] != "py.warnings" and not line["event"].startswith("RabbitMQ ")
    ] == []
    assert question not in text
    assert "zebra" not in text
    assert "/9j/4AAQ" not in text
    assert "Bearer" not in text
