"""One fault, from the first process to the evidence: fleet, provider, clients, recorder, and their end.

Guarantees: it ends by itself (a client waits no longer than the size's `patience`), and no process stays.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.fault import fleet as fleets
from tests.fault import late
from tests.fault.clients import Follower, Submitter, open_http
from tests.fault.evidence import Check, Evidence, Moment
from tests.fault.fleet import Fleet, Slot
from tests.fault.history import History, histories
from tests.fault.lab import Lab
from tests.fault.provider import Provider, providing
from tests.fault.queues import settled
from tests.fault.recorder import Recorder
from tests.fault.size import Size
from tests.support.proxy import Proxy

SCAN = "eco2.stages:scan"
NO_LIMITS = {
    "ECO2_RPM": "100000",
    "ECO2_TPM": "1000000000",
    "ECO2_PREFETCH": "200",
    "ECO2_CONCURRENCY": "200",
}
"""The provider has no limits here either: what waits, waits for the fault and not for a budget."""
REACHED = 60.0
"""Seconds in which the situation must have come about in which a fault is made."""


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
    background: list[asyncio.Task[None]] = field(default_factory=list)
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

    @property
    def dead_queue(self) -> str:
        return f"{self.prefix}.dead"

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
        await self.until(lambda: len({a.job for a in self.submitter.answers if a.job}) >= count)

    async def holding(self, slot: Slot, count: int) -> int:
        """Waits until the worker holds so many jobs, half of them in their last call; how many then."""
        name = slot.worker

        def held(since: str = "queued") -> int:
            jobs = (history for history in self.jobs.values() if since in history.stages)
            return sum(history.held_by(name, time.time()) for history in jobs)

        await self.until(lambda: held() >= count and held("answer") >= count // 2)
        return held()

    async def recorded(self, count: int) -> Slot:
        """Waits until some job has recorded so many calls; the worker that holds it then."""
        found: list[Slot] = []

        def reached() -> bool:
            jobs, now = [job for job in self.jobs.values() if job.recorded >= count], time.time()
            workers = self.fleet.workers
            found.extend(slot for slot in workers for job in jobs if job.held_by(slot.worker, now))
            return bool(found)

        await self.until(reached)
        return found[0]

    async def got_on(self) -> Slot:
        """Waits until the current run of some job has recorded a call; the worker that holds it then."""
        found: list[Slot] = []

        def reached() -> bool:
            held = [job.runs[-1] for job in self.jobs.values() if job.runs and job.runs[-1].until is None]
            paid = {fact.body["run"] for fact in self.recorder.facts if fact.type == "call_completed"}
            working = [each for each in held if each.id in paid]
            found.extend(slot for slot in self.fleet.workers for each in working if each.by(slot.worker))
            return bool(found)

        await self.until(reached, self.size.patience)  # two processes' starts and a takeover lie before
        return found[0]

    async def watched(self, count: int) -> None:
        """Waits until so many clients have their first event."""
        await self.until(lambda: sum(bool(follower.sights) for follower in self.followers) >= count)

    async def queued(self, keys: Collection[str]) -> None:
        """Waits until the journal has a job for each key."""
        await self.until(lambda: set(keys) <= {h.queued.body.get("key") for h in self.jobs.values()})

    async def ends(self, jobs: Collection[str], within: float) -> bool:
        """True once all of them have ended; False if they do not in time."""
        try:
            await self.until(
                lambda: all(job in self.jobs and self.jobs[job].end is not None for job in jobs), within
            )
        except NotReached:
            return False
        return True

    async def until(self, wanted: Callable[[], bool], seconds: float = REACHED) -> None:
        """Waits until `wanted()`. Raises `NotReached`."""
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

    async def over(self) -> None:
        """Waits until each client has seen its job end or given up, and the recorder has read as much."""
        if self.clients:
            _, waiting = await asyncio.wait(self.clients, timeout=self.size.patience)
            for client in waiting:
                client.cancel()
            if waiting:
                await asyncio.wait(waiting)
                self.say(f"{len(waiting)} clients gave up; {self.state()}")
            async with asyncio.timeout(60):
                await self.recorder.complete()
        self.clients.clear()

    async def again(self, why: str, count: int) -> None:
        """New jobs now that the fault is over: the system serves as before."""
        self.say(f"{count} more jobs {why}")
        self.submit(count)
        await self.over()

    async def forget(self) -> None:
        """What was accepted so far is lost with the journal: from here on only what comes later is judged."""
        for client in self.clients:
            client.cancel()
        if self.clients:
            await asyncio.wait(self.clients)
        for kept in (self.clients, self.followers, self.submitter.answers):
            kept.clear()
        self.recorder = Recorder(self.url, self.journal)
        self.background.append(self.group.create_task(self.recorder.run()))

    async def look_late(self) -> None:
        """A client that comes when all is over, at each gateway and for each job, and its result."""
        mine = {answer.job for answer in self.submitter.answers if answer.job}
        ended = [history for job, history in self.jobs.items() if job in mine and history.end is not None]
        followers, wrong = await late.look(self.http, self.gateways, ended)
        self.followers += followers
        self.check("every gateway has every result", not wrong, "; ".join(wrong[:3]))

    async def waiting(self) -> dict[str, int]:
        """Messages in the work queues and among the dead letters, once they are as they should be."""
        dead = self.dead + sum(history.dead for history in self.jobs.values())
        work = [f"{self.queue(name)}{part}" for name in self.pipelines for part in ("", ".first")]
        found = await settled(self.url, dict.fromkeys(work, 0) | {self.dead_queue: dead})
        return {name.removeprefix(f"{self.prefix}."): count for name, count in found.items()}

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
    tpm: int | None = None,
    rpm: int | None = None,
) -> AsyncIterator[Trial]:
    """A fleet that is ready, and what is needed to maltreat it; the evidence is gathered on leaving.

    `pipelines`: import strings by name (default: the scan). `url`: a living node (default: the lab's).
    `wire`: what the processes reach it over. `tpm`, `rpm`: the provider's true limits of tokens and
    requests a minute.
    """
    served = {"scan": SCAN} if pipelines is None else pipelines
    prefix = f"f{uuid.uuid4().hex[:10]}"
    folder = lab.folder / prefix
    folder.mkdir(parents=True)
    lab.say(f"logs in {folder}")
    where = url or await lab.url()
    async with providing(size.call, tpm, rpm) as provider:
        settings = {
            **size.env,
            **provider.env,
            **NO_LIMITS,
            "ECO2_PREFIX": prefix,
            "ECO2_PIPELINES": ",".join(served.values()),
            "ECO2_LOG_FORMAT": "json",
            **({} if tpm is None else {"ECO2_TPM": str(tpm)}),
            **({} if rpm is None else {"ECO2_RPM": str(rpm)}),
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
            each.background = [
                group.create_task(recorder.run()),
                group.create_task(each.watch_connections()),
            ]
            try:
                yield each
                await each.finish()
            finally:
                for task in [*each.background, *each.clients]:
                    task.cancel()
