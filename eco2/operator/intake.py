"""Halting the intake of all workers, and letting it go on: an event in the journal that every worker sees."""

from collections.abc import Iterable

from eco2.event import Paused, Resumed
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.operator.replay import in_time
from eco2.ports import Clock


async def pause(journal: Journal, reason: str, clock: Clock) -> Paused | None:
    """Returns once the own tail shows the pause: what paused the intake before, or None."""
    return await _write(journal, Paused(ts=clock(), reason=reason))


async def resume(journal: Journal, clock: Clock) -> Paused | None:
    """Returns once the own tail shows that the intake goes on: what had paused it, or None."""
    return await _write(journal, Resumed(ts=clock()))


async def _write(journal: Journal, event: Paused | Resumed) -> Paused | None:
    before = journal.view.paused
    async with in_time("the journal confirmed nothing"):
        await journal.put(event)
        await journal.barrier()
    return before


def counts(view: Iterable[JobState]) -> tuple[int, int]:
    """How many jobs are in flight, and how many wait for a worker."""
    statuses = [state.status for state in view]
    return statuses.count("running"), statuses.count("queued")
