"""Finds out by live messages whether the process that holds a job is alive.

A job whose run belongs to another process waits for that process: it may have lost nothing but its
connection, and its paid calls must not be paid again. Only silence ends the wait: many queries in a row
without a reply. Guarantees: a holder that replies never counts as silent, and no holder does while this
process was cut off or stood still.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from eco2.consumers.run import ActiveJobs
from eco2.ports import Broker, PubSub

Kind = TypeVar("Kind")
Result = TypeVar("Result")

QUERY_TOPIC = "holder.ask"
REPLY_TOPIC = "holder.say"
QUERIES_PER_TIMEOUT = 8
"""Queries to a holder before its silence counts."""
MAX_DELAY = 1.0
"""Seconds by which a query may be late; after more this process stood still, and replies wait to be read."""


class HolderQuery(msgspec.Struct, frozen=True):
    """Asks which processes have these jobs."""

    jobs: list[str]


class HolderReply(msgspec.Struct, frozen=True):
    """Names the jobs of a process, each with its run; an empty run where it only keeps a delivery."""

    jobs: dict[str, str]


@dataclass(slots=True, eq=False)
class _Watch:
    """`run`: only a reply of this run counts; None: of any process with the job. `due`: the next query.

    `unanswered`: queries since the last reply.
    """

    job: str
    run: str | None
    on_silence: Callable[[], None]
    timeout: float
    due: float
    unanswered: int = 0


class HolderMonitor:
    """One per process. `timeout`: seconds of silence after which a holder counts as gone, at most."""

    def __init__(self, broker: Broker, jobs: ActiveJobs, timeout: float) -> None:
        self._broker = broker
        self._jobs = jobs
        self._timeout = timeout
        self._watches: set[_Watch] = set()
        self._wanted = asyncio.Event()
        self._reconnects, self._cut_off_at = 0, -math.inf

    @contextmanager
    def watch(
        self, job: str, run: str | None, on_silence: Callable[[], None], timeout: float | None = None
    ) -> Iterator[None]:
        """Calls `on_silence()` in the block once no process has replied for the time-out that it has the job.

        `run`: only the process at work on this run counts; None: any that has a delivery of the job.
        `timeout`: in seconds; it may be shorter than that of the process, and is not while connections that
        were lost may be opened again.
        """
        timeout = min(self._timeout, timeout or self._timeout)
        pause, now = timeout / QUERIES_PER_TIMEOUT, asyncio.get_running_loop().time()
        watch = _Watch(job, run, on_silence, timeout, (now // pause + 1) * pause)  # to share a message
        self._watches.add(watch)
        self._wanted.set()
        try:
            yield
        finally:
            self._watches.discard(watch)

    async def while_alive(
        self, job: str, run: str | None, work: Awaitable[Result], timeout: float | None = None
    ) -> Result:
        """Awaits `work` and returns its result. Raises TimeoutError once the holder of `run` is silent.

        `timeout`: see `watch`.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as silence:
            with self.watch(job, run, lambda: silence.reschedule(loop.time()), timeout):
                return await work

    async def run(self, stop: asyncio.Event) -> None:
        """Answers the queries of others and sends ours, until `stop` is set."""
        subscriptions = [
            self._broker.subscribe(QUERY_TOPIC, self._on_query),
            self._broker.subscribe(REPLY_TOPIC, self._on_reply),
        ]
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(
                self._send_queries(lambda: all(each.attached for each in subscriptions))
            )
            await stop.wait()
            sending.cancel()
        for each in subscriptions:
            await each.cancel()

    async def _send_queries(self, attached: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            hears = attached() and self._broker.ready and self._broker.blocked is None
            if (reconnects := sum(link.reconnects for link in self._broker.links)) != self._reconnects:
                self._reconnects, self._cut_off_at, hears = reconnects, now, False
            if not hears:
                for watch in self._watches:
                    watch.unanswered = 0
            if jobs := self._due(now, hears):
                self._broker.broadcast(QUERY_TOPIC, msgspec.json.encode(HolderQuery(sorted(jobs))))
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min((watch.due for watch in self._watches), default=now + 1)):
                    await self._wanted.wait()

    def _due(self, now: float, hears: bool) -> set[str]:
        """Returns the jobs to be asked for now; tells those whose holder is silent. `hears`: replies come."""
        jobs: set[str] = set()
        # Where this process was cut off, others may have been, and may return.
        others_may_return = now - self._cut_off_at < self._timeout
        for watch in [watch for watch in self._watches if watch.due <= now]:
            heard = hears and now - watch.due <= MAX_DELAY
            watch.unanswered = watch.unanswered + 1 if heard else 0
            if watch.unanswered > QUERIES_PER_TIMEOUT:
                self._watches.discard(watch)
                watch.on_silence()
                continue
            jobs.add(watch.job)
            pause = (self._timeout if others_may_return else watch.timeout) / QUERIES_PER_TIMEOUT
            watch.due = max(watch.due + pause, now + pause / 2)
        return jobs

    def _on_query(self, _: str, body: bytes) -> None:
        query = decode(body, HolderQuery)
        if query is None:
            return
        ours = {
            name: job.run.id if job.run else ""
            for name in query.jobs
            if (job := self._jobs.get(name)) is not None
        }
        if ours:
            self._broker.broadcast(REPLY_TOPIC, msgspec.json.encode(HolderReply(ours)))

    def _on_reply(self, _: str, body: bytes) -> None:
        reply = decode(body, HolderReply)
        if reply is None:
            return
        for watch in self._watches:
            run = reply.jobs.get(watch.job)
            if run is not None and watch.run in (None, run):
                watch.unanswered = 0


async def query_holder(broker: PubSub, job: str, seconds: float) -> str | None:
    """Returns the run of the process that is at work on `job`, asked from outside of the workers.

    "" if a process only keeps a delivery of it; None if there was no reply within `seconds`.
    """
    runs: set[str] = set()
    at_work = asyncio.Event()

    def on_reply(_: str, body: bytes) -> None:
        reply = decode(body, HolderReply)
        if reply is not None and job in reply.jobs:
            runs.add(reply.jobs[job])
            if reply.jobs[job]:
                at_work.set()

    subscriptions = broker.subscribe(REPLY_TOPIC, on_reply)
    try:
        async with asyncio.timeout(seconds):
            while not at_work.is_set():
                broker.broadcast(QUERY_TOPIC, msgspec.json.encode(HolderQuery([job])))
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds / QUERIES_PER_TIMEOUT):
                        await at_work.wait()
    except TimeoutError:
        pass  # no reply by now is silence
    finally:
        await subscriptions.cancel()
    return max(runs, default=None)


def decode(body: bytes, kind: type[Kind]) -> Kind | None:
    """Returns None for what this version cannot read: nothing depends on a single message."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
