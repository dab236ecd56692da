"""How much is accepted and not ended, folded from the view: what dashboards and scalers look at. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

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
    """By pipeline; one without such jobs is missing. `age`: seconds since a job's acceptance."""
    found: dict[str, Backlog] = {}
    for job in jobs:
        if job.ended:
            continue
        before = found.get(job.pipeline, Backlog())
        after = replace(before, jobs=before.jobs + 1)
        if not job.is_held:
            oldest = max(before.oldest, age(job))
            after = replace(after, waiting=before.waiting + 1, oldest=oldest)
        found[job.pipeline] = after
    return found
