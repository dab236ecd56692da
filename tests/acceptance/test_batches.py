"""A gateway is killed in the middle of batches: its clients end up with one job per input."""

import asyncio
from collections.abc import Iterator

from eco2.client import Client, ClientJob
from tests.acceptance.programs import eco2
from tests.support.rabbitmq import free_ports

JOBS = 3_000
KILL_AT = 500
"""Answers after which the gateway is killed: in the middle of the next request."""


class Killed(Exception):
    """Makes `eco2` kill its program."""


def inputs() -> Iterator[dict[str, object]]:
    return ({"image_url": f"https://photos.example/{at}.jpg"} for at in range(JOBS))


def keys() -> Iterator[str]:
    return (f"order {at}" for at in range(JOBS))


async def test_after_kill_9_in_a_batch_each_input_has_one_job(amqp_url: str, prefix: str) -> None:
    env = {"ECO2_AMQP_URL": amqp_url, "ECO2_PREFIX": prefix, "ECO2_IMAGE_URLS": "on"}
    env |= {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    jobs: list[str] = []
    accepted = asyncio.Event()

    async def submit(client: Client) -> None:
        async for answer in client.submit_many("scan", inputs(), keys()):
            assert isinstance(answer, ClientJob)
            jobs.append(answer.id)
            if len(jobs) == KILL_AT:
                accepted.set()

    port = free_ports(1)[0]
    env["ECO2_PORT"] = str(port)
    async with Client(f"http://127.0.0.1:{port}") as client, asyncio.TaskGroup() as group:
        submitting = group.create_task(submit(client))
        try:
            async with eco2("gateway", env=env):
                await accepted.wait()
                await asyncio.sleep(0.2)  # into the next request
                raise Killed
        except* Killed:
            assert len(jobs) < JOBS
        async with eco2("gateway", env=env):
            await submitting
            assert len(jobs) == len(set(jobs)) == JOBS
            once_more = [answer async for answer in client.submit_many("scan", inputs(), keys())]
            assert [answer.id for answer in once_more if isinstance(answer, ClientJob)] == jobs
