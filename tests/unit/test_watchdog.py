"""A stage that blocks the event loop is named with its line, also while it lasts; nobody is for a freeze."""

import asyncio
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop

from eco2 import log, watchdog
from eco2.metrics import Metrics
from eco2.watchdog import LoopWatch, Running, frozen_seconds, frozen_since, running

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as JSON lines; afterwards logging is as it was."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    log.configure("info", "json", stream)
    yield stream
    log.configure()
    root.handlers = before
    root.setLevel(level)


def watched(loop: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], Awaitable[None]]) -> Metrics:
    """Awaits the work in a process that watches its loop."""
    metrics = Metrics()
    metrics.process("worker")

    async def main() -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(LoopWatch(metrics).run(stop))
            await asyncio.sleep(0.3)
            await work()
            await asyncio.sleep(0.6)
            stop.set()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    return metrics


def found(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def counts(metrics: Metrics) -> dict[str, float]:
    """By the labels in the text of `eco2_loop_blocked_total`."""
    text = metrics.render().decode()
    return {
        labels: float(value) for labels, value in re.findall(r"eco2_loop_blocked_total\{(.*)\} (.*)", text)
    }


async def branch() -> None:
    """A task that a stage started, without a word of its stage in its frames."""
    time.sleep(1.5)  # noqa: ASYNC251  # the fault itself


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fan_out", [False, True])
def test_the_stage_that_blocks_is_named_with_its_line(
    lines: io.StringIO, loop: Callable[[], asyncio.AbstractEventLoop], *, fan_out: bool
) -> None:
    async def stage() -> None:
        running.set(Running("shop", "price", "job-1"))
        await (asyncio.gather(branch()) if fan_out else branch())

    metrics = watched(loop, lambda: asyncio.create_task(stage()))
    [line] = found(lines)
    assert re.match(
        r"stage price of pipeline shop blocked the event loop for 1\.[3-9] s; use", str(line["event"])
    )
    assert (line["pipeline"], line["stage"], line["job_id"]) == ("shop", "price", "job-1")
    assert line["level"] == "warning"
    assert isinstance(line["seconds"], float)
    assert 1.2 <= line["seconds"] < 2.5
    assert isinstance(line["stack"], list)
    assert re.fullmatch(r"unit/test_watchdog\.py:\d+ in branch", line["stack"][-1])
    assert counts(metrics) == {'pipeline="",stage=""': 0, 'pipeline="shop",stage="price"': 1}


def test_code_outside_of_stages_is_named_by_its_stack(lines: io.StringIO) -> None:
    metrics = watched(asyncio.new_event_loop, branch)
    [line] = found(lines)
    assert str(line["event"]).startswith("something blocked the event loop for 1.")
    assert "stage" not in line
    assert "in branch" in str(line["stack"])
    assert counts(metrics) == {'pipeline="",stage=""': 1}


def test_a_short_block_and_a_long_await_are_no_blocks(lines: io.StringIO) -> None:
    async def work() -> None:
        time.sleep(0.7)  # noqa: ASYNC251
        await asyncio.sleep(1.5)
        await asyncio.to_thread(time.sleep, 1.5)

    metrics = watched(asyncio.new_event_loop, work)
    assert found(lines) == []
    assert counts(metrics) == {'pipeline="",stage=""': 0}


def test_a_block_is_reported_before_it_ends(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "MAX_UNREPORTED", 1.2)
    seen: list[str] = []

    async def work() -> None:
        time.sleep(2)  # noqa: ASYNC251
        seen.append(lines.getvalue())

    metrics = watched(asyncio.new_event_loop, work)
    assert "something has been blocking the event loop for 1." in seen[0]
    assert [line["event"] for line in found(lines)][1:] == [
        f"something blocked the event loop for {found(lines)[1]['seconds']:.1f} s; use asyncio.to_thread"
    ]
    assert counts(metrics) == {'pipeline="",stage=""': 1}


FREEZES = """
import asyncio, sys
from eco2 import log
from eco2.metrics import Metrics
from eco2.watchdog import LoopWatch, Running, running

async def stage():
    running.set(Running("shop", "price", "job-1"))
    while True:
        sum(range(2000))
        await asyncio.sleep(0)

async def main():
    stop = asyncio.Event()
    watch = asyncio.create_task(LoopWatch(Metrics()).run(stop))
    busy = asyncio.create_task(stage())
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.sleep(0.6)
    busy.cancel()
    stop.set()
    await watch

log.configure("info", "json", sys.stdout)
asyncio.run(main())
"""


def test_nobody_is_blamed_for_a_process_that_was_frozen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FREEZES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(process.pid, signal.SIGCONT)
        rest, _ = process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert rest == ""


@pytest.mark.parametrize(
    ("elapsed", "used", "frozen"),
    [
        (0.25, 0.0, 0.0),
        (0.5, 0.0, 0.0),
        (3.25, 0.01, 3.0),
        (3.25, 3.2, 0.0),  # code that lets no other thread run
    ],
)
def test_a_freeze_takes_time_but_no_cpu(elapsed: float, used: float, frozen: float) -> None:
    assert frozen_seconds(elapsed, used, 0.25) == frozen


def test_a_freeze_counts_for_the_wake_up_that_it_made_late_and_no_later_one() -> None:
    freezes = [(10.0, 3.0), (20.0, 1.0)]
    assert [frozen_since(freezes, start) for start in (5.0, 10.0, 10.1, 20.1)] == [4.0, 4.0, 1.0, 0.0]


def test_it_leaves_no_thread_behind() -> None:
    async def work() -> None:
        assert "loop watch" in {thread.name for thread in threading.enumerate()}

    watched(asyncio.new_event_loop, work)
    assert "loop watch" not in {thread.name for thread in threading.enumerate()}
