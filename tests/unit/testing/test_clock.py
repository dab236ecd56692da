"""The virtual clock itself: fast, ordered as real time, and loud when a test can never end."""

import asyncio
import threading
import time

import pytest

from eco2.testing.clock import EPOCH, Deadlock, VirtualClock, run_virtual, virtual


def test_an_hour_of_sleeps_takes_no_real_time() -> None:
    async def sleep_an_hour() -> float:
        for _ in range(360):
            await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    began = time.thread_time()
    assert run_virtual(sleep_an_hour()) == pytest.approx(3600)
    assert time.thread_time() - began < 2


@virtual
async def test_timers_fire_in_the_order_of_their_times() -> None:
    seen: list[tuple[str, float]] = []

    async def after(delay: float, name: str) -> None:
        await asyncio.sleep(delay)
        seen.append((name, asyncio.get_running_loop().time()))

    await asyncio.gather(after(30, "c"), after(10, "a"), after(20, "b"), after(86_400 * 3, "days"))
    assert [name for name, _ in seen] == ["a", "b", "c", "days"]
    assert [at for _, at in seen] == pytest.approx([10, 20, 30, 86_400 * 3])


@virtual
async def test_a_timer_is_never_early() -> None:
    """Else a task that waits until then, and is woken by a hair before it, would wait again for ever."""
    loop = asyncio.get_running_loop()
    hair = 2e-10
    late: list[float] = []

    def fire(due: float) -> None:
        late.append(loop.time() - due)

    for due in (0.3 - hair, 0.3, 0.1 + 0.2, 244.5 - hair, 244.5, 1e6 + 0.1):
        loop.call_at(due, fire, due)
    await asyncio.sleep(2e6)
    assert late == [0] * 6


@virtual
async def test_time_stands_still_while_anything_can_run() -> None:
    for _ in range(1000):
        await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() == 0


@virtual
async def test_the_wall_clock_follows() -> None:
    assert VirtualClock.now() == EPOCH
    await asyncio.sleep(90)
    assert VirtualClock.now() == pytest.approx(EPOCH + 90)


async def test_the_wall_clock_is_refused_on_a_real_loop() -> None:
    with pytest.raises(TypeError, match="@virtual"):
        VirtualClock.now()


@virtual
async def test_a_timeout_fires_at_its_time() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() == pytest.approx(60)


def test_a_deadlock_is_an_error_that_names_who_waits() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="wait_for_ever"):
        run_virtual(wait_for_ever())


@virtual
async def test_a_thread_is_waited_for_in_real_time() -> None:
    release = threading.Event()
    asyncio.get_running_loop().call_soon(release.set)
    assert await asyncio.to_thread(release.wait, 10)
    assert asyncio.get_running_loop().time() == 0


@virtual
async def test_a_real_socket_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no real sockets"):
        await asyncio.open_connection("127.0.0.1", 9)


@pytest.fixture
def number() -> int:
    return 7


@virtual
async def test_plain_fixtures_and_arguments_arrive(number: int) -> None:
    assert number == 7
