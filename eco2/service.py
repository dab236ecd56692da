"""Runs a process as a list of components: started in order, stopped in reverse, each by its own event.

Guarantees: a component stops only after all components that were started after it have stopped; each step is
logged once; a component that fails ends the process instead of leaving half of it running.
"""

import asyncio
import ctypes
import gc
import resource
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from eco2.cancellation import cancellations
from eco2.log import get_logger

log = get_logger(__name__)

GC_THRESHOLD = 10_000
"""Allocations minus frees that start a collection of the youngest generation; Python's default is 700."""
MMAP_THRESHOLD = 32_768
"""Bytes."""
UNLIMITED_FILES = 65_536
"""Open files where the system sets no limit; some systems refuse to make the soft one unlimited."""
_M_MMAP_THRESHOLD = -3
"""The constant of glibc's <malloc.h>."""


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the process. `run(stop)` works until `stop` is set, then cleans up and returns.

    `grace`: seconds for the clean-up; after that it is cancelled.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]
    grace: float = 10.0


class ComponentEnded(RuntimeError):
    """A component ended before it was stopped: a bug."""


async def run(
    components: Sequence[Component], stop: asyncio.Event, force: asyncio.Event | None = None
) -> None:
    """Runs all components until `stop` is set and all have stopped. The first failure ends all and is raised.

    Setting `force` as well ends every grace period at once.
    """

    async def guarded(component: Component, stop: asyncio.Event) -> None:
        try:
            await component.run(stop)
        except asyncio.CancelledError as error:
            if cancellations():
                raise
            # A group takes no notice of it: the process would go on without this component.
            raise ComponentEnded(f"component {component.name} was ended by a stray cancellation") from error
        if not stop.is_set():
            raise ComponentEnded(f"component {component.name} returned without being stopped")

    async with asyncio.TaskGroup() as group:
        forced = group.create_task((force or asyncio.Event()).wait())
        running = []
        for component in components:
            own = asyncio.Event()
            task = group.create_task(guarded(component, own), name=component.name)
            running.append((component, own, task))
        await stop.wait()
        for component, own, task in reversed(running):
            log.info("stopping", component=component.name)
            own.set()
            await asyncio.wait({task, forced}, timeout=component.grace, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                why = "second signal" if forced.done() else "its grace period is over"
                log.warning("stopped by force", component=component.name, why=why)
                task.cancel()
                await asyncio.wait({task})
        forced.cancel()
    log.info("stopped")


def freeze_gc() -> None:
    """Freezes all loaded objects (`gc.freeze`) and raises the collection thresholds.

    Call it once the process has loaded its modules. Jobs leave few cycles, and a full collection would stop
    the event loop for about 20 ms, most of them spent on modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 5, 5)  # not higher: cycles of finished calls hold their pictures


def set_mmap_threshold() -> bool:
    """Makes malloc take blocks of `MMAP_THRESHOLD` bytes or more, mainly pictures, from mmap.

    These return to the system when freed; on the heap, a small object after them could keep them there.
    Returns False if the C library is not glibc, and nothing was changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD))


def raise_open_files() -> int:
    """Raises the soft limit of open files to the hard limit, and returns it.

    A common soft limit is 1,024; each connection takes one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def stop_on_signals(stop: asyncio.Event, force: asyncio.Event | None = None) -> None:
    """Sets `stop` at the first SIGTERM or SIGINT, and `force` at the second."""

    def signalled() -> None:
        if stop.is_set() and force is not None:
            force.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
