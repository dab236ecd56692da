"""The job, the same for all: say that it began, sleep if it is told to, say that it ended."""

import asyncio
import os
import time
from pathlib import Path

from bench.core.marks import Marks

URL = os.environ.get("CORE_URL", "")
QUEUE = os.environ.get("CORE_QUEUE", "")
PREFETCH = int(os.environ.get("CORE_PREFETCH", "100"))
_marks = Marks(Path(os.environ.get("CORE_MARKS", "/tmp")))


def work(seconds: float) -> None:
    """Where jobs run in threads, processes or greenlets."""
    _marks.begin()
    if seconds:
        time.sleep(seconds)
    _marks.end()


async def work_async(seconds: float) -> None:
    """Where jobs are coroutines."""
    _marks.begin()
    if seconds:
        await asyncio.sleep(seconds)
    _marks.end()
