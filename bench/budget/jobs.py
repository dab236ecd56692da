"""The history of each job, from the journal. `read` fetches it; the rest is pure."""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from eco2.event import Done, Event, Marker, Queued, RunStarted, StageChanged, decode_events, encode_events

PATIENCE = 30.0
"""Seconds to read a whole journal."""
_NAME = re.compile(r"-(\d+)-[0-9a-f]+$")
"""How a process' name in the journal ends: its pid, and something random."""


@dataclass(slots=True)
class JobStory:
    """The history of one job. `key`: of its submission. Unix seconds: `began`: its first call had its
    grant; `ended`: `done`.

    `runs`: more than one if another worker took the job over from one that died, was frozen or left. `pid`:
    of the current run's worker.
    """

    key: str
    queued: float
    runs: int = 0
    run: str = ""
    pid: int = 0
    began: float | None = None
    ended: float | None = None
    status: str = ""
    worked: int = field(default=-1, compare=False)
    """The offset of the current run's last event of a stage."""


def stories(events: Iterable[tuple[int, Event | None]]) -> dict[str, JobStory]:
    """Returns the histories by key of submission, in the order of acceptance. The current run's first end
    counts. `events`: each with its message's offset."""
    known: dict[str, JobStory] = {}
    for offset, event in events:
        match event:
            case Queued():
                known[event.job] = JobStory(event.key or event.job, event.ts)
            case RunStarted() if event.attempt > known[event.job].runs:
                story = known[event.job]
                story.runs = event.attempt
                if event.over is None or story.worked <= event.over:
                    story.run, story.pid = event.run, _pid(event.worker)
            case StageChanged():
                story = known[event.job]
                story.worked = offset if event.run == story.run else story.worked
                story.began = event.ts if story.began is None else story.began
            case Done() if known[event.job].ended is None and event.run in (None, known[event.job].run):
                known[event.job].ended, known[event.job].status = event.ts, event.status
    return {story.key: story for story in known.values()}


def _pid(worker: str) -> int:
    """Returns the pid in the worker's name, or 0 if there is none."""
    found = _NAME.search(worker)
    return int(found[1]) if found else 0


async def read(amqp_url: str, stream: str) -> dict[str, JobStory]:
    """Reads the whole journal up to now: up to a marker that is appended at its end."""
    events: list[tuple[int, Event | None]] = []
    marker, seen = uuid.uuid4().hex, asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        batch = decode_events(message.body)
        offset = message.headers["x-stream-offset"]
        assert isinstance(offset, int)
        events.extend((offset, event) for event in batch)
        await message.ack()
        if any(isinstance(event, Marker) and event.id == marker for event in batch):
            seen.set()

    async with await aio_pika.connect(amqp_url) as connection, asyncio.timeout(PATIENCE):
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=500)
        body = encode_events([Marker(ts=time.time(), id=marker)])
        await channel.default_exchange.publish(aio_pika.Message(body), stream)
        queue = await channel.get_queue(stream, ensure=False)
        await queue.consume(take, arguments={"x-stream-offset": "first"})
        await seen.wait()
    return stories(events)
