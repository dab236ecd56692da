"""Feeds the event streams of a process: wakes them when their jobs change, and keeps live text.

A wake-up carries no data: a stream that wakes reads what it lacks from the view and from `LiveTexts`. So
there is no buffer per client: a late one gets the text so far, a slow one more at once. Live text is a
courtesy, not a promise: text whose beginning was lost is not shown; the completed stage brings all of it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from eco2.delta import DELTA_TOPIC, Delta, decode_deltas
from eco2.errors import OverCapacity
from eco2.gateway.config import GatewayConfig
from eco2.gateway.sse import LiveText, is_over
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.ports import PubSub

MAX_TEXTS = 10_000
"""Texts held at once; the oldest go first. Only jobs that never end come near it."""


class LiveTexts(dict[str, LiveText]):
    """The live text of each job's running stage, as far as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def take(self, delta: Delta, state: JobState | None) -> bool:
        """Adds a piece. Returns False if it is useless: void run, ended stage, or its beginning was lost.

        `state`: the job as the journal's tail shows it. A piece may be ahead of that, or behind.
        """
        if state is None or is_over(state, delta.stage):
            return False
        live = self.get(delta.job)
        if live is not None and live.run == state.run != delta.run:
            return False
        if delta.pos == 0:
            self._number += 1
            self[delta.job] = LiveText(self._number, delta.run, delta.stage, delta.text)
            if len(self) > MAX_TEXTS:
                del self[next(iter(self))]
            return True
        if live is None or (live.run, live.stage, len(live.text)) != (delta.run, delta.stage, delta.pos):
            return False
        self[delta.job] = replace(live, text=live.text + delta.text)
        return True

    def forget(self, state: JobState) -> None:
        """Drops the job's text if its stage is over."""
        live = self.get(state.job)
        if live is not None and is_over(state, live.stage):
            del self[state.job]


class TooManyStreams(OverCapacity):
    """A job or an owner has as many open event streams as allowed."""

    code = "TOO_MANY_STREAMS"


class StreamCounts:
    """Counts open event streams. `per_job`, `per_owner`: the most of each at once; 0: any number.

    Without authentication the owner is None, and only jobs count: thousands of clients may share one address
    behind a mobile network's NAT or a proxy.
    """

    def __init__(self, per_job: int, per_owner: int, retry_after: float) -> None:
        self._per_job = per_job
        self._per_owner = per_owner
        self._retry_after = retry_after
        self._jobs = Counter[str]()
        self._owners = Counter[str]()

    @contextmanager
    def open(self, job_id: str, owner: str | None) -> Iterator[None]:
        """Counts a stream while the block runs. Raises `TooManyStreams`."""
        counted = [(self._jobs, job_id, self._per_job, f"this job has {self._per_job}")]
        if owner is not None:
            counted.append((self._owners, owner, self._per_owner, f"you have {self._per_owner}"))
        for counts, key, most, who_has in counted:
            if most and counts[key] >= most:
                detail = f"{who_has} event streams open already; close one, or poll the result"
                raise TooManyStreams(detail, self._retry_after)
        for counts, key, *_ in counted:
            counts[key] += 1
        try:
            yield
        finally:
            for counts, key, *_ in counted:
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]


class Subscribers:
    """One wake-up signal per open event stream; no task and no buffer."""

    def __init__(self) -> None:
        self._signals: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._signals.values()))

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yields a signal that is set whenever the job may have changed. The subscriber clears it."""
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
        """Sets the signals of one job."""
        for signal in self._signals.get(job_id, ()):
            signal.set()

    def wake_all(self) -> None:
        """Sets every signal."""
        for job_id in self._signals:
            self.wake(job_id)


class Hub:
    """The view, live text, and the subscribers to both. `stop`: is set when the process begins to stop."""

    def __init__(self, journal: Journal, stop: asyncio.Event, config: GatewayConfig) -> None:
        self.view = journal.view
        self.texts = LiveTexts()
        self.subscribers = Subscribers()
        self.streams = StreamCounts(config.streams_per_job, config.streams_per_owner, config.retry_after)
        self.stop = stop

    @asynccontextmanager
    async def running(self, live: PubSub) -> AsyncGenerator[None, None]:
        """Receives the view's changes and live text while the block runs; wakes every stream on `stop`."""
        self.view.observe(self._changed)
        self.view.observe_resets(self._reset)
        subscription = live.subscribe(DELTA_TOPIC, self._received)

        async def wake_on_stop() -> None:
            await self.stop.wait()
            self.subscribers.wake_all()

        async with asyncio.TaskGroup() as group:
            waker = group.create_task(wake_on_stop())
            yield
            waker.cancel()
        await subscription.cancel()

    def _changed(self, state: JobState) -> None:
        self.texts.forget(state)
        self.subscribers.wake(state.job)

    def _reset(self) -> None:
        """The journal was replaced: every stream ends, and its client gets the reason when it returns."""
        self.texts.clear()
        self.subscribers.wake_all()

    def _received(self, _: str, body: bytes) -> None:
        for delta in decode_deltas(body):
            if self.texts.take(delta, self.view.get(delta.job)):
                self.subscribers.wake(delta.job)
