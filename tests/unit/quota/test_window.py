"""How many asks of one process are on their way: fewer when grants come late, the best ones first."""

import asyncio

import pytest

from eco2.quota.window import Line, Rank, Window
from tests.support.virtual_clock import virtual

LIFE = 0.2


def test_a_burst_that_is_late_halves_the_window_once() -> None:
    window = Window(16.0)
    for now in range(100, 110):
        window = window.arrived(asked=99.0, now=float(now), transit=1.0, life=LIFE)
    assert window.size == 8.0
    assert window.arrived(asked=101.0, now=111.0, transit=1.0, life=LIFE).size == 4.0


def test_a_reply_that_does_not_come_halves_it_as_well() -> None:
    assert Window(16.0).lost(asked=0.0, now=8.0).size == 8.0


def test_one_ask_may_always_be_on_its_way() -> None:
    window = Window(16.0)
    for now in range(20):
        window = window.lost(float(now), float(now))
    assert window.size == 1.0


def test_grants_in_time_open_it_by_one_a_round_trip() -> None:
    window = Window(4.0)
    for _ in range(4):
        window = window.arrived(asked=0.0, now=0.01, transit=0.01, life=LIFE)
    assert window.size == pytest.approx(5.0, abs=0.1)


def test_a_grant_that_is_nearly_late_does_not_open_it() -> None:
    assert Window(4.0).arrived(asked=0.0, now=0.15, transit=0.15, life=LIFE).size == 4.0


def test_it_does_not_open_without_end() -> None:
    window = Window()
    for _ in range(1000):
        window = window.arrived(asked=0.0, now=0.01, transit=0.01, life=LIFE)
    assert window.size == Window().size


class Asks:
    """Asks that wait in one line. `out`: those whose turn came, in order; each stays out until `back`."""

    def __init__(self, group: asyncio.TaskGroup, size: float) -> None:
        self.line = Line()
        self.line.window = Window(size)
        self.out: list[Rank] = []
        self._group = group
        self._back: dict[Rank, asyncio.Event] = {}

    async def ask(self, *offsets: int) -> list[asyncio.Task[None]]:
        tasks = [self._group.create_task(self._ask((False, offset))) for offset in offsets]
        await asyncio.sleep(0.01)
        return tasks

    async def back(self, *offsets: int) -> None:
        for offset in offsets:
            self._back[(False, offset)].set()
        await asyncio.sleep(0.01)

    async def _ask(self, rank: Rank) -> None:
        self._back[rank] = asyncio.Event()
        async with self.line.turn(rank):
            self.out.append(rank)
            await self._back[rank].wait()

    @property
    def offsets(self) -> list[int]:
        return [offset for _, offset in self.out]


@virtual
async def test_the_best_that_wait_go_next() -> None:
    async with asyncio.TaskGroup() as group:
        asks = Asks(group, 2.0)
        await asks.ask(1, 2, 9, 4, 6)
        assert asks.offsets == [1, 2]
        await asks.back(2, 1)
        assert asks.offsets == [1, 2, 4, 6]
        await asks.back(4, 6, 9)
        assert asks.offsets == [1, 2, 4, 6, 9]


@virtual
async def test_one_that_goes_before_any_that_is_out_does_not_wait() -> None:
    async with asyncio.TaskGroup() as group:
        asks = Asks(group, 2.0)
        await asks.ask(5, 7, 8)
        await asks.ask(6)
        assert asks.offsets == [5, 7, 6]
        await asks.back(5)
        assert asks.offsets == [5, 7, 6]  # two are still out
        await asks.back(6, 7, 8)
        assert asks.offsets == [5, 7, 6, 8]


@virtual
async def test_a_caller_cancelled_at_any_moment_keeps_no_place() -> None:
    async with asyncio.TaskGroup() as group:
        asks = Asks(group, 1.0)
        first, waiting, coming, last = await asks.ask(1, 2, 3, 4)
        waiting.cancel()
        await asyncio.sleep(0.01)
        first.cancel()  # its place goes to `coming`, which is cancelled before it runs
        await asyncio.sleep(0)
        coming.cancel()
        await asyncio.sleep(0.01)
        assert asks.offsets[-1] == 4
        await asks.back(4)
        await last
        await asks.ask(5)
        assert asks.offsets[-1] == 5
        await asks.back(5)


@virtual
async def test_a_window_that_opens_lets_several_out() -> None:
    async with asyncio.TaskGroup() as group:
        asks = Asks(group, 1.0)
        await asks.ask(1, 2, 3, 4)
        asks.line.window = Window(3.0)
        await asks.back(1)
        assert asks.offsets == [1, 2, 3, 4]
        await asks.back(2, 3, 4)
