"""Jobs that work for longer than the broker waits for acks (`consumer_timeout`, 30 minutes by default).

The broker then closes the channel, and delivers again all that was unsettled on it, to any worker; from 4.3
on it cancels the consumer instead. The node is for this test alone, and its time-out is a few seconds.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest
from pydantic import BaseModel

from eco2.broker.rabbitmq.consumer import ConsumerChannel
from eco2.client import ClientJob
from eco2.commands import jobs
from eco2.pipeline import Call, Context, Pipeline, Stage
from eco2.ports import DEAD, jobs_queue, retry_queue
from tests.support.installation import Installation, installation, until
from tests.support.rabbitmq import Node

TIMEOUT = 3.0
"""Seconds that the broker waits for an ack."""
LONG = 7.5
"""Seconds of work: so a long job's delivery times out twice."""


class Work(BaseModel):
    seconds: float


class Worked(BaseModel):
    text: str


async def work(context: Context[Work]) -> Worked:
    """Pays for a call, works, and pays for another."""
    first = await context.call(Call("answer", "", f"before {context.job_id}", str, 10))
    await asyncio.sleep(context.input.seconds)
    second = await context.call(Call("answer", "", f"after {context.job_id}", str, 10))
    return Worked(text=first.value + second.value)


pipeline: Pipeline[Work] = Pipeline(
    name="work",
    input=Work,
    stages=(Stage("work", work, Worked),),
    result=lambda outputs: {"text": None if outputs is None else outputs.get(Worked).text},
)


async def test_a_job_longer_than_the_brokers_acknowledgement_timeout_runs_and_is_paid_once(
    own_node: Node, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[str] = []
    note = ConsumerChannel._cancelled_by_broker

    def count(consumer: ConsumerChannel, frame: object) -> None:
        cancelled.append(prefix)
        note(consumer, frame)

    monkeypatch.setattr(ConsumerChannel, "_cancelled_by_broker", count)
    timeouts = f"application:set_env(rabbit, consumer_timeout, {TIMEOUT * 1000:.0f})"
    # The broker looks at a channel every minute; the setting has no name in rabbitmq.conf.
    looks = "application:set_env(rabbit, channel_tick_interval, 250)"
    await asyncio.to_thread(own_node.ctl, "eval", f"{timeouts}, {looks}.")
    alone, fleet = work_in_fleet(own_node.url, f"{prefix}a", 1), work_in_fleet(own_node.url, f"{prefix}b", 2)
    await asyncio.gather(alone, fleet)
    closed = own_node.log_tail(2000).count("timed out")
    assert closed + len(cancelled) >= 2 * 2


async def work_in_fleet(amqp_url: str, prefix: str, workers: int) -> None:
    """With one worker the job comes back to its own; with several also to one that has not got it."""
    async with installation(amqp_url, prefix, f"{__name__}:pipeline") as here, AsyncExitStack() as fleet:
        for _ in range(workers):
            await fleet.enter_async_context(here.worker())
        long = [await submit(here, LONG) for _ in range(3)]
        short: list[ClientJob] = []
        ends = asyncio.gather(*(here.events(job.id, "work") for job in long))
        while not ends.done():
            short.append(await submit(here, 0.3))
            assert (await here.events(short[-1].id, "work"))[-1].status == "completed"
        for events in await ends:
            assert [event.seq for event in events] == [0, 10, 11, 21]
            assert events[-1].status == "completed"
        assert await here.paid() == {job.id: 2 for job in (*long, *short)}

        async def settled() -> bool:
            return sum([await here.depth(queue) for queue in (jobs_queue("work"), retry_queue("work"))]) == 0

        await until(settled)
        for job in long:
            detail = await jobs.read_detail(here.settings, job.id)
            assert [run.end for run in detail.runs] == ["completed"]
        assert await here.depth(DEAD) == 0


async def submit(here: Installation, seconds: float) -> ClientJob:
    return await here.client.submit("work", {"seconds": seconds}, key=None)
