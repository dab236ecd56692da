"""Shows on standard error what a command waits for, once the wait is noticeable."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

QUIET_SECONDS = 1.0
"""Seconds before anything is shown."""


@contextmanager
def spinner(what: str) -> Iterator[Callable[[str], None]]:
    """Shows "waiting for `what`" while the block runs: a spinner on a terminal, else one line.

    Yields a function that shows progress in the spinner.
    """
    console = Console(stderr=True)
    status = console.status(f"waiting for {what}")

    def show() -> None:
        if console.is_terminal:
            status.start()
        else:
            console.print(f"waiting for {what} …", highlight=False, markup=False)

    timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, show)
    try:
        yield lambda progress: status.update(f"waiting for {what}: {progress}")
    finally:
        timer.cancel()
        status.stop()
