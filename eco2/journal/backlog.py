"""How much is accepted and not ended, folded from the view: what dashboards and scalers look at. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eco2.journal.state import JobState


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts the jobs of one pipeline that have not ended, and those that no worker has.

    It also has the longest wait of such a job since its acceptance, in seconds.
    """

    jobs: int = 0
    waiting: int = 0
    oldest: float = 0.0


def backlog(jobs: Iterable[JobState], age: Callable[[JobState], float]) -> dict[str, Backlog]:
    """Counts unended jobs by pipeline; one without any is missing. `age`: seconds since its acceptance."""
    found: dict[str, Backlog] = {}
    for job in jobs:
        before, waits = found.get(job.pipeline, Backlog()), not job.is_held
        oldest = max(before.oldest, age(job)) if waits else before.oldest
        found[job.pipeline] = Backlog(before.jobs + 1, before.waiting + waits, oldest)
    return found
