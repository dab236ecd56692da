"""Offers jobs at random moments, at a steady rate, independently of their results."""

import asyncio
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from random import Random

from bench.budget.case import Case
from eco2.client import Client

PICTURE = "https://example.org/photo.jpg"
"""The provider never fetches it."""
BATCH_BEGIN = 1_000_000
"""The number of the first batch job, beyond those of all others."""
AHEAD = 10.0
"""Seconds that the client is patient with the gateway."""


@dataclass
class Offered:
    """The offered jobs. `sent`: the time of each submission (monotonic), in order. `accepted`: the number
    accepted."""

    sent: list[float] = field(default_factory=list)
    accepted: int = 0


def moments(rate: float, seed: int) -> Iterator[float]:
    """Yields the arrivals of a Poisson process, in seconds from its start."""
    dice, moment = Random(seed), 0.0
    while True:
        moment += -math.log(1 - dice.random()) / rate
        yield moment


async def offer(case: Case, url: str, numbers: Iterable[int], until: float, offered: Offered) -> None:
    """Submits jobs with these numbers until the time `until` (monotonic), pipelines in turn."""
    began = time.monotonic()
    pipelines = cycle(case.pipelines)
    async with Client(url, patience=AHEAD) as client, asyncio.TaskGroup() as group:
        if case.batch:
            group.create_task(_submit_batch(client, case.batch, offered))
        for moment, number in zip(moments(case.jobs_per_second, seed=1), numbers, strict=False):
            due = began + moment
            if due >= until:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_submit(client, next(pipelines), number, offered))


async def _submit_batch(client: Client, number: int, offered: Offered) -> None:
    numbers = range(BATCH_BEGIN, BATCH_BEGIN + number)
    keys = (job_key("note", number) for number in numbers)
    async for answer in client.submit_many("note", ({"number": number} for number in numbers), keys):
        if isinstance(answer, Exception):
            raise answer
        offered.sent.append(time.monotonic())
        offered.accepted += 1


async def _submit(client: Client, pipeline: str, number: int, offered: Offered) -> None:
    text: dict[str, object] = {"number": number}
    if pipeline == "scan":
        text = {"image_url": PICTURE, "user_input": f"Where does this go? (case {number})"}
    offered.sent.append(time.monotonic())
    await client.submit(pipeline, text, key=job_key(pipeline, number))
    offered.accepted += 1


def job_key(pipeline: str, number: int) -> str:
    """Returns the idempotency key, which is also in the journal."""
    return f"{pipeline}-{number}"
