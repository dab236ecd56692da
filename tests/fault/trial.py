"""One fault, from the first process to the evidence: fleet, provider, clients, recorder, and their end.

Guarantees: it ends by itself (a client waits no longer than the size's `patience`), and no process stays.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aio_pika
import httpx
from aio_pika.exceptions import ChannelNotFoundEntity

from tests.fault import fleet as fleets
from tests.fault.clients import Follower, Submitter, open_http, result
from tests.fault.evidence import Check, Evidence, Moment
from tests.fault.fleet import Fleet, Slot
from tests.fault.history import History, histories
from tests.fault.lab import Lab
from tests.fault.provider import Provider, providing
from tests.fault.recorder import Recorder
from tests.proxy import Proxy

SCAN = "eco2.stages:scan"
SETTLED = 10.0
"""Seconds in which the queues must be empty after all have stopped."""
LATE_AT_ONCE = 20
REACHED = 60.0
"""Seconds in which the situation must have come about in which a fault is made."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is. Times in seconds: `call` is the mean of one model call, `long` how long a fault
    lasts that must outlast time-outs, `patience` the longest wait of a client."""

    jobs: int
    clients: int
    call: float
    holder_timeout: float
    heartbeat: int
    long: float
    patience: float
    races: int
    publish_timeout: float = 5.0

    @property
    def env(self) -> dict[str, str]:
        return {
            "ECO2_HOLDER_TIMEOUT": f"{self.holder_timeout:g}",
            "ECO2_HEARTBEAT": str(self.heartbeat),
            "ECO2_PUBLISH_TIMEOUT": f"{self.publish_timeout:g}",
        }

    @property
    def takeover(self) -> float:
        """Seconds in which the jobs of a killed worker must go on."""
        return self.holder_timeout + 5.0


FULL = Size(
    jobs=100,
    clients=500,
    call=2.0,
    holder_timeout=15.0,
    heartbeat=10,
    long=30.0,
    patience=170.0,
    races=200,
)
FAST = Size(
    jobs=12,
    clients=24,
    call=0.4,
    holder_timeout=4.0,
    heartbeat=1,
    long=6.0,
    patience=40.0,
    races=20,
    publish_timeout=2.0,
)


@dataclass
class Trial:
    """What a fault works with. `moment`, `failures`, `dead`: see `Evidence`."""

    size: Size
    prefix: str
    url: Callable[[], str]
    fleet: Fleet
    provider: Provider
    recorder: Recorder
    http: httpx.AsyncClient
    group: asyncio.TaskGroup
    say: Callable[[str], None]
    submitter: Submitter
    pipelines: tuple[str, ...]
    moment: Moment | None = None
    failures: frozenset[str] = frozenset()
    dead: int = 0
    checks: list[Check] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    clients: list[asyncio.Task[None]] = field(default_factory=list)
    sent: int = 0
    connections: dict[str, int] = field(default_factory=dict)
    evidence: Evidence | None = None

    @property
    def gateways(self) -> list[str]:
        return [slot.url for slot in self.fleet.gateways]

    @property
    def journal(self) -> str:
        return f"{self.prefix}.events"

    @property
    def jobs(self) -> dict[str, History]:
        """What the journal says now."""
        return histories(self.recorder.facts)

    def queue(self, pipeline: str = "scan") -> str:
        return f"{self.prefix}.jobs.{pipeline}"

    def check(self, what: str, held: bool, detail: str = "") -> None:
        self.checks.append(Check(what, held, detail))

    def submit(
        self,
        count: int,
        *,
        pipeline: str = "scan",
        body: Mapping[str, object] | None = None,
        over: float = 0.0,
        followers: int = 1,
        first: int | None = None,
    ) -> None:
        """Sends `count` jobs over so many seconds; each has so many clients, who follow it to its end.

        `first`: the gateway that all of them ask first; else they take turns.
        """
        began, self.sent = self.sent, self.sent + count
        for number in range(count):
            at = began + number if first is None else first
            client = self._client(
                f"job-{began + number}", number * over / count, at, followers, pipeline, body
            )
            self.clients.append(self.group.create_task(client))

    async def _client(
        self,
        key: str,
        delay: float,
        first: int,
        followers: int,
        pipeline: str,
        body: Mapping[str, object] | None,
    ) -> None:
        await asyncio.sleep(delay)
        job = await self.submitter.until_accepted(key, first, pipeline, body)
        await self.follow(job, first, followers, pipeline)

    async def follow(self, job: str, first: int = 0, followers: int = 1, pipeline: str = "scan") -> None:
        """`followers` clients who see the job to its end."""
        several = [
            Follower(self.http, self.gateways, job, first + (0 if followers > 1 else number), pipeline)
            for number in range(followers)
        ]
        self.followers += several
        async with asyncio.TaskGroup() as group:
            for follower in several:
                group.create_task(follower.follow())

    async def accepted(self, count: int) -> None:
        """Waits until so many jobs were answered with an id."""
        await self._until(lambda: len({a.job for a in self.submitter.answers if a.job}) >= count)

    async def holding(self, slot: Slot, count: int) -> int:
        """Waits until the worker holds so many jobs, half of them in their last call; how many then."""
        name = slot.worker

        def held(since: str = "queued") -> int:
            jobs = (history for history in self.jobs.values() if since in history.stages)
            return sum(history.held_by(name, time.time()) for history in jobs)

        await self._until(lambda: held() >= count and held("answer") >= count // 2)
        return held()

    async def watched(self, count: int) -> None:
        """Waits until so many clients have their first event."""
        await self._until(lambda: sum(bool(follower.sights) for follower in self.followers) >= count)

    async def queued(self, keys: Collection[str]) -> None:
        """Waits until the journal has a job for each key."""
        await self._until(lambda: set(keys) <= {h.queued.body.get("key") for h in self.jobs.values()})

    async def ends(self, jobs: Collection[str], within: float) -> bool:
        """True once all of them have ended; False if they do not in time."""
        try:
            await self._until(
                lambda: all(job in self.jobs and self.jobs[job].end is not None for job in jobs), within
            )
        except NotReached:
            return False
        return True

    async def _until(self, wanted: Callable[[], bool], seconds: float = REACHED) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not wanted():  # noqa: ASYNC110 - what is wanted is in many places
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NotReached(f"waited in vain; {self.state()}") from None

    def state(self) -> str:
        """In a few words, for progress."""
        jobs = [history for history in self.jobs.values() if not history.superseded]
        ended = sum(history.end is not None for history in jobs)
        accepted = len({answer.job for answer in self.submitter.answers if answer.job})
        return f"accepted {accepted} · in the journal {len(jobs)} · ended {ended}"

    async def over(self, patience: float | None = None) -> None:
        """Waits until every client has seen its job end, or has lost its patience."""
        if self.clients:
            _, late = await asyncio.wait(self.clients, timeout=patience or self.size.patience)
            for client in late:
                client.cancel()
            if late:
                await asyncio.wait(late)
                self.say(f"{len(late)} clients gave up; {self.state()}")
        self.clients.clear()

    async def again(self, why: str, count: int) -> None:
        """New jobs now that the fault is over: the system serves as before."""
        self.say(f"{count} more jobs {why}")
        self.submit(count)
        await self.over()

    async def look_late(self) -> None:
        """A client that comes when all is over, at each gateway and for each job, and its result."""
        limit = asyncio.Semaphore(LATE_AT_ONCE)
        wrong: list[str] = []
        found = {job: h for job, h in self.jobs.items() if h.end is not None and not h.superseded}
        mine = {answer.job for answer in self.submitter.answers if answer.job}

        async def look(history: History, number: int) -> None:
            pipeline = str(history.queued.body["pipeline"])
            follower = Follower(self.http, self.gateways[number:], history.job, 0, pipeline, late=True)
            async with limit:
                with suppress(TimeoutError):
                    async with asyncio.timeout(20):
                        await follower.follow()
                self.followers.append(follower)
                try:
                    answer = await result(self.http, self.gateways[number], history.job, pipeline)
                except httpx.HTTPError as error:
                    wrong.append(f"{history.job}: {error!r}")
                    return
            if history.end is None or answer != (200, history.end.body["result"]):
                wrong.append(f"{history.job}: {answer[0]}")

        async with asyncio.TaskGroup() as group:
            for job in sorted(mine & found.keys()):
                for number in range(len(self.gateways)):
                    group.create_task(look(found[job], number))
        self.check("every gateway has every result", not wrong, "; ".join(wrong[:3]))

    async def waiting(self) -> dict[str, int]:
        """Messages in the work queues and among the dead letters, once they are as they should be."""
        names = [f"jobs.{name}{part}" for name in self.pipelines for part in ("", ".first")]
        dead = self.dead + sum(
            h.end is not None and h.end.body.get("dead") is True for h in self.jobs.values()
        )
        wanted = dict.fromkeys(names, 0) | {"dead": dead}
        found: dict[str, int] = {}
        deadline = time.monotonic() + SETTLED
        while time.monotonic() < deadline:
            found = await depths(self.url(), self.prefix, [*names, "dead"])
            if all(wanted[name] == count for name, count in found.items()):
                break
            await asyncio.sleep(0.2)
        return found

    async def dead_letters(self) -> list[bytes]:
        """The bodies of as many dead letters as there must be, sorted; they stay where they are."""
        deadline = time.monotonic() + SETTLED
        while time.monotonic() < deadline:
            if (await depths(self.url(), self.prefix, ["dead"])).get("dead", 0) >= self.dead:
                break
            await asyncio.sleep(0.2)
        async with await aio_pika.connect(self.url()) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(f"{self.prefix}.dead", passive=True)
            messages = [await queue.get(fail=False, no_ack=False) for _ in range(self.dead)]
            return sorted(message.body for message in messages if message is not None)

    async def watch_connections(self) -> None:
        """Notes the most that one process has, until it is cancelled."""
        while True:
            for slot in self.fleet.slots:
                self.connections[slot.role] = max(self.connections.get(slot.role, 0), slot.connections())
            await asyncio.sleep(1.0)

    async def finish(self) -> None:
        """Late clients, then the end of the fleet, then the evidence."""
        await self.over()
        self.say(f"late clients; {self.state()}")
        await self.look_late()
        await self.fleet.stop()
        self.checks.append(self.fleet.ended_well())
        async with asyncio.timeout(60):
            await self.recorder.complete()
        self.evidence = Evidence(
            facts=tuple(self.recorder.facts),
            calls=await self.provider.calls(),
            traces=tuple(follower.trace for follower in self.followers),
            answers=tuple(self.submitter.answers),
            deaths=self.fleet.deaths,
            moment=self.moment,
            connections=self.connections,
            waiting=await self.waiting(),
            failures=self.failures,
            dead=self.dead,
            checks=tuple(self.checks),
        )

    def seen(self) -> Evidence:
        """What `finish` gathered."""
        assert self.evidence is not None, "the trial was left before its end"
        return self.evidence


class NotReached(Exception):
    """The situation in which the fault is made did not come about: the run says nothing."""


async def depths(url: str, prefix: str, names: list[str]) -> dict[str, int]:
    """Messages that nobody holds, by queue; a queue that does not exist is left out."""
    found = {}
    async with await aio_pika.connect(url) as connection:
        for name in names:
            channel = await connection.channel()
            try:
                queue = await channel.declare_queue(f"{prefix}.{name}", passive=True)
            except ChannelNotFoundEntity:
                continue
            found[name] = queue.declaration_result.message_count or 0
            await channel.close()
    return found


@asynccontextmanager
async def trial(
    lab: Lab,
    size: Size,
    *,
    gateways: int = 2,
    workers: int = 2,
    wire: type[Proxy] | None = None,
    env: Mapping[str, str] | None = None,
    pipelines: Mapping[str, str] | None = None,
    url: Callable[[], str] | None = None,
) -> AsyncIterator[Trial]:
    """A fleet that is ready, and what is needed to maltreat it; the evidence is gathered on leaving.

    `pipelines`: import strings by name (default: the scan). `url`: a living node (default: the lab's).
    `wire`: what the processes reach it over.
    """
    served = {"scan": SCAN} if pipelines is None else pipelines
    prefix = f"f{uuid.uuid4().hex[:10]}"
    folder = lab.folder / prefix
    folder.mkdir(parents=True)
    lab.say(f"logs in {folder}")
    where = url or await lab.url()
    async with providing(size.call) as provider:
        settings = {
            **size.env,
            **provider.env,
            "ECO2_PREFIX": prefix,
            "ECO2_PIPELINES": ",".join(served.values()),
            "ECO2_LOG_FORMAT": "json",
            **(env or {}),
        }
        async with (
            fleets.running(folder, settings, gateways, workers, url=where, wire=wire) as fleet,
            open_http() as http,
            asyncio.TaskGroup() as group,
        ):
            urls = [slot.url for slot in fleet.gateways]
            recorder = Recorder(where, f"{prefix}.events")
            each = Trial(
                size=size,
                prefix=prefix,
                url=where,
                fleet=fleet,
                provider=provider,
                recorder=recorder,
                http=http,
                group=group,
                say=lab.say,
                submitter=Submitter(http, urls),
                pipelines=tuple(served),
            )
            background = [
                group.create_task(recorder.run()),
                group.create_task(each.watch_connections()),
            ]
            try:
                yield each
                await each.finish()
            finally:
                for task in [*background, *each.clients]:
                    task.cancel()


async def pause(seconds: float) -> None:
    """Lets time pass where the fault is a span of time; nothing is expected to have happened at its end."""
    await asyncio.sleep(seconds)
