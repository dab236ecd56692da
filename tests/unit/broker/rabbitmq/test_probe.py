"""When a probe gives its connection up: after silence, in time, and never because of an alarm."""

import asyncio
import time
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from eco2.broker.rabbitmq import probe
from eco2.broker.rabbitmq.link import Link, Session
from eco2.broker.rabbitmq.probe import PROBE_INTERVAL, Probe
from eco2.testing.clock import virtual
from tests.conformance.harness import eventually

TIMEOUT = 5.0


class Channel:
    """A channel that opens at once, as its own connection and channel."""

    def __init__(self) -> None:
        self.is_closed = False
        self.close_callbacks: set[Any] = set()

    def channel(self, publisher_confirms: bool) -> "Channel":
        return self

    async def initialize(self) -> None:
        pass


class Scene:
    """A link as a probe sees it, and a broker that answers while `answering` is set."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.name = "eco2 test"
        self.blocked = False
        self.dropped: list[float] = []
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.probe = Probe(cast(Link, self), self.question, timeout)

    def add_optional(self, session: Session) -> None:
        self.attended = session

    def wake(self, *_: object) -> None:
        raise AssertionError("nothing closes here")

    def drop(self) -> None:
        self.dropped.append(asyncio.get_running_loop().time())
        self.probe.detach()

    async def question(self, channel: AbstractChannel) -> None:
        self.asked += 1
        await self.answering.wait()

    async def begin(self) -> asyncio.Task[None]:
        assert self.attended is self.probe
        await self.probe.attach(cast(AbstractConnection, Channel()))
        return asyncio.create_task(self.probe.run())


@virtual
async def test_it_asks_every_second_and_leaves_a_connection_that_answers() -> None:
    scene = Scene()
    task = await scene.begin()
    await asyncio.sleep(3600)
    assert scene.dropped == []
    assert 3590 <= scene.asked <= 3600
    task.cancel()


@virtual
async def test_a_silent_connection_is_given_up_in_time_and_only_once() -> None:
    scene = Scene()
    task = await scene.begin()
    await asyncio.sleep(100.5)
    scene.answering.clear()
    silent = asyncio.get_running_loop().time()
    await asyncio.sleep(60)
    (dropped,) = scene.dropped
    assert TIMEOUT <= dropped - silent <= PROBE_INTERVAL + TIMEOUT
    asked = scene.asked
    await asyncio.sleep(60)
    assert scene.asked == asked  # there is nothing to ask until it is attached again
    await scene.probe.attach(cast(AbstractConnection, Channel()))
    scene.answering.set()
    await asyncio.sleep(60)
    assert scene.asked > asked + 50
    assert len(scene.dropped) == 1
    task.cancel()


@virtual
async def test_an_alarm_is_no_reason_however_long_it_takes() -> None:
    scene = Scene()
    task = await scene.begin()
    await asyncio.sleep(10.5)
    scene.answering.clear()
    await asyncio.sleep(PROBE_INTERVAL)  # a question is on its way
    scene.blocked = True
    await asyncio.sleep(3600)
    assert scene.dropped == []
    scene.answering.set()
    scene.blocked = False
    asked = scene.asked
    await asyncio.sleep(60)
    assert scene.dropped == []
    assert scene.asked > asked + 50
    task.cancel()


@virtual
async def test_silence_after_an_alarm_is_noticed() -> None:
    scene = Scene()
    task = await scene.begin()
    await asyncio.sleep(10.5)
    scene.answering.clear()
    await asyncio.sleep(PROBE_INTERVAL)
    scene.blocked = True
    await asyncio.sleep(3600)
    scene.blocked = False
    await asyncio.sleep(TIMEOUT)
    assert len(scene.dropped) == 1
    task.cancel()


async def test_a_process_that_slept_itself_reads_the_answer_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_INTERVAL", 0.02)
    scene = Scene(timeout=0.1)
    task = await scene.begin()
    scene.answering.clear()
    await eventually(lambda: scene.asked == 1)
    asyncio.get_running_loop().call_later(0.05, scene.answering.set)
    time.sleep(0.2)  # noqa: ASYNC251  # the loop stands still
    await eventually(lambda: scene.asked > 5)
    assert scene.dropped == []
    task.cancel()


@virtual
async def test_a_blocked_connection_is_not_asked() -> None:
    scene = Scene()
    scene.blocked = True
    task = await scene.begin()
    await asyncio.sleep(60)
    assert scene.asked == 0
    task.cancel()
