"""The life of a process: start order, stop in reverse, failures, grace. Double and early stops."""

import asyncio
import signal

import pytest

from eco2.service import Component, ComponentEnded, run, stop_on_signals
from tests.clock import virtual


class Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def component(self, name: str, stopping: float = 0.0, grace: float = 10.0) -> Component:
        async def work(stop: asyncio.Event) -> None:
            self.lines.append(f"{name} starts")
            try:
                await stop.wait()
                await asyncio.sleep(stopping)
                self.lines.append(f"{name} ends")
            except asyncio.CancelledError:
                self.lines.append(f"{name} cancelled")
                raise

        return Component(name, work, grace)


@virtual
async def test_components_start_in_order_and_stop_in_reverse_one_after_the_other() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    asyncio.get_running_loop().call_later(5, stop.set)
    await run([recorder.component(name, stopping=1.0) for name in "abc"], stop)
    assert recorder.lines == ["a starts", "b starts", "c starts", "c ends", "b ends", "a ends"]
    assert asyncio.get_running_loop().time() == pytest.approx(8)


@virtual
async def test_a_stop_that_came_before_the_start_is_obeyed() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    stop.set()
    stop.set()
    await run([recorder.component("a"), recorder.component("b")], stop)
    assert recorder.lines[-2:] == ["b ends", "a ends"]


@virtual
async def test_whoever_outstays_its_grace_is_cancelled_and_the_others_stop_in_order() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    asyncio.get_running_loop().call_later(1, stop.set)
    await run([recorder.component("a"), recorder.component("slow", stopping=60, grace=5)], stop)
    assert recorder.lines[-2:] == ["slow cancelled", "a ends"]
    assert asyncio.get_running_loop().time() == pytest.approx(6)


@virtual
async def test_a_component_that_fails_ends_the_process() -> None:
    recorder = Recorder()

    async def fail(stop: asyncio.Event) -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await run([recorder.component("a"), Component("bad", fail)], asyncio.Event())
    assert raised.group_contains(ZeroDivisionError)
    assert recorder.lines == ["a starts", "a cancelled"]


@virtual
async def test_a_component_that_ends_unasked_ends_the_process() -> None:
    async def give_up(stop: asyncio.Event) -> None:
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as raised:
        await run([Component("quitter", give_up)], asyncio.Event())
    assert raised.group_contains(ComponentEnded, match="quitter")


async def test_signals_set_the_stop_event() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        stop = asyncio.Event()
        stop_on_signals(stop)
        signal.raise_signal(number)
        async with asyncio.timeout(5):
            assert await stop.wait()
        asyncio.get_running_loop().remove_signal_handler(number)
