"""The quota over each broker: grants come at once, and survive leaders and connections that go."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from eco2.errors import GrantExpired
from eco2.pacer import Limits
from eco2.ports import Broker
from eco2.quota.asker import Asker
from eco2.quota.leader import Leader
from tests.conformance.harness import PATIENCE, Brokers, eventually
from tests.support.quotas import FakeLargestCallStore, granted, request

LIMITS = Limits(requests=6000.0)


@dataclass
class Member:
    """A process that may lead and that asks."""

    broker: Broker
    leader: Leader
    asker: Asker

    async def call(self, offset: int, patience: float = PATIENCE) -> float:
        """Makes call `offset`. Returns the seconds until it might go out."""
        began = time.perf_counter()
        async with asyncio.timeout(patience):
            while True:
                async with granted(self.asker, request(offset)) as grant:
                    with suppress(GrantExpired):  # this process was not served for so long
                        grant.confirm()
                        return time.perf_counter() - began


@asynccontextmanager
async def member(brokers: Brokers, name: str, stop: asyncio.Event) -> AsyncIterator[Member]:
    """It leaves when `stop` is set, at the latest at the end of the block."""
    broker = await brokers.start()
    leader = Leader(broker, broker, "quota", LIMITS, lambda job, run: True, FakeLargestCallStore())
    joined = Member(broker, leader, Asker(broker, "quota", name, LIMITS, leader.near))
    async with asyncio.TaskGroup() as group:
        group.create_task(joined.leader.run(stop))
        group.create_task(joined.asker.run(stop))
        await eventually(lambda: broker.ready)
        try:
            yield joined
        finally:
            stop.set()


async def test_a_grant_comes_at_once_where_nobody_contends(brokers: Brokers) -> None:
    stop = asyncio.Event()
    async with member(brokers, "one", stop) as one, member(brokers, "other", stop) as other:
        await other.call(0)
        assert (one.leader.leading, other.leader.leading) == (True, False)
        own = [await one.call(number) for number in range(100)]
        remote = [await other.call(number) for number in range(100)]
    for name, seconds in (("the leader's own", own), ("another's", remote)):
        print(f"{name} grant: p50 {statistics.median(seconds) * 1000:.2f} ms")
        assert statistics.median(seconds) < 0.1


async def test_calls_side_by_side_are_all_granted(brokers: Brokers) -> None:
    stop = asyncio.Event()
    async with member(brokers, "one", stop), member(brokers, "other", stop) as other:
        # More than one process is ever handed at once. On a busy machine that is slower than grants expire.
        waits = await asyncio.gather(*(other.call(number, 3 * PATIENCE) for number in range(300)))
    assert len(waits) == 300


async def test_when_the_leader_leaves_another_grants(brokers: Brokers) -> None:
    leaving, stop = asyncio.Event(), asyncio.Event()
    async with member(brokers, "one", leaving) as one, member(brokers, "other", stop) as other:
        await other.call(0)
        assert one.leader.leading
        leaving.set()
        await eventually(lambda: not one.leader.leading)
        await other.call(1)
        assert other.leader.leading


async def test_when_all_connections_go_calls_are_granted_again(brokers: Brokers) -> None:
    stop = asyncio.Event()
    async with member(brokers, "one", stop) as one, member(brokers, "other", stop) as other:
        await other.call(0)
        first = next(member for member in (one, other) if member.leader.leading)
        waiting = [asyncio.create_task(other.call(number)) for number in range(300)]
        await brokers.disrupt()
        await asyncio.gather(*waiting)
        await first.call(1)
        assert one.leader.leading != other.leader.leading
