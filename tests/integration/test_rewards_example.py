"""The reader of rewards in docs/events.md: void runs and repetitions, and a real stream of RabbitMQ."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from eco2.broker.rabbitmq import RabbitMQ
from eco2.broker.topology import Topology
from eco2.event import Done, Event, RunStarted, StageChanged, encode_events
from tests.conformance.rabbitmq_node import delete
from tests.examples.rewards import Rewards, follow

CAN = {"name": "메탈리", "type": "금속류"}


def run(run: str, attempt: int, job: str = "a", over: int | None = None) -> RunStarted:
    return RunStarted(ts=1.0, job=job, run=run, attempt=attempt, worker="w", over=over)


def stage(run: str) -> StageChanged:
    return StageChanged(ts=1.5, job="a", run=run, stage="vision", status="started", seq=10, progress=0)


def done(
    run: str | None,
    reward: dict[str, str] | None = CAN,
    job: str = "a",
    status: Literal["completed", "failed"] = "completed",
) -> Done:
    return Done(ts=2.0, job=job, run=run, status=status, seq=51, result={"reward": reward})


def credited(*events: Event) -> list[tuple[str, dict[str, Any]]]:
    """What a service credits that reads these events, each in a message of its own."""
    found: list[tuple[str, dict[str, Any]]] = []
    reader = Rewards(lambda job, reward: found.append((job, reward)))
    for offset, event in enumerate(events):
        reader.take(encode_events([event]), offset)
    return found


def test_the_current_run_is_believed() -> None:
    assert credited(run("x", 1), done("x")) == [("a", CAN)]
    assert credited(run("x", 1), run("y", 2), done("y")) == [("a", CAN)]


def test_void_runs_are_not() -> None:
    assert credited(run("x", 1), run("y", 2), done("x")) == []
    assert credited(run("x", 1), run("y", 1), done("y")) == []
    assert credited(done("x")) == []


def test_who_took_over_without_knowing_of_a_stage_is_void_and_who_knew_is_not() -> None:
    x, late, knew = run("x", 1), run("y", 2, over=0), run("y", 2, over=1)
    assert credited(x, stage("x"), late, done("y"), done("x")) == [("a", CAN)]
    assert credited(x, stage("x"), knew, done("x"), done("y")) == [("a", CAN)]
    assert credited(x, late, stage("x"), done("x")) == []
    assert credited(x, stage("x"), late, done("y")) == []
    assert credited(x, stage("x"), late, run("z", 3), done("z")) == [("a", CAN)]


def test_who_was_ended_past_the_deadline_gets_nothing_for_what_comes_later() -> None:
    assert credited(run("x", 1), done(None, None, status="failed"), done("x")) == []


def test_a_repeated_message_credits_once() -> None:
    assert credited(run("x", 1), done("x"), done("x")) == [("a", CAN)]


def test_scans_without_a_reward_credit_nothing() -> None:
    assert credited(run("x", 1), done("x", reward=None), done(None, None, job="b", status="failed")) == []


def test_a_newer_version_is_left_alone() -> None:
    found: list[str] = []
    Rewards(lambda job, _: found.append(job)).take(b'{"v": 2, "what": "ever"}', 0)
    assert found == []


async def test_it_reads_a_real_stream(amqp_url: str, prefix: str) -> None:
    topology = Topology(prefix, pipelines=("scan",))
    broker, stop = RabbitMQ(amqp_url, topology), asyncio.Event()
    credit: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
    earlier = datetime.now(UTC) - timedelta(hours=1)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(broker.run(stop))
        await until_ready(broker)
        await broker.append(encode_events([run("x", 1), run("y", 2)]), "1")
        await broker.append(encode_events([done("x"), done("y", {"name": "페티"})]), "2")
        reader = group.create_task(
            follow(amqp_url, topology.stream, earlier, lambda *found: credit.set_result(found))
        )
        assert await credit == ("a", {"name": "페티"})
        reader.cancel()
        stop.set()
    await delete(amqp_url, topology)


async def until_ready(broker: RabbitMQ) -> None:
    while not broker.ready:  # noqa: ASYNC110  # the port offers no event for it
        await asyncio.sleep(0.01)
