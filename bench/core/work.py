"""The job, the same for all: records its start, sleeps if required, records its end.

Every process of a worker imports this module, and so none of them outlives the process that started it.
"""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

from bench.core.marks import Marks

URL = os.environ.get("CORE_URL", "")
QUEUE = os.environ.get("CORE_QUEUE", "")
PREFETCH = int(os.environ.get("CORE_PREFETCH", "100"))
RESULTS = os.environ.get("CORE_RESULTS", "")
"""A queue for what jobs return; "": nobody wants it."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_die_with_parent()
os.register_at_fork(after_in_child=_die_with_parent)
_marks = Marks(Path(os.environ.get("CORE_MARKS", os.devnull)))


def work(seconds: float) -> None:
    """Runs a job in a thread, process or greenlet."""
    _marks.begin()
    if seconds:
        time.sleep(seconds)
    _marks.end()


async def work_async(seconds: float) -> None:
    """Runs a job as a coroutine."""
    _marks.begin()
    if seconds:
        await asyncio.sleep(seconds)
    _marks.end()
