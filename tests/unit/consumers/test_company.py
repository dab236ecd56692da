"""Who runs beside whom: a suspect alone, and all others together."""

import asyncio
from collections.abc import Callable

from eco2.consumers.company import Company
from tests.support.virtual_clock import virtual


class Guests:
    """Jobs that want to run. `inside`: who does, in order; `seen`: with whom each ran at its beginning."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.company = Company()
        self.inside: list[str] = []
        self.seen: dict[str, list[str]] = {}
        self.got_on: dict[str, Callable[[], None]] = {}
        self._group = group
        self._leave: dict[str, asyncio.Event] = {}

    def come(self, name: str, alone: bool = False) -> asyncio.Task[None]:
        self._leave[name] = asyncio.Event()
        return self._group.create_task(self._stay(name, alone))

    def go(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()

    async def _stay(self, name: str, alone: bool) -> None:
        await self.company.turn(alone)
        with self.company.seat(alone) as self.got_on[name]:
            self.inside.append(name)
            self.seen[name] = list(self.inside)
            await self._leave[name].wait()
            self.inside.remove(name)


async def settled() -> None:
    await asyncio.sleep(1)


@virtual
async def test_jobs_run_beside_each_other() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        for name in "abc":
            guests.come(name)
        await settled()
        assert guests.inside == ["a", "b", "c"]
        guests.go(*"abc")


@virtual
async def test_a_suspect_waits_for_all_and_keeps_others_from_beginning() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        guests.come("a")
        guests.come("b")
        await settled()
        guests.come("suspect", alone=True)
        await settled()
        guests.come("c")
        await settled()
        assert guests.inside == ["a", "b"]
        guests.go("a")
        await settled()
        assert guests.inside == ["b"]
        guests.go("b")
        await settled()
        assert guests.inside == ["suspect"]
        guests.go("suspect")
        await settled()
        assert guests.inside == ["c"]
        guests.go("c")
    assert guests.seen["suspect"] == ["suspect"]


@virtual
async def test_several_suspects_run_one_after_the_other_and_then_all_others() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        guests.come("s1", alone=True)
        guests.come("s2", alone=True)
        guests.come("a")
        guests.come("b")
        for suspect in ("s1", "s2"):
            await settled()
            assert guests.inside == [suspect]
            guests.go(suspect)
        await settled()
        assert guests.inside == ["a", "b"]
        guests.go("a", "b")


@virtual
async def test_a_suspect_that_gives_up_waiting_keeps_nobody_any_more() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        guests.come("a")
        await settled()
        waiting = guests.come("suspect", alone=True)
        await settled()
        guests.come("b")
        await settled()
        assert guests.inside == ["a"]
        waiting.cancel()
        await settled()
        assert guests.inside == ["a", "b"]
        guests.go("a", "b")


@virtual
async def test_a_suspect_that_is_cancelled_while_it_runs_frees_the_seat() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        running = guests.come("suspect", alone=True)
        await settled()
        guests.come("a")
        await settled()
        assert guests.inside == ["suspect"]
        running.cancel()
        await settled()
        guests.inside.remove("suspect")
        assert guests.inside == ["a"]
        guests.go("a")


@virtual
async def test_a_guest_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        guests.come("s1", alone=True)
        await settled()
        guests.come("a").cancel()
        await settled()
        guests.go("s1")
        guests.come("s2", alone=True)
        await settled()
        assert guests.inside == ["s2"]
        guests.go("s2")


@virtual
async def test_beside_a_suspect_that_got_on_others_may_begin() -> None:
    async with asyncio.TaskGroup() as group:
        guests = Guests(group)
        guests.come("suspect", alone=True)
        await settled()
        guests.come("a")
        await settled()
        assert guests.inside == ["suspect"]
        guests.got_on["suspect"]()
        await settled()
        assert guests.inside == ["suspect", "a"]
        guests.go("suspect")
        await settled()
        guests.come("b")
        await settled()
        assert guests.inside == ["a", "b"]
        guests.go("a", "b")
