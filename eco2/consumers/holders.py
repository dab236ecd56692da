"""Who holds a job? Asked and answered by live messages, so that it costs nothing while nobody wonders.

A job whose run belongs to another process waits for that process: it may have lost nothing but its
connection, and what it has paid for must not be paid again. Only silence ends the wait. Guarantees: a holder
that answers is never called silent; neither is one that could not be heard, because we were cut off or stood
still.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from eco2.consumers.running import Running
from eco2.ports import Broker, Live

Kind = TypeVar("Kind")

ASK_TOPIC = "holder.ask"
SAY_TOPIC = "holder.say"
ASKS = 8
"""Times that a holder is asked before its silence counts."""


class Ask(msgspec.Struct, frozen=True):
    """Jobs that somebody waits for."""

    jobs: list[str]


class Say(msgspec.Struct, frozen=True):
    """Jobs that a process has in hand, each with its run; an empty one where it only keeps a delivery."""

    jobs: dict[str, str]


@dataclass(slots=True, eq=False)
class _Watch:
    """`run`: whose answer counts; None: anyone's who has the job. `since`: silent from then on."""

    job: str
    run: str | None
    on_silence: Callable[[], None]
    since: float | None = None


class Holders:
    """`timeout`: seconds of silence after which a holder counts as gone."""

    def __init__(self, broker: Broker, running: Running, timeout: float) -> None:
        self._broker = broker
        self._running = running
        self._timeout = timeout
        self._watches: set[_Watch] = set()
        self._wanted = asyncio.Event()

    @contextmanager
    def watch(self, job: str, run: str | None, on_silence: Callable[[], None]) -> Iterator[None]:
        """Inside, `on_silence()` is called once nobody has said for the time-out that they have the job.

        `run`: only the process at work on this run counts; None: any that has an order of the job.
        """
        watch = _Watch(job, run, on_silence)
        self._watches.add(watch)
        self._wanted.set()
        try:
            yield
        finally:
            self._watches.discard(watch)

    async def run(self, stop: asyncio.Event) -> None:
        """Answers the questions of others and asks ours, until `stop` is set."""
        listening = [
            self._broker.listen(ASK_TOPIC, self._answer),
            self._broker.listen(SAY_TOPIC, self._heard),
        ]
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask(lambda: all(each.attached for each in listening)))
            await stop.wait()
            asking.cancel()
        for each in listening:
            await each.cancel()

    async def _ask(self, hearing: Callable[[], bool]) -> None:
        loop, pause = asyncio.get_running_loop(), self._timeout / ASKS
        last = loop.time()
        while True:
            await self._wanted.wait()
            now = loop.time()
            connected = hearing() and self._broker.ready and self._broker.blocked is None
            if not connected or now - last > 2 * pause + 1:
                self._begin_anew()  # nobody could have been heard
            last = now
            self._look(now)
            if not self._watches:
                self._wanted.clear()
            await asyncio.sleep(pause)

    def _begin_anew(self) -> None:
        for watch in self._watches:
            watch.since = None

    def _look(self, now: float) -> None:
        """Calls out the silent, and asks for the others."""
        for watch in tuple(self._watches):
            if watch.since is None:
                watch.since = now
            elif now - watch.since >= self._timeout:
                self._watches.discard(watch)
                watch.on_silence()
        if self._watches:
            jobs = sorted({watch.job for watch in self._watches})
            self._broker.cast(ASK_TOPIC, msgspec.json.encode(Ask(jobs)))

    def _answer(self, _: str, body: bytes) -> None:
        asked = _decode(body, Ask)
        if asked is None:
            return
        ours = {
            run.job.id: run.id if run.opened else ""
            for job in asked.jobs
            if (run := self._running.get(job)) is not None
        }
        if ours:
            self._broker.cast(SAY_TOPIC, msgspec.json.encode(Say(ours)))

    def _heard(self, _: str, body: bytes) -> None:
        said = _decode(body, Say)
        if said is None:
            return
        now = asyncio.get_running_loop().time()
        for watch in self._watches:
            run = said.jobs.get(watch.job)
            if run is not None and watch.run in (None, run):
                watch.since = now


async def asked(broker: Live, job: str, seconds: float) -> str | None:
    """Asks as somebody who has no job: the run of the process that is at work on `job`; "" if some process
    only keeps an order of it; None if nobody has said a word within `seconds`."""
    heard: set[str] = set()
    at_work = asyncio.Event()

    def hear(_: str, body: bytes) -> None:
        said = _decode(body, Say)
        if said is not None and job in said.jobs:
            heard.add(said.jobs[job])
            if said.jobs[job]:
                at_work.set()

    listening = broker.listen(SAY_TOPIC, hear)
    try:
        async with asyncio.timeout(seconds):
            while not at_work.is_set():
                broker.cast(ASK_TOPIC, msgspec.json.encode(Ask([job])))
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds / ASKS):
                        await at_work.wait()
    except TimeoutError:
        pass  # who has not answered by now is silent
    finally:
        await listening.cancel()
    return max(heard, default=None)


def _decode(body: bytes, kind: type[Kind]) -> Kind | None:
    """The message, or None for what this version cannot read: nothing depends on a single one."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
