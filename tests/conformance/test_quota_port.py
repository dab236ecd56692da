"""The promises of `ports.Quota`: every implementation keeps them, whatever it is made of."""

import asyncio
import statistics
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from eco2.errors import CallTooLarge, GrantExpired, StaleRun
from eco2.pacer import Limits
from eco2.ports import GrantRequest, Quota
from tests.conformance.quotas import EVERY, TIMELESS, Installation, Process, conforms
from tests.support.provider_windows import Arrival, fullest
from tests.support.quotas import granted, monotonic, request
from tests.support.world import until

A_SECOND = Limits(requests=60.0)
"""One call a second."""
SLOW = Limits(requests=30.0)
PLENTY = Limits(requests=6000.0)
TOKENS = Limits(tokens=6000.0)
"""100 a second."""
PROMPT = 0.5
"""Seconds in which a grant comes that need not wait for the budget, on a busy machine."""


class Provider:
    """Where the calls arrive. `arrived`: when, and with which cost; `jobs`: theirs, in the same order."""

    def __init__(self) -> None:
        self.arrived: list[Arrival] = []
        self.jobs: list[str] = []

    async def call(self, quota: Quota, wanted: GrantRequest) -> float:
        """Makes one call as a worker does. Returns the seconds that it waited."""
        began = monotonic()
        while True:
            async with granted(quota, wanted) as grant:
                try:
                    grant.confirm()
                except GrantExpired:
                    continue
                self.arrived.append((monotonic(), 1.0))
                self.jobs.append(wanted.job)
                return monotonic() - began

    async def exhaust(self, quota: Quota) -> None:
        """Uses all that is granted at once: the next request waits."""
        for _ in range(1000):  # more than it can be
            if await self.call(quota, request(0)) >= PROMPT:
                break
        else:
            raise AssertionError("the budget has no end")
        self.arrived.clear()
        self.jobs.clear()


async def join(installation: Installation, number: int) -> list[Process]:
    """Processes that know the budget: the first of them must assume that others have just spent it."""
    processes = [await installation.join() for _ in range(number)]
    async with granted(processes[0].quota, request(0)) as grant:
        grant.confirm()
    return processes


@conforms(PLENTY, EVERY)
async def test_within_the_limits_a_grant_comes_at_once_and_can_be_used(installation: Installation) -> None:
    for process in await join(installation, 2):
        waits = [await Provider().call(process.quota, request(number)) for number in range(30)]
        print(f"grant: p50 {statistics.median(waits) * 1000:.2f} ms")
        assert statistics.median(waits) < PROMPT
        async with granted(process.quota, request()) as grant:
            assert grant.expires_at > monotonic()


@conforms(A_SECOND, TIMELESS)
async def test_over_the_limit_requests_of_all_processes_wait_in_order_of_rank(
    installation: Installation,
) -> None:
    processes = await join(installation, 2)
    provider = Provider()
    async with granted(processes[0].quota, request(0)) as grant:
        grant.confirm()
        grant.throttled(10.0)  # so that all of them come before the first is granted
    ranked = [request(9, started=True), *(request(offset) for offset in range(1, 6))]
    ranked.append(replace(request(0, started=True), priority="batch"))
    await asyncio.sleep(PROMPT)
    async with asyncio.TaskGroup() as group:
        for number, wanted in enumerate(reversed(ranked)):
            group.create_task(provider.call(processes[number % 2].quota, wanted))
    assert provider.jobs == [wanted.job for wanted in ranked]


@conforms(A_SECOND)
async def test_requests_that_are_cancelled_while_they_wait_leave_nothing(installation: Installation) -> None:
    one, other = await join(installation, 2)
    provider = Provider()
    await provider.exhaust(one.quota)
    gone = [asyncio.create_task(provider.call(one.quota, request(0))) for _ in range(20)]
    await asyncio.sleep(0.3)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    assert await provider.call(other.quota, request(9)) < 5  # behind them it would be 20
    assert len(provider.jobs) <= 2  # one of them may have had its turn


@conforms(A_SECOND)
async def test_cancelled_at_any_step_a_request_holds_nothing(installation: Installation) -> None:
    (process,) = await join(installation, 1)
    provider = Provider()
    for steps in range(40):
        acquiring = asyncio.create_task(process.quota.acquire(request(1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        acquiring.cancel()
        await asyncio.wait([acquiring])
        if not acquiring.cancelled():
            acquiring.result().release()
    began = monotonic()
    for _ in range(3):
        await provider.call(process.quota, request(2))
    assert monotonic() - began < 10  # each of the 40 would have cost a second


@conforms(A_SECOND)
async def test_an_expired_grant_raises_and_another_can_be_acquired_at_once(
    installation: Installation,
) -> None:
    _, process = await join(installation, 2)
    began = monotonic()
    for _ in range(8):
        async with granted(process.quota, request()) as grant:
            await asyncio.sleep(grant.expires_at - monotonic() + 0.001)
            with pytest.raises(GrantExpired):
                grant.confirm()
    await Provider().call(process.quota, request())
    assert monotonic() - began < 6  # unreturned, the eight alone would take six seconds, and expiring two


@conforms(SLOW)
async def test_a_released_grant_returns_its_budget_at_once(installation: Installation) -> None:
    _, process = await join(installation, 2)
    began = monotonic()
    for _ in range(15):
        grant = await process.quota.acquire(request())
        grant.release()
        grant.release()
        grant.settle(5.0)  # too late to count
    assert monotonic() - began < 10  # 30 if they counted


@conforms(PLENTY, EVERY)
async def test_whatever_is_reported_of_a_grant_and_however_often_raises_nothing(
    installation: Installation,
) -> None:
    (process,) = await join(installation, 1)
    for confirmed in (False, True):
        grant = await process.quota.acquire(request())
        if confirmed:
            grant.confirm()
        for _ in range(2):
            grant.release()
            grant.settle(1.0)
            grant.throttled(None)
    assert await Provider().call(process.quota, request()) < 5


@conforms(A_SECOND)
async def test_a_call_that_was_sent_counts_although_its_grant_is_released(installation: Installation) -> None:
    (process,) = await join(installation, 1)
    provider = Provider()
    await provider.exhaust(process.quota)
    began = monotonic()
    for _ in range(4):
        await provider.call(process.quota, request())
    assert monotonic() - began > 2.5


@conforms(TOKENS, counting="input")
async def test_tokens_that_were_not_counted_go_back(installation: Installation) -> None:
    _, process = await join(installation, 2)
    began = monotonic()
    for _ in range(12):
        async with granted(process.quota, request(tokens=150.0)) as grant:
            grant.confirm()
            grant.settle(1.0)
    assert monotonic() - began < 10  # 18 as they were reserved


@conforms(TOKENS, counting="input")
async def test_tokens_that_were_counted_beyond_the_estimate_count(installation: Installation) -> None:
    one, other = await join(installation, 2)
    async with granted(one.quota, request(tokens=10.0)) as grant:
        grant.confirm()
        grant.settle(800.0)
    await asyncio.sleep(PROMPT)  # the report
    assert await Provider().call(other.quota, request(tokens=10.0)) > 3


@conforms(PLENTY)
async def test_a_429_stops_every_process_for_as_long_as_the_provider_asks(installation: Installation) -> None:
    processes = await join(installation, 2)
    async with granted(processes[1].quota, request()) as grant:
        grant.confirm()
        grant.throttled(4.0)
    reported = monotonic()
    await asyncio.sleep(PROMPT)
    await asyncio.gather(*(Provider().call(process.quota, request()) for process in processes))
    assert monotonic() - reported > 3.5  # and longer where the minute before was full: less is granted then


@conforms(PLENTY)
async def test_the_limits_that_one_process_learns_hold_for_all(installation: Installation) -> None:
    one, other = await join(installation, 2)
    one.quota.update_limits(A_SECOND)
    provider = Provider()
    await provider.call(one.quota, request())
    await provider.exhaust(other.quota)
    began = monotonic()
    for _ in range(3):
        await provider.call(other.quota, request())
    assert monotonic() - began > 1.5


@conforms(Limits(requests=30.0, tokens=1000.0))
async def test_a_replaced_run_and_a_call_that_no_minute_holds_are_refused(installation: Installation) -> None:
    _, process = await join(installation, 2)
    with pytest.raises(CallTooLarge, match="1001 tokens"):
        await process.quota.acquire(request(tokens=1001.0))
    installation.void.add("old")
    with pytest.raises(StaleRun):
        await process.quota.acquire(request(run="old"))
    await Provider().exhaust(process.quota)
    waiting = asyncio.create_task(process.quota.acquire(request(run="waits")))
    await asyncio.sleep(0.3)
    installation.void.add("waits")
    with pytest.raises(StaleRun):
        await waiting
    assert await Provider().call(process.quota, request(run="current")) < 5


LOOK = 0.02
"""Seconds between two looks at how late this machine is."""
LATE = 0.2
"""Seconds after which a grant is too old. A machine that is less late uses it."""


class Load:
    """More calls than the budget allows, from every process that was added, until the block ends.

    `lost`: seconds in which no process could use its grants: all of them stood still on a busy machine.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.provider = Provider()
        self.of: dict[str, int] = {}
        self.lost = 0.0
        self._group = group
        self._offsets = count()
        self._callers: dict[str, list[asyncio.Task[None]]] = {}
        self._watching = group.create_task(self._watch())

    def add(self, name: str, process: Process) -> None:
        self.of[name] = 0
        calling = partial(self._call, name, process)
        self._callers[name] = [self._group.create_task(calling()) for _ in range(10)]

    def remove(self, name: str) -> None:
        """Its callers end with their process, in the midst of what they do."""
        for task in self._callers.pop(name):
            task.cancel()

    def stop(self) -> None:
        for name in tuple(self._callers):
            self.remove(name)
        self._watching.cancel()

    async def _call(self, name: str, process: Process) -> None:
        while True:
            await self.provider.call(process.quota, request(next(self._offsets)))
            self.of[name] += 1

    async def _watch(self) -> None:
        while True:
            began = monotonic()
            await asyncio.sleep(LOOK)
            if (late := monotonic() - began - LOOK) > LATE:
                self.lost += late

    def check(self, limit: float, seconds: float, least: float) -> None:
        """No window was overrun, and at `least` this share of the budget was used in the time that was not
        lost."""
        used = len(self.provider.arrived) / (limit * (seconds - self.lost) / 60)
        most = fullest(self.provider.arrived)
        print(f"used {used:.1%}, fullest minute {most:g} of {limit:g}, {self.lost:.1f} s lost; {self.of}")
        assert most <= limit
        assert used >= least


@conforms(A_SECOND)
async def test_two_processes_share_one_budget(installation: Installation) -> None:
    one, other = await join(installation, 2)
    seconds = installation.span / 2  # two that knew nothing of each other would be over by then
    async with asyncio.TaskGroup() as group:
        load = Load(group)
        load.add("one", one)
        load.add("other", other)
        await asyncio.sleep(seconds)
        await until(lambda: min(load.of.values()) > 0)
        load.stop()
    load.check(60.0, seconds, installation.least_used)


@conforms(A_SECOND)
async def test_when_the_leader_dies_the_others_go_on_and_exceed_nothing(installation: Installation) -> None:
    processes = {str(number): process for number, process in enumerate(await join(installation, 3))}
    async with asyncio.TaskGroup() as group:
        load = Load(group)
        for name, process in processes.items():
            load.add(name, process)
        await asyncio.sleep(20)
        await until(lambda: installation.leading() is not None)
        leader = installation.leading()
        name = next(name for name, process in processes.items() if process is leader)
        load.remove(name)
        await processes.pop(name).die()
        before, died = len(load.provider.arrived), monotonic()
        await until(lambda: len(load.provider.arrived) > before)
        pause = monotonic() - died
        load.lost += pause
        await asyncio.sleep(installation.span - 20 - pause)
        load.stop()
    print(f"the next call went out {pause:.2f} s after the death")
    assert pause < 10
    load.check(60.0, installation.span, installation.least_used)


@conforms(PLENTY)
async def test_calls_side_by_side_are_all_granted(installation: Installation) -> None:
    _, process = await join(installation, 2)
    provider = Provider()
    began = monotonic()
    await asyncio.gather(*(provider.call(process.quota, request(number)) for number in range(300)))
    print(f"300 calls side by side: {monotonic() - began:.2f} s")
    assert len(provider.arrived) == 300


@conforms(PLENTY)
async def test_when_the_leader_leaves_in_order_another_grants(installation: Installation) -> None:
    processes = await join(installation, 2)
    leader = installation.leading()
    assert leader is not None
    (other,) = (process for process in processes if process is not leader)
    await leader.leave()
    assert await Provider().call(other.quota, request()) < 20
    assert installation.leading() is other


@conforms(PLENTY)
async def test_when_all_connections_go_calls_are_granted_again(installation: Installation) -> None:
    processes = await join(installation, 2)
    provider = Provider()
    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(provider.call(processes[number % 2].quota, request(number)))
        await asyncio.sleep(0)
        for process in processes:
            process.cut()
    assert len(provider.arrived) == 300
    for process in processes:
        await provider.call(process.quota, request())
