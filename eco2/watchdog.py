"""Watches the event loop of a process: measures its lag, and names the stage that blocks it.

A task wakes every `PERIOD` seconds, late if something blocks the loop. A thread sees that it is overdue, and
looks meanwhile at the stack of the loop's thread, and at the context of the task that runs there. Seconds in
which the whole process stood still, as after SIGSTOP or without a CPU, count against nobody.
"""

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from contextvars import Context, ContextVar
from typing import Any, NamedTuple

from eco2.frames import own_frames, place
from eco2.log import get_logger
from eco2.metrics import Metrics

PERIOD = 0.25
"""Seconds between two measurements; a longer block is always seen."""
MAX_BLOCK = 1.0
"""Seconds for which code may block the loop unreported."""
MAX_UNREPORTED = 10.0
"""Seconds after which a block that has not ended is reported."""
MAX_SAMPLES = 100
MAX_FRAMES = 20

log = get_logger(__name__)


class Running(NamedTuple):
    """The stage that a task works for."""

    pipeline: str
    stage: str
    job_id: str


running: ContextVar[Running | None] = ContextVar("running", default=None)
"""Set by the executor; the tasks that a stage starts inherit it."""


class Sample(NamedTuple):
    """The state of the loop's thread at one moment. `stack`: as `eco2.frames.place`, innermost last."""

    running: Running | None
    stack: tuple[str, ...]


class LoopWatch:
    """A component of every process. `period`: seconds between two measurements."""

    def __init__(self, metrics: Metrics, period: float = PERIOD) -> None:
        self._metrics = metrics
        self._period = period
        self._due = 0.0
        self._late = deque[tuple[float, float]](maxlen=MAX_SAMPLES)  # when it woke, and how late
        self._stopped = threading.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Measures until `stop` is set."""
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        self._due = time.monotonic() + self._period
        observer = threading.Thread(target=self._observe, args=(loop, thread), name="loop watch", daemon=True)
        observer.start()
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._measure())
                await stop.wait()
                watching.cancel()
        finally:
            self._stopped.set()
            observer.join(self._period)  # it ends at once, unless the log itself is blocked

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            now = time.monotonic()
            late = max(0.0, now - self._due)
            self._metrics.loop_late(late)
            if late >= MAX_BLOCK:
                self._late.append((now, late))
            self._due = now + self._period  # last: it makes the observer drop its samples

    def _observe(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        """Looks at the loop from a thread of its own, and reports what blocked it."""
        due, reported, samples = self._due, False, deque[Sample](maxlen=MAX_SAMPLES)
        freezes = deque[tuple[float, float]](maxlen=MAX_SAMPLES)  # when each ended, and its seconds
        now, cpu = time.monotonic(), time.process_time()
        while not self._stopped.wait(self._period):
            at, used = now, cpu
            now, cpu = time.monotonic(), time.process_time()
            if frozen := frozen_seconds(now - at, cpu - used, self._period):
                freezes.append((now, frozen))
            # A later one is judged at the next turn: the freeze that made it late may not be known yet.
            while self._late and self._late[0][0] <= now:
                woke, late = self._late.popleft()
                if (seconds := late - frozen_since(freezes, woke - late - self._period)) >= MAX_BLOCK:
                    self._report(samples, seconds)
            if self._due == due:
                seconds = now - due - frozen_since(freezes, due - self._period)
                if seconds >= MAX_BLOCK / 2:
                    samples.append(sample(loop, thread))
                if seconds >= MAX_UNREPORTED and not reported:
                    reported = True
                    self._report(samples, seconds, ended=False)
            elif not self._late:
                due, reported = self._due, False
                samples.clear()

    def _report(self, samples: "deque[Sample]", seconds: float, *, ended: bool = True) -> None:
        found, stack = blamed(samples)
        name = f"stage {found.stage} of pipeline {found.pipeline}" if found else "something"
        blocked = "blocked" if ended else "has been blocking"
        log.warning(
            f"{name} {blocked} the event loop for {seconds:.1f} s; use asyncio.to_thread",
            **(found._asdict() if found else {}),
            seconds=round(seconds, 2),
            stack=stack,
        )
        if ended:
            self._metrics.loop_blocked(*(found[:2] if found else ("", "")))


def frozen_seconds(elapsed: float, used: float, period: float) -> float:
    """Returns the seconds for which the whole process stood still while its observer slept for `period`.

    `elapsed`: seconds of the sleep; `used`: seconds of CPU of the process meanwhile. An observer that wakes
    late although the process worked was held up by code that keeps other threads from running.
    """
    return elapsed - period if elapsed > 2 * period and used < elapsed / 2 else 0.0


def frozen_since(freezes: Iterable[tuple[float, float]], start: float) -> float:
    """Returns the seconds of all freezes that ended after `start` (monotonic)."""
    return sum(seconds for ended, seconds in freezes if ended >= start)


def blamed(samples: "deque[Sample]") -> Sample:
    """Returns the last sample of the stage that most samples show."""
    if not samples:
        return Sample(None, ())
    [(most, _)] = Counter(each.running for each in samples).most_common(1)
    return next(each for each in reversed(samples) if each.running == most)


def sample(loop: asyncio.AbstractEventLoop, thread: int) -> Sample:
    """Looks at the loop that runs in that thread; called from another thread."""
    task, frame = asyncio.current_task(loop), sys._current_frames().get(thread)  # noqa: SLF001  # the documented way
    context = None if task is None else context_of(task)
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    frames = own_frames(list(reversed(stack)))[-MAX_FRAMES:]
    return Sample(context.get(running) if context else None, tuple(map(place, frames)))


def context_of(task: "asyncio.Task[Any]") -> Context | None:
    """Returns the context of a task, which Python has a method for since 3.12."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
