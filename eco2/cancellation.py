"""Finds out that the current task was cancelled although a library has swallowed the CancelledError.

aiormq turns it into the error of a connection that goes in the same moment, a reader that fails to close
replaces it, `wait_for` of Python 3.11 drops it when what it waits for is done.
"""

import asyncio


def cancellations() -> int:
    """Returns how often the current task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def raise_if_cancelled() -> None:
    """Raises the CancelledError of the current task that a library has swallowed, if it did.

    A loop that goes on after an error has to check for itself, or stopping hangs.
    """
    if cancellations():
        raise asyncio.CancelledError
