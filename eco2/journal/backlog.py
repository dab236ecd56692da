"""How much is accepted and not ended, folded from the view: what dashboards and scalers look at. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from eco2.job import Priority
from eco2.journal.state import JobState


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts the jobs of one pipeline that have not ended, and those that no worker has.

    `oldest`: by priority, the longest wait of such a job since its acceptance, in seconds.
    """

    jobs: int = 0
    waiting: int = 0
    oldest: Mapping[Priority, float] = field(default_factory=dict)


def backlog(jobs: Iterable[JobState], age: Callable[[JobState], float]) -> dict[str, Backlog]:
    """Counts unended jobs by pipeline; one without any is missing. `age`: seconds since its acceptance."""
    found: dict[str, Backlog] = {}
    for job in jobs:
        before, waits = found.get(job.pipeline, Backlog()), not job.is_held
        oldest = before.oldest
        if waits and (longest := age(job)) > oldest.get(job.priority, 0.0):
            oldest = {**oldest, job.priority: longest}
        found[job.pipeline] = Backlog(before.jobs + 1, before.waiting + waits, oldest)
    return found
