"""A fleet that shares a budget by the journal, in virtual time: leaders that die, freeze or are cut off."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from eco2.broker.embedded import CALM, Chaos
from eco2.event import CallCounted, CallReleased, CallRequested, CallsGranted, LimitsNamed
from eco2.pacer import Limits
from eco2.quota.member import Member
from eco2.testing.clock import virtual
from tests.support.provider_windows import fullest
from tests.support.quotas import InMemory, Sharer, fleet, granted, monotonic, request
from tests.support.world import until

LIMITS = Limits(requests=60.0)
"""A call a second."""
PLENTY = Limits(requests=6000.0)
MINUTE = 61.0
"""Seconds after which a minute's budget is free again."""
START = 6.0
"""Seconds for the first call of all: a leader is found, and the minute before is taken for spent."""
TAKEOVER = 2.5
"""Seconds from the end of a leader to the next grant of a call that is due."""


def begin(world: InMemory, sharer: Sharer, offsets: range) -> list[asyncio.Task[None]]:
    """Begins calls of these jobs."""
    loop = asyncio.get_running_loop()
    return [loop.create_task(world.call(sharer, request(offset))) for offset in offsets]


async def calm(world: InMemory) -> None:
    """Makes the first process the leader; the window is empty then."""
    await world.call(world.members[0], request(0))
    assert world.members[0].leading
    await asyncio.sleep(MINUTE)
    world.arrived.clear()
    world.names.clear()


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@virtual
async def test_the_first_call_waits_for_what_nobody_knows_and_the_next_for_nothing() -> None:
    async with fleet(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await world.call(one, request())
        assert 2 < monotonic() < START
        await asyncio.sleep(5)
        began = monotonic()
        await world.call(other, request())
        assert monotonic() - began < 0.01
        assert [member.leading for member in world.members] == [True, False]


@virtual
async def test_all_processes_share_one_budget_oldest_first() -> None:
    async with fleet(LIMITS) as world:
        members = [await world.join() for _ in range(3)]
        await calm(world)
        await asyncio.gather(
            *(world.call(members[offset % 3], request(offset)) for offset in reversed(range(30)))
        )
        at_once = world.names[:3]
        assert world.names[3:] == [f"job {n}" for n in range(30) if f"job {n}" not in at_once]
        assert world.arrived[-1][0] - world.arrived[0][0] == pytest.approx(28, abs=1.1)


@virtual
async def test_a_leader_that_dies_is_replaced_without_a_pause_and_no_minute_is_overrun() -> None:
    async with fleet(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        calls = begin(world, second, range(150))
        await until(lambda: len(world.arrived) == 80)
        await first.die()
        died = monotonic()
        await until(lambda: len(world.arrived) == 81)
        assert monotonic() - died < TAKEOVER
        await asyncio.gather(*calls)
        assert second.leading
        assert fullest(world.arrived) <= 60


@virtual
async def test_a_leader_that_leaves_in_order_leaves_what_waits_to_the_next() -> None:
    async with fleet(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        calls = begin(world, second, range(10))
        await until(lambda: len(world.arrived) == 5)
        await first.leave()
        left = monotonic()
        await asyncio.gather(*calls)
        assert world.arrived[5][0] - left < TAKEOVER
        assert world.arrived[-1][0] - left < 10


@virtual
async def test_a_process_that_starts_later_knows_what_was_granted_before() -> None:
    async with fleet(LIMITS) as world:
        first = await world.join()
        await calm(world)
        calls = begin(world, first, range(50))
        await asyncio.gather(*calls)
        await first.die()
        second = await world.join()
        joined = monotonic()
        await asyncio.gather(*begin(world, second, range(50, 90)))
        assert world.arrived[50][0] - joined < 4  # all of them count as late as they can have been
        assert fullest(world.arrived) <= 60


@pytest.mark.parametrize("writes_first", [True, False])
@virtual
async def test_a_frozen_leader_that_wakes_with_grants_in_its_outbox_grants_nothing(
    writes_first: bool,
) -> None:
    async with fleet(Limits(requests=300.0)) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        calls = begin(world, second, range(400))
        await until(lambda: len(world.arrived) == 100)
        first.line.disturb(mute=True)
        await asyncio.sleep(1.0)  # it decides, and nothing leaves
        first.line.disturb(deaf=True)
        await until(lambda: second.leading)
        await asyncio.sleep(28)
        before, void = grants(world), first.member.budget.epoch
        for thaw in (first.line.speak, first.line.hear)[:: 1 if writes_first else -1]:
            thaw()
            await asyncio.sleep(0)
        await until(lambda: not first.leading)
        await asyncio.sleep(0.01)
        assert void in [record.epoch for record in grants(world)[len(before) :]]  # it has come, and is void
        await asyncio.gather(*calls)
        assert second.leading
        assert fullest(world.arrived) <= 300
        assert len(world.names) == 400


def grants(world: InMemory) -> list[CallsGranted]:
    return [event for message in world.records() for event in message if isinstance(event, CallsGranted)]


Part = Callable[[Sharer], None]
PARTITIONS: dict[str, tuple[Part, Part]] = {
    "cut off": (lambda leader: leader.line.cut_off(), lambda leader: leader.line.rejoin()),
    "deaf": (lambda leader: leader.line.disturb(deaf=True), lambda leader: leader.line.hear()),
    "mute": (lambda leader: leader.line.disturb(mute=True), lambda leader: leader.line.speak()),
}


@pytest.mark.parametrize("way", PARTITIONS)
def test_a_leader_that_is_partitioned_while_it_grants_is_replaced_and_no_minute_is_overrun(way: str) -> None:
    part, heal = PARTITIONS[way]

    async def scenario() -> None:
        async with fleet(LIMITS) as world:
            first, second = await world.join(), await world.join()
            await calm(world)
            calls = begin(world, first, range(0, 140, 2)) + begin(world, second, range(1, 140, 2))
            await until(lambda: len(world.arrived) == 40)
            part(first)
            parted = monotonic()
            await until(lambda: second.leading)
            assert monotonic() - parted < TAKEOVER + 2.5  # one that hears nothing grants for as long as that
            await asyncio.sleep(30)
            assert len(world.arrived) > 60
            heal(first)
            await until(lambda: not first.leading)
            second.cut()  # and the first one may lead again
            await asyncio.gather(*calls)
            assert fullest(world.arrived) <= 60

    virtual(scenario)()


@virtual
async def test_a_leader_that_returns_after_another_has_led_knows_what_that_one_granted() -> None:
    async with fleet(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        calls = begin(world, first, range(0, 120, 2)) + begin(world, second, range(1, 120, 2))
        await until(lambda: len(world.arrived) == 30)
        first.line.cut_off()
        await until(lambda: second.leading and len(world.arrived) == 55)
        first.line.rejoin()
        await until(lambda: not first.leading)
        second.line.cut_off()
        await until(lambda: first.leading)
        await asyncio.sleep(20)
        second.line.rejoin()
        await asyncio.gather(*calls)
        assert fullest(world.arrived) <= 60


@virtual
async def test_the_budgets_of_two_providers_are_shared_side_by_side() -> None:
    async with fleet(LIMITS) as world:
        one = await world.join()
        await calm(world)
        await asyncio.gather(*begin(world, one, range(20)))
        live = one.broker
        gemini = Member("gemini", one.journal, live, LIMITS, lambda job, run: True, clock=monotonic)
        one.journal.view.join(gemini)
        stop, began = asyncio.Event(), monotonic()
        running = asyncio.create_task(gemini.run(stop))
        async with granted(gemini, request()) as grant:
            grant.confirm()
        assert monotonic() - began < START
        began = monotonic()
        await world.call(one, request())
        assert monotonic() - began < 1.1
        stop.set()
        await running


@virtual
async def test_calls_that_are_cancelled_while_they_wait_leave_nothing() -> None:
    async with fleet(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await calm(world)
        for offset in (1, 2):
            await world.call(other, request(offset))
        gone = begin(world, other, range(3, 60))
        await until(lambda: len(one.member.budget.waiting) == 57)
        await cancel(gone)
        began = monotonic()
        await world.call(other, request(99))
        assert monotonic() - began < 1.1
        assert world.names == ["job 1", "job 2", "job 99"]
        await asyncio.sleep(0.1)
        for member in (one.member, other.member):
            assert not member.budget.waiting
            assert not member._waiting


@virtual
async def test_a_grant_that_is_read_too_late_is_not_used_and_another_is_asked_for() -> None:
    async with fleet(LIMITS) as world:
        _, slow = await world.join(), await world.join()
        await calm(world)
        call = asyncio.create_task(world.call(slow, request()))
        await asyncio.sleep(0)
        slow.line.disturb(deaf=True)
        await asyncio.sleep(0.3)
        slow.line.hear()
        heard = monotonic()
        await call
        assert monotonic() - heard < 0.5
        records = [event for message in world.records() for event in message]
        asked = [event.id for event in records if isinstance(event, CallRequested)]
        assert len(asked) == len(set(asked)) == 3  # one for `calm`
        assert [event.id for event in records if isinstance(event, CallReleased)][-1:] == asked[1:2]
        await world.call(slow, request())  # two at once: the late one costs nothing
        assert monotonic() - heard < 1.5


@virtual
async def test_more_calls_at_once_than_a_slow_way_brings_one_by_one_are_granted_soon() -> None:
    """Each message takes 50 ms, so 300 messages would take 15 s, and each grant would be too old."""
    async with fleet(Limits(requests=60_000.0)) as world:
        _, busy = await world.join(), await world.join()
        await calm(world)
        for member in world.members:
            member.line.delay = 0.05
        began = monotonic()
        await asyncio.gather(*begin(world, busy, range(300)))
        assert monotonic() - began < 3
        asked = [
            event for message in world.records() for event in message if isinstance(event, CallRequested)
        ]
        assert len(asked) < 1.5 * 300


@virtual
async def test_a_429_slows_every_process_down_and_the_next_leader_too() -> None:
    async with fleet(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await calm(world)
        async with granted(one.quota, request()) as grant:
            grant.confirm()
            grant.throttled(5.0)
        await asyncio.sleep(0.01)
        reported = monotonic()
        await one.die()
        await world.call(other, request())
        assert 4.9 < monotonic() - reported < 5.1
        assert other.leading


@virtual
async def test_a_process_that_starts_does_not_take_an_old_429_for_a_new_one() -> None:
    async with fleet(LIMITS) as world:
        first = await world.join()
        await calm(world)
        async with granted(first.quota, request()) as grant:
            grant.confirm()
            grant.throttled(30.0)
        for offset in range(30):
            await world.call(first, request(offset))
            await asyncio.sleep(10)
        await first.die()
        second = await world.join()
        began = monotonic()
        await world.call(second, request())
        assert monotonic() - began < 4
        assert second.member.budget.factor(monotonic()) == 1.0


@virtual
async def test_the_lowest_limit_of_all_processes_holds_while_its_process_runs() -> None:
    async with fleet(LIMITS) as world:
        one, low = await world.join(), await world.join(Limits(requests=12.0))
        await calm(world)
        calls = begin(world, one, range(250)) + begin(world, low, range(1000, 1010))
        await asyncio.sleep(180)
        in_force = len(world.arrived)
        assert 34 <= in_force <= 38
        await low.die()
        await asyncio.sleep(2 * MINUTE)
        world.arrived.clear()
        await asyncio.sleep(60)
        assert len(world.arrived) >= 58
        await cancel(calls)


@virtual
async def test_a_limit_holds_after_its_process_had_nothing_to_ask_for() -> None:
    async with fleet(LIMITS) as world:
        one, low = await world.join(), await world.join(Limits(requests=12.0))
        await calm(world)
        await asyncio.gather(*begin(world, one, range(100)))  # `low` is idle
        world.arrived.clear()
        calls = begin(world, one, range(1000, 1200)) + begin(world, low, range(2000, 2010))
        await asyncio.sleep(2 * MINUTE)
        world.arrived.clear()
        await asyncio.sleep(2 * MINUTE)
        assert len(world.arrived) <= 25
        await cancel(calls)


@virtual
async def test_a_limit_is_known_to_a_process_that_starts_long_after_it_was_given() -> None:
    async with fleet(LIMITS) as world:
        low = await world.join(Limits(requests=12.0))
        busy = begin(world, low, range(1000, 1500))
        await asyncio.sleep(2000)  # longer than the views go back
        late = await world.join()
        busy += begin(world, late, range(100))
        low.line.cut_off()
        await until(lambda: late.leading)
        low.line.rejoin()
        await asyncio.sleep(2 * MINUTE)
        world.arrived.clear()
        await asyncio.sleep(2 * MINUTE)
        assert 20 <= len(world.arrived) <= 25
        await cancel(busy)


@virtual
async def test_limits_that_the_provider_stops_naming_are_forgotten() -> None:
    async with fleet(Limits(requests=600.0)) as world:
        one = await world.join()
        one.member.update_limits(Limits(requests=6.0))
        await world.call(one, request())
        await asyncio.sleep(300)
        await world.call(one, request())
        began = monotonic()
        for _ in range(10):
            await world.call(one, request())
        assert monotonic() - began < 10


@virtual
async def test_a_low_limit_that_was_named_once_stops_no_large_call_for_good() -> None:
    async with fleet(Limits(tokens=6000.0)) as world:
        one = await world.join()
        one.member.update_limits(Limits(tokens=100.0))  # by error
        await world.call(one, request(tokens=10.0))
        await asyncio.sleep(3 * MINUTE)
        began = monotonic()
        async with asyncio.timeout(120):
            await world.call(one, request(tokens=3000.0))
        assert monotonic() - began < 5


@virtual
async def test_a_process_that_died_while_it_waited_costs_little() -> None:
    async with fleet(LIMITS) as world:
        leader, dead, alive = [await world.join() for _ in range(3)]
        await calm(world)
        for _ in range(2):
            await world.call(alive, request())
        ghosts = begin(world, dead, range(50))
        await asyncio.sleep(0.1)
        await dead.die()
        began = monotonic()
        await world.call(alive, request(99))
        assert monotonic() - began < 5
        assert len(leader.member.budget.waiting) > 40
        await asyncio.sleep(16)
        assert not leader.member.budget.waiting
        await cancel(ghosts)


@virtual
async def test_a_small_call_does_not_pass_a_large_one_that_comes_first() -> None:
    async with fleet(Limits(tokens=6000.0)) as world:
        one, other = await world.join(), await world.join()
        await calm(world)
        await world.call(one, request(1, tokens=150.0))
        began = monotonic()
        large = asyncio.create_task(world.call(one, request(2, tokens=1000.0)))
        await asyncio.sleep(0)
        await asyncio.gather(
            large, *(world.call(other, request(offset, tokens=10.0)) for offset in range(3, 10))
        )
        assert world.names[1] == "job 2"
        assert monotonic() - began > 5


@virtual
async def test_a_call_costs_a_handful_of_records_and_few_messages() -> None:
    async with fleet(Limits(requests=500.0)) as world:
        members = [await world.join() for _ in range(4)]

        async def worker(number: int) -> None:
            for turn in range(12):
                async with granted(members[number % 4].quota, request(turn * 100 + number)) as grant:
                    grant.confirm()
                    world.arrived.append((monotonic(), 1.0))
                    await asyncio.sleep(3)
                    grant.settle(1.0)

        await asyncio.gather(*(worker(number) for number in range(80)))
        messages = world.records()
        kinds = [type(event) for message in messages for event in message]
        print(f"{len(messages) / len(world.arrived):.2f} messages a call")
        for once in (CallRequested, CallCounted):
            assert kinds.count(once) == len(world.arrived)
        assert kinds.count(CallsGranted) <= len(world.arrived)
        assert kinds.count(LimitsNamed) < 0.1 * len(world.arrived)
        assert len(messages) / len(world.arrived) < 3.2


@virtual
async def test_requests_and_grants_that_come_twice_count_once() -> None:
    chaos = replace(CALM, seed=1, lost_confirm=0.5, delay=0.05)
    async with fleet(PLENTY, chaos) as world:
        _, other = await world.join(), await world.join()
        await calm(world)
        await asyncio.gather(*begin(world, other, range(100)))
        await asyncio.sleep(2)
        assert sorted(world.names) == sorted(f"job {n}" for n in range(100))
        leader = world.leading()
        assert leader is not None
        status = leader.member.status()
        assert status is not None
        assert status.used.requests == 100


@virtual
async def test_grants_that_are_lost_on_their_way_are_made_again_and_cost_nothing() -> None:
    chaos = replace(CALM, seed=1, lost_publish=0.3, delay=0.05)
    async with fleet(PLENTY, chaos) as world:
        _, other = await world.join(), await world.join()
        await calm(world)
        began = monotonic()
        await asyncio.gather(*begin(world, other, range(100)))
        assert monotonic() - began < 10
        await asyncio.sleep(2)
        leader = world.leading()
        assert leader is not None
        status = leader.member.status()
        assert status is not None
        assert status.used.requests == 100


UNKIND = {
    "live messages and connections": replace(CALM, lost_live=0.2, cut=0.001, delay=0.15),
    "confirms": replace(CALM, lost_confirm=0.1, ghost=0.1, lost_publish=0.05, late_confirm=0.1, delay=0.1),
    "tails": replace(CALM, lag=0.3, gap=0.2, silent=0.0005, delay=0.15),
    "everything": Chaos(seed=0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chaos", UNKIND)
def test_on_an_unkind_broker_all_are_served_and_no_minute_is_overrun(chaos: str, seed: int) -> None:
    async def scenario() -> None:
        async with fleet(Limits(requests=300.0), replace(UNKIND[chaos], seed=seed)) as world:
            members = [await world.join() for _ in range(3)]

            async def offer(number: int) -> None:
                for turn in range(40):
                    await world.call(members[number % 3], request(turn * 12 + number))

            calls = [asyncio.create_task(offer(number)) for number in range(12)]
            while not all(call.done() for call in calls):
                await asyncio.sleep(7)
                if (leader := world.leading()) is not None:
                    leader.cut()
            await asyncio.gather(*calls)
            assert len(set(world.names)) == len(world.names) == 480
            assert fullest(world.arrived) <= 300

    virtual(scenario)()


@pytest.mark.parametrize("seed", range(2))
def test_all_processes_restart_right_after_a_large_call_and_no_minute_is_overrun(seed: int) -> None:
    """A new leader that took the minute before for evenly spent would not expect a call of 18 seconds' worth;
    it reads of it in the journal."""
    dice = random.Random(seed)

    async def offer(world: InMemory) -> None:
        for offset in itertools.count():
            size = 1800.0 if dice.random() < 0.04 else dice.uniform(5, 190)
            await world.call(world.members[-1], request(offset, tokens=size))

    async def scenario() -> None:
        async with fleet(Limits(tokens=6000.0)) as world:
            for _ in range(2):
                await world.join()
            for _ in range(5):
                offering = [asyncio.create_task(offer(world)) for _ in range(6)]
                large = [call for call in world.arrived if call[1] > 1000]
                await until(lambda: len([call for call in world.arrived if call[1] > 1000]) > len(large))  # noqa: B023
                await cancel(offering)
                for member in world.members[-2:]:
                    await member.die()
                for _ in range(2):
                    await world.join()
            assert fullest(world.arrived) <= 6000.0

    virtual(scenario)()
