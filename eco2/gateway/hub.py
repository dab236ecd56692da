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

from eco2.delta import DELTA_TOPIC, Branches, Live, decode_deltas
from eco2.errors import OverCapacity
from eco2.gateway.config import GatewayConfig
from eco2.gateway.sse import LiveStage, LiveText, is_over
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.ports import PubSub

MAX_TEXTS = 10_000
"""Texts held at once; those of the oldest jobs go first. Jobs with hundreds of branches may come near it."""


class LiveTexts(dict[str, LiveStage]):
    """The live text and branches of each job's running stage, as far as they have come."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._texts = 0

    def take(self, piece: Live, state: JobState | None) -> bool:
        """Adds a piece. Returns False if it is useless: void run, ended stage, or its beginning was lost.

        `state`: the job as the journal's tail shows it. A piece may be ahead of that, or behind.
        """
        if state is None or is_over(state, piece.stage):
            return False
        live = self.get(piece.job)
        if live is not None and live.run == state.run != piece.run:
            return False
        if live is None or (live.run, live.stage) != (piece.run, piece.stage):
            live = LiveStage(piece.run, piece.stage)
        if isinstance(piece, Branches):
            self._put(piece.job, replace(live, branches=(piece.done, piece.total)))
            return True
        text = live.texts.get(piece.call)
        if piece.pos == 0:
            self._number += 1
            text = LiveText(self._number, piece.text)
        elif text is not None and len(text.text) == piece.pos:
            text = replace(text, text=text.text + piece.text)
        else:
            return False
        self._put(piece.job, replace(live, texts={**live.texts, piece.call: text}))
        return True

    def forget(self, state: JobState) -> None:
        """Drops what was live of the job if its stage is over."""
        live = self.get(state.job)
        if live is not None and is_over(state, live.stage):
            self._drop(state.job)

    def clear(self) -> None:
        """Drops all."""
        super().clear()
        self._texts = 0

    def _put(self, job: str, live: LiveStage) -> None:
        before = self.get(job)
        self._texts += max(1, len(live.texts)) - (max(1, len(before.texts)) if before else 0)
        self[job] = live
        while self._texts > MAX_TEXTS:
            self._drop(next(iter(self)))

    def _drop(self, job: str) -> None:
        self._texts -= max(1, len(self.pop(job).texts))


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
        """Counts a stream while the block runs. Raises `OverCapacity` if it is one too many."""
        counted = [(self._jobs, job_id, self._per_job, f"this job has {self._per_job}")]
        if owner is not None:
            counted.append((self._owners, owner, self._per_owner, f"you have {self._per_owner}"))
        for counts, key, most, who_has in counted:
            if most and counts[key] >= most:
                detail = f"{who_has} event streams open already; close one, or poll the result"
                raise OverCapacity(detail, self._retry_after, "TOO_MANY_STREAMS")
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
        for piece in decode_deltas(body):
            if self.texts.take(piece, self.view.get(piece.job)):
                self.subscribers.wake(piece.job)
