"""What leaders say of their large calls reaches whoever leads next, also when no worker is left."""

import asyncio

from eco2.event import Large
from eco2.journal.large import LIFE, LargeCalls
from eco2.journal.sizes import RENEW, Sizes
from tests.support.virtual_clock import VirtualClock, virtual
from tests.support.world import World


@virtual
async def test_what_was_said_outlives_all_processes() -> None:
    world = World()
    async with world.process() as process:
        sizes = Sizes(process.journal, "p", VirtualClock.now)
        await asyncio.gather(sizes.say(500.0), sizes.say(900.0), sizes.say(700.0))
    async with world.process() as process:
        again, other = (Sizes(process.journal, name, VirtualClock.now) for name in ("p", "q"))
        await again.catch_up()
        assert (again.largest(), other.largest()) == (900.0, 0.0)
        await asyncio.sleep(LIFE + 1)
        assert again.largest() == 0.0


@virtual
async def test_one_word_a_minute_is_enough() -> None:
    world = World()
    async with world.process() as process:
        said, put = list[Large](), process.journal.put

        def counted(*events: object) -> asyncio.Future[None]:
            said.extend(event for event in events if isinstance(event, Large))
            return put(*events)  # type: ignore[arg-type]

        process.journal.put = counted  # type: ignore[method-assign]
        sizes = Sizes(process.journal, "p", VirtualClock.now)
        for _ in range(10):
            await asyncio.gather(*(sizes.say(tokens) for tokens in (900.0, 900.0, 300.0)))
        assert len(said) == 1
        await asyncio.sleep(RENEW + 1)
        await sizes.say(900.0)
        assert len(said) == 2


def test_a_clock_that_runs_ahead_makes_nothing_last() -> None:
    large = LargeCalls()
    large.said(Large(ts=5000.0, budget="p", tokens=900.0), 1000.0)
    assert large.largest("p", 1000.0) == 900.0
    assert large.largest("p", 1001.0) == 0.0


def test_smaller_and_newer_ones_do_not_hide_a_larger_one() -> None:
    large = LargeCalls()
    for ts, tokens in ((1.0, 900.0), (2.0, 100.0), (3.0, 300.0), (LIFE + 2.0, 50.0)):
        large.said(Large(ts=ts, budget="p", tokens=tokens), ts)
        assert large.largest("p", ts - LIFE) == (900.0 if ts < LIFE else 300.0)
    assert large.largest("p", 4.0) == 50.0
