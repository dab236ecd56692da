"""Decides which jobs run side by side in one process: all of them, but a suspect runs alone.

After a crash, every job of the process is a suspect. A job that was present in several crashes runs alone
until it makes progress: if the process crashes again, the job is the cause; if not, it was innocent. So no
neighbour is ever blamed.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eco2.journal.state import JobState

SUSPECT_AFTER = 3
"""Crashes without any progress between them after which a job runs alone. Each crash spreads its neighbours
over other processes, so few of them are ever this unlucky."""

MAX_SOLO_CRASHES = 4
"""Crashes alone after which the job is the cause. Fewer may be chance, as by `kill -9`: where the leader is
killed every 20 s, a job taken over 15 s after a kill has 5 s for progress, and some make none alone."""


def is_suspect(state: JobState) -> bool:
    """Returns whether the job shall run alone: too many of its runs crashed since its last progress.

    `state`: as it is when the job changes hands, so a run that still holds it counts as one of them.
    """
    return state.crashes + state.is_held >= SUSPECT_AFTER


def is_poison(state: JobState) -> bool:
    """Returns whether the job's holder, which is silent now, ran nothing else: it was this job.

    Not if the job made progress while it was alone: then it is not the one that crashed the others.
    """
    return state.is_held and state.exclusive and state.crashes >= SUSPECT_AFTER + MAX_SOLO_CRASHES - 1


class Quarantine:
    """A reader/writer lock, one per process: suspects hold it exclusively, all other jobs share it.

    A suspect that waits keeps others from beginning, so that its turn comes.
    """

    def __init__(self) -> None:
        self._holders = 0
        self._exclusive = False
        self._suspects = 0
        self._changed = asyncio.Event()

    async def acquire(self, exclusive: bool) -> None:
        """Returns when the job may run. `hold` must follow without an await between them."""
        self._suspects += exclusive
        try:
            while self._holders if exclusive else self._exclusive or self._suspects:
                await self._changed.wait()
        finally:
            self._suspects -= exclusive
            self._notify()

    @contextmanager
    def hold(self, exclusive: bool) -> Iterator[Callable[[], None]]:
        """Runs the job in the block. Yields `downgrade`: once the job made progress, others may begin."""
        self._holders += 1
        self._exclusive = exclusive

        def downgrade() -> None:
            self._exclusive = False
            self._notify()

        try:
            yield downgrade
        finally:
            self._holders -= 1
            downgrade()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
