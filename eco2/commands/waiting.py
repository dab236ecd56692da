"""What a command waits for, said on standard error once it takes longer than a moment."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

MOMENT = 1.0
"""Seconds without a word."""


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Inside, a person who waits is told what for: by a spinner on a terminal, else by one line.

    What it yields takes a word on how far it is, for the spinner.
    """
    console = Console(stderr=True)
    status = console.status(f"waiting for {what}")

    def tell() -> None:
        if console.is_terminal:
            status.start()
        else:
            console.print(f"waiting for {what} …", highlight=False, markup=False)

    timer = asyncio.get_running_loop().call_later(MOMENT, tell)
    try:
        yield lambda far: status.update(f"waiting for {what}: {far}")
    finally:
        timer.cancel()
        status.stop()
