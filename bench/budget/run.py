"""Runs one case: starts its processes, offers the load, and collects the provider's log and the jobs'
histories."""

import asyncio
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.budget import incidents, jobs, load
from bench.budget.case import Case
from bench.budget.fleet import Call, Fleet, fleet, neighbours
from bench.budget.incidents import Note, Notes
from bench.budget.jobs import JobStory

STEP = 10.0
"""Seconds between two lines of progress."""
FINISH = 40.0
"""Seconds for the jobs of a case that offers little to end after the load."""
_BUCKET = re.compile(r'eco2_grant_seconds_bucket\{.*le="([^"]+)".*\}')

Say = Callable[[str], None]


@dataclass
class Measured:
    """The measurements of one case. All times are monotonic, except those of jobs. `grants`: the number of
    grants by upper bound in seconds, in the steady time, summed over the workers. `killed`: the workers'
    pids."""

    case: Case
    first: float
    steady: float
    end: float
    offered: load.Offered
    calls: list[Call]
    stories: dict[str, JobStory]
    notes: list[Note]
    grants: dict[float, float] = field(default_factory=dict)
    killed: frozenset[int] = frozenset()


async def run(
    case: Case, seconds: float, warm: float, numbers: Iterable[int], amqp_url: str, folder: Path, say: Say
) -> Measured:
    """Runs a case for `seconds` from the first call until the load stops; the first `warm` seconds are not
    judged."""
    offered, notes = load.Offered(), Notes()
    async with fleet(case, amqp_url, folder) as here:
        async with neighbours(case, folder), asyncio.TaskGroup() as group:
            url = here.gateway.url
            loading = group.create_task(load.offer(case, url, numbers, math.inf, offered))
            first = await _first(here)
            steady, end = first + warm, first + seconds
            group.create_task(incidents.happen(case.incident, here, steady, end, notes))
            group.create_task(_progress(here, first, end, say))
            before = group.create_task(_grants(here, steady))
            after = group.create_task(_grants(here, end))
            await asyncio.sleep(end - time.monotonic())
            loading.cancel()
        stories = await _stories(here, amqp_url)
        calls, killed = await here.calls(), frozenset(here.killed)
    grants = {bound: made - before.result()[bound] for bound, made in after.result().items()}
    return Measured(case, first, steady, end, offered, calls, stories, notes.all, grants, killed)


async def _stories(here: Fleet, amqp_url: str) -> dict[str, JobStory]:
    """Returns the jobs' histories; in an unloaded case after all jobs have ended."""
    late = time.monotonic() + FINISH
    while True:
        stories = await jobs.read(amqp_url, f"{here.prefix}.events")
        ended = all(job.ended is not None for job in stories.values())
        if ended or here.case.load >= 1 or here.case.batch or time.monotonic() > late:
            return stories
        await asyncio.sleep(1.0)


async def _first(here: Fleet) -> float:
    """Returns the time of the first call."""
    async with asyncio.timeout(30):
        while not (calls := await here.calls()):  # noqa: ASYNC110  # HTTP sets no event
            await asyncio.sleep(0.1)
    return float(calls[0]["arrived_at"])


async def _grants(here: Fleet, moment: float) -> dict[float, float]:
    """Returns the present buckets of the histogram, if grants are judged."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
    found = defaultdict[float, float](float)
    if here.case.grants:
        for worker in here.workers:
            for name, value in (await here.metrics(worker)).items():
                if match := _BUCKET.fullmatch(name):
                    found[float(match[1])] += value
    return found


async def _progress(here: Fleet, first: float, end: float, say: Say) -> None:
    seen, refused, moment = 0, 0, first
    while moment < end:
        moment = min(end, moment + STEP)
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        fresh = await here.calls(after=seen)
        windows = await here.windows()
        refused += sum(call["status"] == 429 for call in fresh)
        held = "  ".join(
            f"{what} {use['used']:>7,.0f} of {use['limit']:,} (most {use['peak'] / use['limit']:.1%})"
            for what, use in windows.items()
            if what in ("requests", "tokens")
        )
        say(f"{moment - first:5.0f} s  {len(fresh) / STEP:5.2f} calls/s  {held}  429: {refused}")
        seen += len(fresh)
