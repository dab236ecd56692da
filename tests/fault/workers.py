"""Workers that die, stand still, are replaced; and the one that leads the sweep."""

import asyncio
import time
from dataclasses import replace

from eco2.job import new_id
from tests.fault.evidence import Evidence, Moment
from tests.fault.lab import Lab
from tests.fault.pipelines import BRANCHES, TURNS
from tests.fault.recorder import append
from tests.fault.size import Size
from tests.fault.trial import Trial, trial

AHEAD = 600.0
"""Seconds by which a wrong clock is ahead."""
KILLS = 20
TAKEOVER = 4.0
"""Seconds of silence after which a worker's job is taken over where that must happen twenty times."""
ORPHANS = 5
SWEPT = 30.0
"""Seconds behind its deadline in which a job that nobody runs must have its end."""


async def killed(lab: Lab, size: Size) -> Evidence:
    """kill -9 with half of the jobs in flight at the victim."""
    size = size.lasting
    async with trial(lab, size) as run:
        run.submit(size.jobs * 3 // 2, over=size.call / 2)
        victim = run.fleet.workers[0]
        held = await run.holding(victim, size.jobs // 2)
        lab.say(f"kill -9 of a worker with {held} jobs")
        name = victim.worker
        run.moment = Moment(victim.kill9(), worker=name, limit=size.takeover)
        await run.over()
    return run.seen()


async def killed_amid_calls(lab: Lab, size: Size) -> Evidence:
    """kill -9 in a stage of twenty calls when half of them are done: the others are made, no more."""
    async with trial(lab, size, pipelines={"turns": "tests.fault.pipelines:turns"}) as run:
        run.submit(size.jobs // 10 or 1, pipeline="turns", body={"text": "x"})
        victim = await run.recorded(TURNS // 2)
        lab.say(f"kill -9 of a worker; {run.state()}")
        name = victim.worker
        run.moment = Moment(victim.kill9(), worker=name, limit=size.takeover)
        await run.over()
        done = [history for history in run.jobs.values() if history.status == "completed"]
        recorded = [history.recorded for history in done]
        run.check("every call is recorded", recorded == [TURNS] * len(done), f"{recorded}")
    return run.seen()


async def killed_amid_branches(lab: Lab, size: Size) -> Evidence:
    """kill -9 of each worker that a job of two hundred branches comes to, once it has recorded a call."""
    size = replace(size, holder_timeout=min(size.holder_timeout, TAKEOVER))
    pipelines, env = {"fan": "tests.fault.pipelines:fan"}, {"ECO2_TIMEOUT": "1200"}
    async with trial(lab, size, pipelines=pipelines, env=env) as run:
        run.submit(1, pipeline="fan", body={"text": "x"})
        recorded = 0
        for kill in range(KILLS):
            victim = await run.got_on()
            recorded = max(job.recorded for job in run.jobs.values())
            lab.say(f"kill -9 number {kill + 1} with {recorded} of {BRANCHES} calls recorded")
            name = victim.worker
            run.moment = Moment(victim.kill9(), worker=name, limit=size.takeover)
            await victim.up()
        run.check("every kill came before the end", recorded < BRANCHES, f"{recorded} recorded")
        await run.over()
        (job,) = run.jobs.values()
        run.check("every call is recorded", job.recorded == BRANCHES, f"{job.recorded}")
        run.check("every kill ended a run", len(job.runs) > KILLS, f"{len(job.runs)} runs")
        run.check("the job completes", job.status == "completed", f"{job.status} {job.code}")
    return run.seen()


async def frozen(lab: Lab, size: Size) -> Evidence:
    """SIGSTOP for a while, then SIGCONT: its connections stay open, and it wakes up believing in its runs."""
    size = size.lasting
    async with trial(lab, size) as run:
        run.submit(size.jobs * 3 // 2, over=size.call / 2)
        victim = run.fleet.workers[0]
        held = await run.holding(victim, size.jobs // 2)
        lab.say(f"SIGSTOP of a worker with {held} jobs for {size.long:g} s")
        death = victim.freeze()
        # The broker hands its orders on when it has missed the frozen one's heartbeats.
        heard = max(size.long, 3.0 * size.heartbeat)
        run.moment = Moment(death.at, worker=death.worker, limit=heard + size.takeover)
        await asyncio.sleep(size.long)
        lab.say("SIGCONT")
        victim.thaw()
        await run.over()
        await run.again("after SIGCONT", 4)
    return run.seen()


async def rolling(lab: Lab, size: Size) -> Evidence:
    """Workers are replaced one after the other, as by a deploy, while jobs come in."""
    async with trial(lab, size, workers=size.workers) as run:
        run.submit(size.jobs, over=size.call * 5 * size.workers)
        await run.holding(run.fleet.workers[0], 2)
        began = time.time()
        for worker in run.fleet.workers:
            lab.say(f"SIGTERM {worker.name}; {run.state()}")
            await worker.replace()
        run.moment = Moment(began)
        await run.over()
    return run.seen()


async def leader_killed(lab: Lab, size: Size) -> Evidence:
    """kill -9 of the leader; what nobody runs must still be ended, by its successor."""
    size = size.lasting
    async with trial(lab, size, workers=3) as run:
        run.submit(size.jobs, over=size.call / 2)
        leader = min(run.fleet.workers, key=lambda slot: slot.worker)
        held = await run.holding(leader, size.jobs // 4)
        lab.say(f"kill -9 of the leader with {held} jobs")
        name = leader.worker
        run.moment = Moment(leader.kill9(away=True), worker=name, limit=size.takeover)
        orphans = await abandon(run, ORPHANS, life=5.0)
        await swept(run, orphans, within=5.0 + SWEPT)
        leader.back()
        await run.over()
    return run.seen()


async def clock_ahead(lab: Lab, size: Size) -> Evidence:
    """The clock of the worker that leads the sweep is ten minutes ahead of all others."""
    async with trial(lab, size, workers=3) as run:
        wrong, *right = run.fleet.workers
        lab.say("a worker's clock goes ten minutes ahead")
        await wrong.set_clock(AHEAD)
        for worker in right:
            await worker.replace()  # so that the wrong one has the lowest name, and leads
        run.moment = Moment(time.time())
        run.submit(size.jobs, over=size.call)
        await run.over()
    return run.seen()


async def abandon(run: Trial, count: int, life: float) -> list[str]:
    """Jobs that have a `queued` and no order, as a gateway leaves them that dies between the two writes."""
    now = time.time()
    events: list[dict[str, object]] = [
        {
            "type": "queued",
            "ts": now,
            "job": new_id(now),
            "pipeline": "scan",
            "deadline": now + life,
            "digest": "0" * 64,
        }
        for _ in range(count)
    ]
    await append(run.url(), run.journal, *events)
    return [str(event["job"]) for event in events]


async def swept(run: Trial, orphans: list[str], within: float) -> None:
    """Each of them must end as failed, with EXPIRED."""
    await run.ends(orphans, within)
    jobs = run.jobs
    codes = [jobs[job].code if job in jobs else None for job in orphans]
    run.check(
        f"jobs that nobody runs end as failed within {within:g} s",
        codes == ["EXPIRED"] * len(orphans),
        f"codes {codes}",
    )
