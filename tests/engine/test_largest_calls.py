"""The large calls that a leader declares reach every later leader, also when no worker is left."""

import asyncio

from eco2.event import LargeCallDeclared
from eco2.journal.largest_call_store import RENEWAL_INTERVAL, LargestCallStore
from eco2.journal.largest_calls import DECLARATION_TTL, LargestCalls
from tests.support.virtual_clock import VirtualClock, virtual
from tests.support.world import World


@virtual
async def test_a_declared_size_outlives_all_processes() -> None:
    world = World()
    async with world.process() as process:
        store = LargestCallStore(process.journal, "p", VirtualClock.now)
        await asyncio.gather(store.declare(500.0), store.declare(900.0), store.declare(700.0))
    async with world.process() as process:
        again, other = (LargestCallStore(process.journal, name, VirtualClock.now) for name in ("p", "q"))
        await again.catch_up()
        assert (again.largest(), other.largest()) == (900.0, 0.0)
        await asyncio.sleep(DECLARATION_TTL + 1)
        assert again.largest() == 0.0


@virtual
async def test_one_declaration_a_minute_is_enough() -> None:
    world = World()
    async with world.process() as process:
        declared, put = list[LargeCallDeclared](), process.journal.put

        def counted(*events: object) -> asyncio.Future[None]:
            declared.extend(event for event in events if isinstance(event, LargeCallDeclared))
            return put(*events)  # type: ignore[arg-type]

        process.journal.put = counted  # type: ignore[method-assign]
        store = LargestCallStore(process.journal, "p", VirtualClock.now)
        for _ in range(10):
            await asyncio.gather(*(store.declare(tokens) for tokens in (900.0, 900.0, 300.0)))
        assert len(declared) == 1
        await asyncio.sleep(RENEWAL_INTERVAL + 1)
        await store.declare(900.0)
        assert len(declared) == 2


def test_a_clock_that_runs_ahead_makes_nothing_last() -> None:
    calls = LargestCalls()
    calls.apply(LargeCallDeclared(ts=5000.0, budget="p", tokens=900.0), 1000.0)
    assert calls.largest("p", 1000.0) == 900.0
    assert calls.largest("p", 1001.0) == 0.0


def test_smaller_and_newer_ones_do_not_hide_a_larger_one() -> None:
    calls = LargestCalls()
    for ts, tokens in ((1.0, 900.0), (2.0, 100.0), (3.0, 300.0), (DECLARATION_TTL + 2.0, 50.0)):
        calls.apply(LargeCallDeclared(ts=ts, budget="p", tokens=tokens), ts)
        assert calls.largest("p", ts - DECLARATION_TTL) == (900.0 if ts < DECLARATION_TTL else 300.0)
    assert calls.largest("p", 4.0) == 50.0
