"""The journal: every durable fact about every job in one total order, and the views of it.

What it guarantees: what `append` returned from is in the log; what `find` answers is at least as new as
everything that any process had confirmed, and any client had been shown, before the call.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from eco2.event import Event, Marker, Queued
from eco2.journal.backlog import Backlog, backlog
from eco2.journal.history import History
from eco2.journal.outbox import Outbox
from eco2.journal.presence import Presence
from eco2.journal.spending import Recall
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.log import get_logger
from eco2.ports import Clock, First, Since, Stream, Subscription

DAY = 86_400.0
EMPTY = 5.0
"""Seconds for which a tail may be attached and show nothing, though the log holds the own marker."""
LOOK = 0.5
"""Seconds between two looks at a tail that shows nothing."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """How this process stands to the journal. Seconds: `lag` of its view, `unconfirmed` of what it wrote."""

    jobs: int
    lag: float
    unconfirmed: float
    skipped: int
    paused: bool
    backlog: Mapping[str, Backlog]


class Journal:
    """`keep`: seconds of event time in the view. `clock`: Unix seconds. `shows`: as of the view.

    `presence`: the other processes, if there may be any; their clocks bound ours, and `clock` is not used.
    """

    def __init__(
        self,
        stream: Stream,
        keep: float,
        clock: Clock,
        *,
        shows: bool = True,
        presence: Presence | None = None,
    ) -> None:
        if presence is None:
            self.view = View(keep, clock, shows=shows)
        else:
            clock = presence.now
            self.view = View(keep, clock, shows=shows, earliest=presence.earliest, steady=presence.steady)
        self.presence = presence
        self._stream = stream
        self._clock = clock
        self._keep = keep
        self._outbox = Outbox(stream)
        self._tail: Subscription | None = None
        self._history = History(stream, self.view)
        self._next_barrier: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self._barrier_observers: list[Callable[[float], None]] = []
        self.filled = asyncio.Event()

    def status(self) -> Status:
        """For dashboards; costs a look at every job of the view. While it is being filled it has no lag."""
        view, filled, now = self.view, self.filled.is_set(), self._clock()
        return Status(
            jobs=len(view),
            lag=view.lag(now) if filled else 0.0,
            unconfirmed=self._outbox.oldest,
            skipped=view.skipped,
            paused=view.paused is not None,
            backlog=backlog(view, view.age) if filled else {},
        )

    def observe_barriers(self, observer: Callable[[float], None]) -> None:
        """Calls `observer(seconds)` for each barrier that was passed. It must neither block nor raise."""
        self._barrier_observers.append(observer)

    async def run(self, stop: asyncio.Event) -> None:
        """Tails the journal, fills the view (then `filled` is set), sends what is put; flushes on `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outbox.run(stop))
            asking = [group.create_task(self._serve_barriers()), group.create_task(self._fill())]
            await stop.wait()
            for task in asking:
                task.cancel()  # which withdraws their markers: a dead broker must not hold up the flush
        if self._tail is not None:
            await self._tail.cancel()

    async def ready(self, stop: asyncio.Event) -> bool:
        """Waits until the view is filled; False if `stop` was set before."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.filled, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not stop.is_set()

    def put(self, *events: Event) -> asyncio.Future[None]:
        """Queues the events in order; the future is done once they are confirmed (see `Outbox.put`)."""
        return self._outbox.put(*events)

    async def announce(self, queued: Queued) -> JobState:
        """Appends the `queued` of a new job and returns its state once the own tail shows it.

        The state is `superseded` if another job holds the key. Cancelling withdraws it if it was not sent.
        """
        await self.put(queued)
        return await self.view.change(queued.job, None)

    async def barrier(self) -> None:
        """Returns once the view holds everything that was in the log when this was called."""
        if self._next_barrier is None:
            self._next_barrier = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(self._next_barrier)

    async def find(self, job_id: str) -> JobState | None:
        """The job's state, from the view or from further back; None only if there is no such job.

        Raises `Gone` if the journal no longer reaches back that far, `BrokerUnavailable`.
        """
        return await self.recent(job_id) or await self._history.find(job_id)

    async def recent(self, job_id: str) -> JobState | None:
        """The job's state, or None if it is unknown or older than the view: then not for a view that lags."""
        if self.view.get(job_id) is None:
            await self.barrier()
        return self.view.get(job_id)

    async def recall_spending(self, stop: asyncio.Event) -> None:
        """Once the view is filled, completes what was paid today; then it has nothing to do until `stop`."""
        if await self.ready(stop):
            recall = Recall(self._stream, self.view.spending, self._clock, self._keep)
            recalling = asyncio.ensure_future(recall.complete())
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({recalling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if recalling.done():
                recalling.result()
            recalling.cancel()
            await stopping

    async def _fill(self) -> None:
        """The tail begins once the log holds a marker: RabbitMQ turns a time that no record has reached yet
        into the log's end at some later moment, and what is written meanwhile would never be shown."""
        if self.presence is not None:
            await self.presence.met.wait()  # else a clock ahead would begin behind the log's end
            self.view.begin()
        marker = Marker(id=uuid.uuid4().hex, ts=self._clock())
        seen = self.view.expect(marker.id)
        await self.put(marker)
        for start in (Since(self.view.since), Since(self.view.since - DAY), First()):
            self._tail = self._stream.tail(start, self.view.apply)
            if await self._shown(self._tail, seen):
                break
            log.warning("the journal shows nothing: this machine's clock may be far ahead of the broker's")
            await self._tail.cancel()
        self.filled.set()
        log.info("journal filled", jobs=len(self.view), offset=self.view.offset)

    async def _shown(self, tail: Subscription, seen: asyncio.Event) -> bool:
        """Returns True once the own marker has come by; False if the tail begins behind it."""
        empty = 0.0
        while empty < EMPTY:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await seen.wait()
            if seen.is_set():
                return True
            empty = empty + LOOK if tail.attached and self.view.offset < 0 else 0.0
        return False

    async def _serve_barriers(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            reached, self._next_barrier = self._next_barrier, None
            marker = Marker(id=uuid.uuid4().hex, ts=self._clock())
            seen, began = self.view.expect(marker.id), time.monotonic()
            await self.put(marker)
            await seen.wait()
            for observer in self._barrier_observers:
                observer(time.monotonic() - began)
            if reached is not None:
                reached.set_result(None)
