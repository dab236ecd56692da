"""A fleet that shares a budget, in virtual time: leaders that die or freeze, lost replies."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from eco2.broker.embedded import CALM
from eco2.errors import CallTooLarge, GrantExpired, StaleRun
from eco2.pacer import BURST_SECONDS, SPAN, TRANSIT_GUARD, Limits
from eco2.ports import Express, Rpc, Subscription
from eco2.quota.asker import LIFE, Asker
from eco2.quota.leader import BUSY, ECHO, LEASE, QUIET
from eco2.quota.message import Ask, Granted, Refused, Tell, decode_reply, encode
from eco2.quota.office import TENURE
from eco2.quota.term import HOLD
from tests.support.provider_windows import fullest
from tests.support.quotas import FakeLargestCallStore, Quotas, granted, monotonic, quotas, request
from tests.support.virtual_clock import virtual
from tests.support.world import until

LIMITS = Limits(requests=60.4)
"""A call a second."""


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def calm(world: Quotas) -> None:
    """The first leader's window has emptied."""
    await world.call(world.members[0].asker, request(0))
    world.arrived.clear()
    world.names.clear()
    await asyncio.sleep(SPAN)


@virtual
async def test_the_first_call_waits_for_what_nobody_knows_and_the_next_for_nothing() -> None:
    async with quotas(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await world.call(one.asker, request())
        assert BURST_SECONDS < monotonic() < BURST_SECONDS + 2
        await asyncio.sleep(5)
        began = monotonic()
        await world.call(other.asker, request())
        assert monotonic() == began
        assert [member.leader.leading for member in world.members] == [True, False]


@virtual
async def test_all_replicas_share_one_budget_oldest_first() -> None:
    async with quotas(LIMITS) as world:
        members = [await world.join() for _ in range(3)]
        await calm(world)
        await asyncio.gather(
            *(world.call(members[offset % 3].asker, request(offset)) for offset in reversed(range(30)))
        )
        assert world.names[2:] == [f"job {n}" for n in range(30) if f"job {n}" not in world.names[:2]]
        spent = world.arrived[-1][0] - world.arrived[0][0]
        assert spent == pytest.approx(28, abs=0.2)


@virtual
async def test_a_job_that_has_begun_goes_before_older_ones_that_have_not() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        await world.call(member.asker, request(1))
        await world.call(member.asker, request(1))
        waiting = [loop().create_task(world.call(member.asker, request(offset))) for offset in (2, 3)]
        begun = loop().create_task(world.call(member.asker, request(9, started=True)))
        await asyncio.gather(begun, *waiting)
        assert world.names == ["job 1", "job 1", "job 9", "job 2", "job 3"]


@virtual
async def test_a_leader_that_dies_leaves_its_asks_to_the_next_and_nobody_is_over() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        calls = [loop().create_task(world.call(second.asker, request(offset))) for offset in range(80)]
        await until(lambda: len(world.arrived) == 40)
        died = monotonic()
        await first.die()
        await asyncio.gather(*calls)
        assert second.leader.leading
        assert fullest(world.arrived) <= 60.4
        pause = next(time for time, _ in world.arrived if time > died) - died
        assert pause < BURST_SECONDS + 2


@virtual
async def test_a_leader_that_leaves_in_order_hands_over_what_waits() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        calls = [loop().create_task(world.call(second.asker, request(offset))) for offset in range(10)]
        await until(lambda: len(world.arrived) == 3)
        await first.leave()
        left = monotonic()
        await asyncio.gather(*calls)
        assert world.arrived[3][0] - left < 2 * BURST_SECONDS + 2  # who has just come knows little


@virtual
async def test_a_frozen_leader_is_replaced_and_grants_nothing_when_it_wakes() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        calls = [loop().create_task(world.call(second.asker, request(offset))) for offset in range(120)]
        await until(lambda: len(world.arrived) == 30)
        first.rpc.freeze()
        await asyncio.sleep(2)
        first.disrupt()  # the heartbeat
        await until(lambda: second.leader.leading)
        await until(lambda: len(world.arrived) == 60)
        first.rpc.thaw()
        await asyncio.gather(*calls)
        assert not first.leader.leading
        assert fullest(world.arrived) <= 60.4


@virtual
async def test_a_leader_that_returns_after_another_has_led_knows_what_that_one_granted() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        calls = [loop().create_task(world.call(second.asker, request(offset))) for offset in range(120)]
        await until(lambda: len(world.arrived) == 3)
        first.disrupt()  # it is back at once, but last in line
        await until(lambda: second.leader.leading and len(world.arrived) == 60)
        second.disrupt()
        await asyncio.gather(*calls)
        assert first.leader.leading
        assert fullest(world.arrived) <= 60.4


@virtual
async def test_a_leader_that_has_listened_takes_over_without_a_pause_and_exceeds_nothing() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await asyncio.sleep(2 * SPAN)
        calls = [loop().create_task(world.call(second.asker, request(offset))) for offset in range(150)]
        await until(lambda: len(world.arrived) == 80)
        await first.die()
        died = monotonic()
        await until(lambda: len(world.arrived) == 81)
        assert monotonic() - died < 1.5  # the next one was due within a second
        await asyncio.gather(*calls)
        assert fullest(world.arrived) <= 60.4


@virtual
async def test_who_missed_a_note_takes_the_last_minute_for_spent() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await asyncio.sleep(2 * SPAN)
        broadcast = first.broker.broadcast
        first.broker.broadcast = lambda topic, body: None  # type: ignore[method-assign]
        await world.call(first.asker, request())
        first.broker.broadcast = broadcast  # type: ignore[method-assign]
        await world.call(first.asker, request())
        await first.die()
        died = monotonic()
        await world.call(second.asker, request())
        assert monotonic() - died > BURST_SECONDS - 0.5


@virtual
async def test_a_caller_that_is_cancelled_leaves_no_trace() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        for _ in range(2):
            await world.call(member.asker, request())
        gone = [loop().create_task(world.call(member.asker, request(0))) for _ in range(20)]
        await asyncio.sleep(0.1)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        began = monotonic()
        await world.call(member.asker, request(5))
        assert monotonic() - began < 1.1
        assert world.names == ["job 1", "job 1", "job 5"]


@virtual
async def test_a_grant_expires_and_goes_back() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        for _ in range(5):
            async with granted(member.asker, request()) as grant:
                await asyncio.sleep(LIFE)
                with pytest.raises(GrantExpired):
                    grant.confirm()
        began = monotonic()
        async with granted(member.asker, request()) as grant:
            await asyncio.sleep(LIFE * 0.9)
            grant.confirm()
        assert monotonic() - began < 1
        assert LIFE < TRANSIT_GUARD


@virtual
async def test_a_grant_whose_reply_is_late_is_not_used_and_goes_back() -> None:
    async with quotas(LIMITS) as world:
        _, slow = await world.join(), await world.join()
        await calm(world)
        slow.rpc.freeze()
        call = loop().create_task(world.call(slow.asker, request()))
        await asyncio.sleep(LIFE)
        slow.rpc.thaw()
        thawed = monotonic()
        await call
        assert slow.rpc.asked >= 2  # under another id
        await world.call(slow.asker, request())
        assert [time for time, _ in world.arrived] == [thawed, thawed]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.9):
                await world.call(slow.asker, request())


class Narrow:
    """An `Rpc` that brings one reply every 10 ms: the way of a process whose own asks are too many for it."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._way = asyncio.Lock()

    async def request(self, service: str, body: bytes, timeout: float, *, express: bool = False) -> bytes:
        async with self._way:
            await asyncio.sleep(0.01)
        return await self._rpc.request(service, body, timeout, express=express)

    def serve(
        self, service: str, handler: Callable[[bytes], Awaitable[bytes]], express: Express | None = None
    ) -> Subscription:
        raise AssertionError("it only asks")


@virtual
async def test_more_asks_at_once_than_the_way_brings_in_time_are_granted_soon() -> None:
    """All on their way at once, nearly every one of them would be late, again and again."""
    asks, limits = 300, Limits(requests=60_000.0)
    assert asks * 0.01 > 10 * LIFE
    async with quotas(limits) as world:
        leading, stop = await world.join(), asyncio.Event()
        await calm(world)
        asked, began = leading.rpc.asked, monotonic()
        busy = Asker(Narrow(leading.rpc), "quota", "busy", limits, clock=monotonic)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reporting = group.create_task(busy.run(stop))
            calls = [group.create_task(world.call(busy, request(offset))) for offset in range(asks)]
            await asyncio.wait(calls)
            stop.set()
            await reporting
        assert len(world.arrived) == asks
        assert monotonic() - began < 2 * asks * 0.01
        assert leading.rpc.asked - asked < 1.5 * asks


@virtual
async def test_a_term_ends_by_itself_and_the_next_begins() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        await asyncio.sleep(TENURE)
        began = monotonic()
        await world.call(member.asker, request())
        assert QUIET <= monotonic() - began < QUIET + 1


@virtual
async def test_a_message_of_another_version_is_refused() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        reply = decode_reply(await member.broker.request("quota", b'{"v":9,"body":{}}', 1.0))
        assert isinstance(reply, Refused)
        assert "give all processes one version" in reply.message


@virtual
async def test_an_error_before_the_send_gives_the_grant_back_once() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        async with granted(member.asker, request()) as grant:
            grant.release()
            grant.release()
            grant.settle(5)
        with pytest.raises(KeyError):
            async with granted(member.asker, request()):
                raise KeyError
        await asyncio.sleep(0)
        began = monotonic()
        for _ in range(2):
            await world.call(member.asker, request())
        assert monotonic() == began
        await world.call(member.asker, request())
        assert monotonic() - began > 0.9


@virtual
async def test_a_call_that_was_counted_is_not_given_back() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        async with granted(member.asker, request()) as grant:
            grant.confirm()
            grant.settle(5)
            grant.release()
        began = monotonic()
        for _ in range(2):
            await world.call(member.asker, request())
        assert monotonic() - began > 0.9


@virtual
async def test_a_void_run_is_refused_and_so_is_a_call_that_is_too_large() -> None:
    async with quotas(Limits(tokens=1000.0)) as world:
        member = await world.join()
        world.void.add("old")
        with pytest.raises(StaleRun, match="another run than old has job"):
            await world.call(member.asker, request(run="old"))
        with pytest.raises(CallTooLarge, match="1001 tokens"):
            await world.call(member.asker, request(tokens=1001.0))
        waiting = loop().create_task(world.call(member.asker, request(tokens=999.0, run="r")))
        await asyncio.sleep(1)
        world.void.add("r")
        with pytest.raises(StaleRun):
            await waiting
        assert world.arrived == []


@virtual
async def test_a_429_slows_everyone_down() -> None:
    async with quotas(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await calm(world)
        async with granted(one.asker, request()) as grant:
            grant.confirm()
            grant.throttled(5.0)
        await asyncio.sleep(0.01)
        began = monotonic()
        await world.call(other.asker, request())
        assert 4.9 < monotonic() - began < 5.1


@virtual
async def test_the_limits_of_the_provider_hold_for_all() -> None:
    async with quotas(LIMITS) as world:
        one, other = await world.join(), await world.join()
        await calm(world)
        one.asker.update_limits(Limits(requests=30.2))
        for _ in range(2):
            await world.call(one.asker, request())
        began = monotonic()
        for _ in range(5):
            await world.call(other.asker, request())
        assert monotonic() - began == pytest.approx(10, abs=1.1)


@virtual
async def test_a_worker_that_died_while_it_waited_costs_little() -> None:
    async with quotas(LIMITS) as world:
        _, dead, alive = [await world.join() for _ in range(3)]
        await calm(world)
        for _ in range(2):
            await world.call(alive.asker, request())
        ghosts = [loop().create_task(world.call(dead.asker, request(0))) for _ in range(50)]
        await asyncio.sleep(0.1)
        await dead.die()
        began = monotonic()
        await world.call(alive.asker, request(9))
        assert monotonic() - began < HOLD + 2
        for ghost in ghosts:
            ghost.cancel()
        await asyncio.wait(ghosts)


@pytest.mark.parametrize("seed", range(6))
def test_on_an_unkind_broker_all_are_served_and_nobody_is_over(seed: int) -> None:
    chaos = replace(CALM, seed=seed, lost_live=0.05, redeliver=0.01, cut=0.001, delay=0.1)

    async def scenario() -> None:
        async with quotas(Limits(requests=300.0), chaos) as world:
            members = [await world.join() for _ in range(3)]
            calls = [
                loop().create_task(world.call(members[offset % 3].asker, request(offset)))
                for offset in range(120)
            ]
            for _ in range(4):
                await asyncio.sleep(5)
                leaders = [member for member in members if member.leader.leading]
                for leader in leaders:
                    leader.disrupt()
            await asyncio.gather(*calls)
            assert len(set(world.names)) == 120
            assert fullest(world.arrived) <= 300

    virtual(scenario)()


@virtual
async def test_a_call_costs_a_handful_of_messages() -> None:
    async with quotas(Limits(requests=500.0)) as world:
        members = [await world.join() for _ in range(4)]

        async def worker(number: int) -> None:
            for turn in range(12):
                async with granted(members[number % 4].asker, request(turn * 100 + number)) as grant:
                    grant.confirm()
                    world.arrived.append((monotonic(), 1.0))
                    await asyncio.sleep(3)
                    grant.settle(1.0)

        await asyncio.gather(*(worker(number) for number in range(80)))
        asked = sum(member.rpc.asked for member in members) / len(world.arrived)
        print(f"{asked:.2f} requests a call, each with a reply")
        assert asked < 4


@virtual
async def test_of_asks_that_were_taken_back_the_leader_holds_no_request_either() -> None:
    async with quotas(LIMITS) as world:  # a broker hands one process so many requests at once, and no more
        member = await world.join()
        await calm(world)
        calls = [loop().create_task(world.call(member.asker, request(offset))) for offset in range(100)]
        await until(lambda: len(member.leader._waiting) > 20)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: not member.leader._waiting)
        assert member.leader.leading


MIXED = Limits(tokens=6040.0)
"""A hundred tokens a second: two hundred go out at once, and a new leader expects no more by itself."""


@virtual
async def restarted(forgets: bool, seed: int) -> tuple[float, int]:
    """The fullest minute while all workers crash and come again, and how often a size was said."""
    dice, sizes = random.Random(seed), FakeLargestCallStore(forgets)

    async def offer(world: Quotas) -> None:
        for offset in itertools.count():
            size = 1800.0 if dice.random() < 0.04 else dice.uniform(5, 190)
            await world.call(world.members[-1].asker, request(offset, tokens=size))

    async with quotas(MIXED, sizes=sizes) as world:
        for _ in range(2):
            await world.join()
        for _ in range(5):
            offering = [loop().create_task(offer(world)) for _ in range(6)]
            large = len([call for call in world.arrived if call[1] > 1000])
            await until(lambda: len([call for call in world.arrived if call[1] > 1000]) > large)  # noqa: B023
            for task in offering:
                task.cancel()
            await asyncio.wait(offering)
            for member in world.members[-2:]:
                await member.die()
            for _ in range(2):
                await world.join()
    return fullest(world.arrived), sizes.times


@pytest.mark.parametrize("seed", range(2))
def test_all_workers_restart_right_after_a_large_call_and_no_minute_is_overrun(seed: int) -> None:
    most, said = restarted(False, seed)
    assert most <= 6040.0
    assert said >= 5  # as often as it may have been forgotten
    assert restarted(True, seed)[0] > 6040.0  # it is the declaration that helps


@virtual
async def test_only_what_a_new_leader_would_not_expect_is_said() -> None:
    async with quotas(MIXED) as world:
        member = await world.join()
        await world.call(member.asker, request(1, tokens=200.0))
        assert world.sizes.times == 0
        with pytest.raises(CallTooLarge):
            await world.call(member.asker, request(1, tokens=6041.0))
        assert world.sizes.times == 0
        await world.call(member.asker, request(1, tokens=201.0))
        assert world.sizes.most == 201.0


@virtual
async def test_who_has_heard_of_all_grants_loses_nothing_to_what_was_said() -> None:
    async with quotas(MIXED) as world:
        first, second = await world.join(), await world.join()
        await world.call(first.asker, request(1, tokens=1800.0))
        await asyncio.sleep(SPAN)
        await first.die()
        died = monotonic()
        await world.call(second.asker, request(2, tokens=1800.0))
        assert monotonic() - died < 1.0


@virtual
async def test_a_large_call_waits_while_the_journal_does_not_confirm_and_others_do_not() -> None:
    class Blocked(FakeLargestCallStore):
        async def declare(self, tokens: float) -> None:
            await asyncio.sleep(30.0)

    async with quotas(MIXED, sizes=Blocked()) as world:
        member = await world.join()
        await calm(world)
        large = loop().create_task(world.call(member.asker, request(1, tokens=1800.0)))
        await asyncio.sleep(1.0)
        began = monotonic()
        await world.call(member.asker, request(2))
        assert monotonic() == began
        assert not large.done()
        large.cancel()
        await asyncio.wait({large})


def ask(tokens: float) -> Ask:
    return Ask(
        id="a",
        worker="w",
        limits=MIXED,
        job="j",
        run="r",
        offset=1,
        started=False,
        call="answer",
        tokens=tokens,
    )


async def shortly(world: Quotas) -> bool:
    """Whether the next call is granted by its copy alone, its ask being lost."""
    for member in world.members:
        member.rpc.deaf = True
    try:
        async with asyncio.timeout(0.1):
            await world.call(world.members[-1].asker, request())
    except TimeoutError:
        return False
    finally:
        for member in world.members:
            member.rpc.deaf = False
    return True


@virtual
async def test_a_copy_is_answered_for_as_long_as_the_last_request_shows_who_leads() -> None:
    async with quotas(LIMITS) as world:
        await world.join()
        await world.join()
        await calm(world)
        assert not await shortly(world)  # a minute without any request
        await world.call(world.members[-1].asker, request())
        await asyncio.sleep(LEASE - 0.15)
        assert await shortly(world)  # and is no request itself
        known = [member.leader._shadow.pacer.used(monotonic()) for member in world.members]
        assert known == [Limits(2.0)] * 2  # by the successor, too
        await asyncio.sleep(0.15)
        assert not await shortly(world)
        assert LEASE <= QUIET


@virtual
async def test_a_leader_that_is_cut_off_answers_no_copy_and_neither_does_one_that_has_left_office() -> None:
    async with quotas(LIMITS) as world:
        first, second = await world.join(), await world.join()
        await calm(world)
        await world.call(second.asker, request())
        assert await shortly(world)
        first.disrupt()
        assert not await shortly(world)
        await until(lambda: second.leader.leading)
        await asyncio.sleep(QUIET)
        await world.call(second.asker, request())
        assert first.leader._express(b"") is None
        assert second.leader.leading


@virtual
async def test_large_calls_wait_for_the_journal_and_only_asks_are_granted_by_a_copy() -> None:
    async with quotas(MIXED) as world:
        await world.join()
        member = await world.join()
        await calm(world)
        await world.call(member.asker, request(1))
        await asyncio.sleep(0.1)  # and there is room for any
        leader = world.members[0].leader
        assert leader._express(encode(ask(1800.0))) is None
        assert leader._express(encode(Tell())) is None
        assert leader._express(b"not json") is None
        answer = leader._express(encode(ask(200.0)))
        assert answer is not None
        assert isinstance(decode_reply(answer), Granted)


@virtual
async def test_of_an_ask_of_the_leaders_own_process_only_the_note_passes_the_broker() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        await world.call(member.asker, request(1))
        asked = member.rpc.asked
        await world.call(member.asker, request(2))
        assert member.rpc.asked == asked
        assert world.names == ["job 1", "job 2"]


@virtual
async def test_a_grant_to_the_leaders_own_process_is_good_once_the_broker_has_passed_its_note_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        await world.call(member.asker, request(1))
        monkeypatch.setattr("eco2.quota.leader.decode_note", lambda body: None)  # none comes back
        asked, began = member.rpc.asked, monotonic()
        await world.call(member.asker, request(2))
        assert member.rpc.asked == asked + 1
        assert monotonic() == pytest.approx(began + ECHO)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.9):  # it was one grant, not two
                await world.call(member.asker, request(3))
        await world.call(member.asker, request(3))


@virtual
async def test_while_calls_come_the_leader_keeps_its_lease_up() -> None:
    async with quotas(LIMITS) as world:
        member = await world.join()
        await calm(world)
        await world.call(member.asker, request(1))
        await asyncio.sleep(BUSY - 1)
        asked = member.rpc.asked
        await world.call(member.asker, request(2))
        assert member.rpc.asked == asked
        await asyncio.sleep(BUSY + LEASE)
        await world.call(member.asker, request(3))
        assert member.rpc.asked > asked


@pytest.mark.parametrize("seed", range(4))
def test_whichever_copies_asks_and_replies_are_lost_no_minute_is_overrun(seed: int) -> None:
    chaos = replace(CALM, seed=seed, lost_live=0.2, delay=0.15)

    async def scenario() -> None:
        async with quotas(Limits(requests=300.0), chaos) as world:
            members = [await world.join() for _ in range(3)]

            async def offer(number: int) -> None:
                for turn in range(40):
                    await world.call(members[number % 3].asker, request(turn * 12 + number))

            calls = [loop().create_task(offer(number)) for number in range(12)]
            while not all(call.done() for call in calls):
                await asyncio.sleep(7)
                for member in members:
                    if member.leader.leading:
                        member.disrupt()
            assert len(set(world.names)) == 480
            assert fullest(world.arrived) <= 300

    virtual(scenario)()
