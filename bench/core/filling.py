"""Fills a queue before any consumer starts, in the same way for every contender.

A peer's job is made once by its own client, and copied with new ids: so it has the form that its worker
expects. All messages are persistent, and confirmed before the clock runs.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from bench.programs import ProgramFailed
from eco2.event import encode_events, queued
from eco2.job import Job, encode_order, new_id

AT_ONCE = 500
"""Messages without a confirm."""
IN_RECORD = 500
"""Events in one message of the journal."""
LIFE = 900.0
"""Seconds that a job may take; none is to end for that."""
_ID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is published."""

    body: bytes
    properties: Basic.Properties


def copies(sample: Message, number: int) -> Iterator[Message]:
    """Yields that many copies of the sample, each with a new id wherever it has one."""
    text = sample.body.decode()
    fields = {name: getattr(sample.properties, name) for name in Basic.Properties.attributes()}
    found = _ID.search(str(fields.get("correlation_id")) + text)
    for _ in range(number):
        if found is None:
            yield sample
            continue
        old, fresh = found[0], str(uuid.uuid4()) if found[1] else uuid.uuid4().hex
        renewed = {name: _renewed(value, old, fresh) for name, value in fields.items()}
        yield Message(text.replace(old, fresh).encode(), Basic.Properties(**renewed))


def _renewed(value: Any, old: str, fresh: str) -> Any:
    if isinstance(value, dict):
        return {name: _renewed(inner, old, fresh) for name, inner in value.items()}
    return value.replace(old, fresh) if isinstance(value, str) else value


def plain(seconds: float) -> Message:
    """Yields messages for the loops without a library."""
    return Message(f'{{"seconds":{seconds}}}'.encode(), Basic.Properties(delivery_mode=2))


def jobs(seconds: float, number: int) -> list[Job]:
    """Yields jobs as a gateway accepts them."""
    now = time.time()
    return [
        Job(
            id=new_id(now),
            pipeline="core",
            input={"seconds": seconds},
            accepted=now,
            deadline=now + LIFE,
            digest="0" * 64,
        )
        for _ in range(number)
    ]


def orders(accepted: Iterable[Job]) -> Iterator[Message]:
    """Yields their work orders."""
    for job in accepted:
        yield Message(encode_order(job), Basic.Properties(delivery_mode=2, message_id=job.id))


async def announce(channel: AbstractChannel, stream: str, accepted: list[Job]) -> None:
    """Writes their `queued` events to the journal."""
    records = [accepted[at : at + IN_RECORD] for at in range(0, len(accepted), IN_RECORD)]
    events = (
        Message(encode_events([queued(job) for job in record]), Basic.Properties()) for record in records
    )
    await fill(channel, stream, events)


async def fill(channel: AbstractChannel, queue: str, messages: Iterable[Message]) -> None:
    """Publishes all messages in order, each confirmed."""
    waiting: list[asyncio.Future[Any]] = []
    for message in messages:
        publishing = channel.basic_publish(message.body, routing_key=queue, properties=message.properties)
        waiting.append(asyncio.ensure_future(publishing))
        if len(waiting) == AT_ONCE:
            await asyncio.gather(*waiting)
            waiting = []
    await asyncio.gather(*waiting)


async def taken(channel: AbstractChannel, queue: str) -> Message:
    """Removes the oldest message of the queue and returns it."""
    for _ in range(100):
        got = await channel.basic_get(queue, no_ack=True)
        if got.body and got.header is not None:
            return Message(got.body, got.header.properties)
        await asyncio.sleep(0.05)
    raise ProgramFailed(f"no job of its own client arrived in {queue}")


async def connect(url: str) -> tuple[aiormq.abc.AbstractConnection, AbstractChannel]:
    connection = await aiormq.connect(url)
    return connection, await connection.channel(publisher_confirms=True)
