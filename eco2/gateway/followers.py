"""Who waits for news of which job. News is not carried here: a follower that wakes looks at what is new."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


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
