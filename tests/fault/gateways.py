"""Gateways that die, between two writes or with their clients; clients who race, and who do not read."""

import asyncio
import socket
import time
from collections import Counter
from urllib.parse import urlsplit

from tests.fault.evidence import Answer, Evidence, Moment
from tests.fault.lab import Lab
from tests.fault.pipelines import FLOOD
from tests.fault.size import Size
from tests.fault.trial import Trial, trial
from tests.fault.wire import OrderWire

STALL = 30.0
"""Seconds after which a gateway cuts off a client that takes nothing."""
RESUMED = 10.0
"""Seconds in which every client of a dead gateway must be served again."""
DEAF = 20
BETWEEN = 20
"""Requests that a gateway has in hand when it dies between its two writes."""
SWEPT = 60.0 + 45.0
"""Seconds in which the sweep has ended, or started anew, what nobody sent again."""


async def killed(lab: Lab, size: Size) -> Evidence:
    """kill -9 of the gateway that all clients are connected to; they go on at the other."""
    jobs = max(1, size.clients // 5)
    size = size.lasting  # so that all clients are there before the jobs end
    async with trial(lab, size) as run:
        run.submit(jobs, followers=size.clients // jobs, first=0)
        await run.accepted(jobs)
        await run.watched(size.clients)
        lab.say(f"kill -9 of a gateway with {size.clients} clients; {run.state()}")
        run.moment = Moment(run.fleet.gateways[0].kill9(), by="clients", limit=RESUMED)
        await run.over()
        resumed = sum(follower.reconnects > 0 for follower in run.followers)
        run.check("clients had to resume", resumed >= size.clients // 2, f"{resumed} of {size.clients}")
    return run.seen()


async def between_writes(lab: Lab, size: Size) -> Evidence:
    """The gateway's work orders never leave its host; then it is killed."""
    async with trial(lab, size, wire=OrderWire) as run:
        first, second = run.fleet.gateways
        assert isinstance(first.wire, OrderWire)
        first.wire.queue = run.queue().encode()
        keys = [f"between-{number}" for number in range(BETWEEN)]
        posts = [asyncio.create_task(run.submitter.once(key, first.url)) for key in keys]
        await first.wire.kept_back.wait()
        await run.queued(keys)
        lab.say("kill -9 of the gateway between `queued` and the order")
        killed_at = first.kill9()
        first.wire.queue = None
        answers = await asyncio.gather(*posts)
        run.check("nobody got a 202", not any(answer.job for answer in answers))
        left = {str(h.queued.body.get("key")): job for job, h in run.jobs.items()}
        again = sorted(left)[::2]
        for key in again:
            answer = await run.submitter.once(key, second.url)
            run.check("the key sent again gets the same id", answer.job == left[key], f"{answer}")
            if answer.job is not None:
                run.clients.append(run.group.create_task(run.follow(answer.job, first=1)))
        await run.over()
        run.moment = Moment(killed_at, limit=SWEPT)
        rest = [job for key, job in left.items() if key not in again]
        lab.say(f"{len(again)} sent again; now for the sweep of {len(rest)}")
        ended = await run.ends(rest, within=SWEPT)
        run.check(f"what nobody sent again has an end within {SWEPT:g} s", ended, run.state())
    return run.seen()


async def killed_amid_batches(lab: Lab, size: Size) -> Evidence:
    """kill -9 of a gateway that has received one batch, and half of another, and accepts their lines."""
    each = size.jobs
    names = {"named": [f"line-{number}" for number in range(each)], "numbered": None}
    async with trial(lab, size, pipelines={"note": "tests.fault.pipelines:note"}) as run:
        rest = asyncio.Event()

        async def batch(name: str, at: int, pause: asyncio.Event | None = None) -> list[Answer]:
            return await run.submitter.batch(name, each, run.gateways[at], "note", names[name], pause)

        sending = [
            asyncio.create_task(batch("named", 0)),
            asyncio.create_task(batch("numbered", 0, rest)),
        ]
        await run.until(lambda: len(run.jobs) >= each // 2)
        lab.say(f"kill -9 of the gateway amid two batches; {run.state()}")
        run.moment = Moment(run.fleet.gateways[0].kill9())
        rest.set()  # else its client would not notice
        first = await asyncio.gather(*sending)
        answered = sum(map(len, first))
        run.check("the gateway died amid the batches", answered < 2 * each, f"{answered} answers")
        lab.say(f"{answered} of {2 * each} lines were answered; both are sent again to the other gateway")
        second = await asyncio.gather(*(batch(name, 1) for name in names))
        await run.fleet.ready()
        lab.say("and to the new gateway")
        third = await asyncio.gather(*(batch(name, 0) for name in names))
        for name, answers, again in zip(names, second, third, strict=True):
            ids = [answer.job for answer in answers]
            right = len(ids) == each and None not in ids and ids == [answer.job for answer in again]
            run.check(f"{name}: each line has an id, and the same again", right)
            for number, job in enumerate(filter(None, ids)):
                run.clients.append(run.group.create_task(run.follow(job, number, pipeline="note")))
        await run.over()
        keys = [h.queued.body.get("key") for h in run.jobs.values() if not h.superseded]
        double = [str(key) for key, count in Counter(keys).items() if count > 1]
        right = len(keys) == 2 * each and not double
        run.check("each line has one job", right, f"{len(keys)} jobs, {double[:3]}")
    return run.seen()


async def raced(lab: Lab, size: Size) -> Evidence:
    """Two gateways get the same key at the same time, again and again."""
    async with trial(lab, size) as run:
        limit = asyncio.Semaphore(10)

        async def race(number: int) -> None:
            key = f"race-{number}"
            async with limit:
                ids = await asyncio.gather(
                    *(run.submitter.until_accepted(key, gateway) for gateway in range(2))
                )
            await run.follow(ids[0], first=number)

        lab.say(f"{size.races} races")
        run.clients += [run.group.create_task(race(number)) for number in range(size.races)]
        await run.over()
        jobs = run.jobs.values()
        runs = [len(h.runs) for h in jobs if not h.superseded]
        lost = sum(h.superseded for h in jobs)
        run.check("one run for each key", runs == [1] * size.races, f"{len(runs)} jobs, runs {set(runs)}")
        lab.say(f"{lost} of {size.races} races were decided by the journal")
    return run.seen()


async def deaf_clients(lab: Lab, size: Size) -> Evidence:
    """Clients open streams of much text and read nothing, among others who do."""
    pipelines = {"scan": "eco2.stages:scan", "flood": "tests.fault.pipelines:flood"}
    async with trial(lab, size, pipelines=pipelines) as run:
        floods = [await run.submitter.until_accepted(f"flood-{n}", 0, "flood", FLOOD) for n in range(DEAF)]
        deaf = [_deaf(run, job) for job in floods]
        try:
            for job in floods:
                run.clients.append(run.group.create_task(run.follow(job, 0, 1, "flood")))
            run.submit(size.jobs, over=size.call * 5)
            await run.over()
            lab.say("waiting for the gateway to cut the deaf ones off")
            cut = await _cut_off(deaf, STALL + 20)
            run.check(f"who takes nothing for {STALL:g} s is cut off", cut == DEAF, f"{cut} of {DEAF}")
        finally:
            for each in deaf:
                each.close()
    return run.seen()


def _deaf(run: Trial, job: str) -> socket.socket:
    """A connection with the smallest of buffers that has asked for a stream and never reads."""
    at = urlsplit(run.gateways[0])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect((at.hostname, at.port))
    raw.sendall(f"GET /flood/{job}/events HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    return raw


async def _cut_off(deaf: list[socket.socket], within: float) -> int:
    """How many the gateway has cut off: their next send is answered with a reset."""
    deadline = time.monotonic() + within
    cut: set[int] = set()
    while len(cut) < len(deaf) and time.monotonic() < deadline:
        for number, raw in enumerate(deaf):
            try:
                raw.send(b"\r\n")
            except OSError:
                cut.add(number)
        await asyncio.sleep(0.5)
    return len(cut)


async def clock_behind(lab: Lab, size: Size) -> Evidence:
    """The clock of one gateway is twenty minutes behind: longer than a job lives, and than views reach."""
    async with trial(lab, size, workers=3) as run:
        lab.say("a gateway's clock goes twenty minutes behind")
        await run.fleet.gateways[0].set_clock(-1200.0)
        run.moment = Moment(time.time())
        run.submit(size.jobs, over=size.call)
        await run.over()
    return run.seen()
