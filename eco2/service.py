"""A process as an ordered list of components: started in order, stopped in reverse, each by its own event.

What it guarantees: a component stops only after everything that was started behind it has stopped; each
step is logged once; a component that fails ends the process instead of leaving half of it running.
"""

import asyncio
import ctypes
import gc
import resource
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from eco2.log import get_logger

log = get_logger(__name__)

YOUNG = 10_000
"""Objects that are made, and not freed, before the garbage collector looks at the young ones."""
LARGE = 32_768
UNLIMITED_FILES = 65_536
"""Open files where the system sets no limit; some systems refuse to make the soft one unlimited."""
_M_MMAP_THRESHOLD = -3
"""Of glibc's <malloc.h>."""


@dataclass(frozen=True, slots=True)
class Component:
    """`run(stop)` works until `stop` is set, then puts itself in order and returns.

    `grace`: seconds that it has for that; then it is cancelled.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]
    grace: float = 10.0


class ComponentEnded(RuntimeError):
    """A component returned though nobody had asked it to stop: a bug."""


async def run(
    components: Sequence[Component], stop: asyncio.Event, force: asyncio.Event | None = None
) -> None:
    """Runs all until `stop` is set and all have stopped. The first failure ends all and is raised.

    Setting `force` as well ends every grace at once.
    """
    async with asyncio.TaskGroup() as group:
        forced = group.create_task((force or asyncio.Event()).wait())
        running = []
        for component in components:
            own = asyncio.Event()
            task = group.create_task(_guarded(component, own), name=component.name)
            running.append((component, own, task))
        await stop.wait()
        for component, own, task in reversed(running):
            log.info("stopping", component=component.name)
            own.set()
            await asyncio.wait({task, forced}, timeout=component.grace, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                why = "a second signal came" if forced.done() else "its grace is over"
                log.warning("stopped by force", component=component.name, why=why)
                task.cancel()
                await asyncio.wait({task})
        forced.cancel()
    log.info("stopped")


async def _guarded(component: Component, stop: asyncio.Event) -> None:
    await component.run(stop)
    if not stop.is_set():
        raise ComponentEnded(f"component {component.name} ended by itself")


def spare_the_collector() -> None:
    """Call it once a process has loaded what it needs: the garbage collector looks at that no more, and at
    the rest less often. What a job leaves behind is freed by counting references, and cycles are few; a full
    collection would stop everything for some 20 ms, most of them spent on modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 5, 5)  # cycles of finished calls hold their pictures


def return_large_pieces() -> bool:
    """Pieces of memory from `LARGE` bytes on, above all pictures, go back to the system as soon as they are
    free. Else they come from where small things live as well, and one that lives long keeps all around it.

    False where the C library is another than glibc, and nothing was changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE))


def raise_open_files() -> int:
    """Raises the limit of open files to what the system lets the process have, and returns it.

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
