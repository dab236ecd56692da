"""Fixtures for tests of the engine: held confirms, a rival run, an empty queue."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from eco2.consumers.liveness import QUERY_TOPIC, REPLY_TOPIC
from eco2.event import RunStarted
from eco2.pipeline import JSON, Context, Pipeline, Stage
from eco2.ports import Delivery
from eco2.testing.clock import VirtualClock
from tests.support.world import (
    Draft,
    Process,
    Question,
    World,
    until,
)


def single(run: Callable[[Context[Question]], Awaitable[Draft]]) -> Pipeline[Question]:
    return Pipeline("ask", Question, (Stage("draft", run, Draft),), lambda _: {})


def used(calls: int) -> JSON:
    tokens = {"input_tokens": 10 * calls, "cached_tokens": 0, "output_tokens": 5 * calls}
    return {"model": "scripted", "calls": calls, **tokens, "cost_usd": None}


def overtaking(job: str, attempt: int = 2) -> RunStarted:
    """A run of another worker, which takes the job over without asking its holder."""
    return RunStarted(ts=VirtualClock.now(), job=job, run="other", attempt=attempt, worker="elsewhere")


@contextmanager
def rival(process: Process, job: str, run: str = "other") -> Iterator[None]:
    """In the block, another worker replies to each query that it has the job."""
    holds = True

    def answer(_: str, body: bytes) -> None:
        if holds and job.encode() in body:
            process.broker.broadcast(REPLY_TOPIC, msgspec.json.encode({"jobs": {job: run}}))

    process.broker.subscribe(QUERY_TOPIC, answer)
    yield
    holds = False


async def queue_is_empty(process: Process, queue: str = "jobs.ask") -> bool:
    """Nothing waits in the queue: a message published now is the first that comes."""
    came: list[Delivery] = []
    subscription = process.broker.consume(queue, 10, came.append)
    await process.broker.publish(queue, b"last", "last")
    await until(lambda: bool(came) and came[-1].body == b"last")
    for delivery in came:
        await delivery.ack()
    await subscription.cancel()
    return len(came) == 1


class Held:
    """From now on what a process puts into the journal goes out only once `release` is called."""

    def __init__(self, process: Process) -> None:
        self._free = asyncio.Event()
        self._append = process.broker.append
        process.broker.append = self._wait  # type: ignore[method-assign]

    def release(self) -> None:
        self._free.set()

    async def _wait(self, body: bytes, message_id: str) -> None:
        await self._free.wait()
        await self._append(body, message_id)


async def at_rest(world: World) -> None:
    """Returns once no order is in any queue, and nobody holds one."""
    await until(lambda: not any(len(queue) or queue.unacknowledged for queue in world.server.queues.values()))
