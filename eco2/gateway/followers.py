"""Who waits for news of which job. News is not carried here: a follower that wakes looks at what is new."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from eco2.errors import OverCapacity


class StreamCounts:
    """Open event streams by job and by owner. `per_job`, `per_owner`: most of each at once; 0: any number.

    Where nobody asks who a client is, the owner is None and only jobs count: thousands of clients may share
    one address behind a mobile network's NAT or a proxy.
    """

    def __init__(self, per_job: int, per_owner: int, retry_after: float) -> None:
        self._per_job = per_job
        self._per_owner = per_owner
        self._retry_after = retry_after
        self._jobs = Counter[str]()
        self._owners = Counter[str]()

    @contextmanager
    def open(self, job_id: str, owner: str | None) -> Iterator[None]:
        """Counts a stream while the block runs. Raises `OverCapacity` if it is one too many."""
        if self._per_job and self._jobs[job_id] >= self._per_job:
            raise self._too_many(f"this job has {self._per_job} event streams open")
        if self._per_owner and owner is not None and self._owners[owner] >= self._per_owner:
            raise self._too_many(f"you have {self._per_owner} event streams open")
        counted = [(self._jobs, job_id)] + ([(self._owners, owner)] if owner is not None else [])
        for counts, key in counted:
            counts[key] += 1
        try:
            yield
        finally:
            for counts, key in counted:
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]

    def _too_many(self, what: str) -> OverCapacity:
        detail = f"{what} already; close one, or poll the result"
        return OverCapacity(detail, self._retry_after, "TOO_MANY_STREAMS")


class Followers:
    """One wake-up signal per open event stream; no task and no buffer."""

    def __init__(self) -> None:
        self._signals: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        return sum(len(signals) for signals in self._signals.values())

    @contextmanager
    def follow(self, job_id: str) -> Iterator[asyncio.Event]:
        """A signal that is set whenever there may be something new about the job; the follower clears it."""
        signal = asyncio.Event()
        self._signals.setdefault(job_id, set()).add(signal)
        try:
            yield signal
        finally:
            signals = self._signals[job_id]
            signals.discard(signal)
            if not signals:
                del self._signals[job_id]

    def wake(self, job_id: str) -> None:
        """There is something new about the job."""
        for signal in self._signals.get(job_id, ()):
            signal.set()

    def wake_all(self) -> None:
        """Something concerns everybody: the process is going to stop."""
        for signals in self._signals.values():
            for signal in signals:
                signal.set()
