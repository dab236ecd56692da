"""Messages and jobs that no worker can digest, among others that must not suffer."""

import json

from eco2.consumers.quarantine import MAX_SOLO_CRASHES, SUSPECT_AFTER
from tests.fault.evidence import Evidence
from tests.fault.lab import Lab
from tests.fault.queues import bodies
from tests.fault.recorder import publish
from tests.fault.size import Size
from tests.fault.trial import SCAN, trial

UNDECODABLE = (
    b"\xff\xfe not text",
    b"not JSON",
    b"{}",
    b'{"v": 1, "job": {}}',
    b'{"v": 99, "job": {"id": "x"}}',
    json.dumps({"v": 1, "job": {"id": 7, "pipeline": "scan"}}).encode(),
)
BUGS = 3


async def orders(lab: Lab, size: Size) -> Evidence:
    """Orders that nobody can read: they go to the dead letters, the rest goes on."""
    async with trial(lab, size) as run:
        run.dead = len(UNDECODABLE)
        run.submit(size.jobs // 2, over=size.call * 2)
        await run.accepted(1)
        lab.say(f"{len(UNDECODABLE)} undecodable orders")
        await publish(run.url(), run.queue(), *UNDECODABLE)
        await run.over()
        dead = await bodies(run.url, run.dead_queue, len(UNDECODABLE))
        run.check("each is a dead letter", dead == sorted(UNDECODABLE), f"{len(dead)}")
    return run.seen()


async def bugs(lab: Lab, size: Size) -> Evidence:
    """A handler that raises: the client knows at once, the order is a dead letter, the worker goes on."""
    pipelines = {"scan": SCAN, "bug": "tests.fault.pipelines:bug"}
    async with trial(lab, size, pipelines=pipelines) as run:
        run.failures = frozenset({"INTERNAL"})
        run.submit(size.jobs // 2, over=size.call * 2)
        run.submit(BUGS, pipeline="bug", body={"text": "x"})
        await run.over()
        codes = [h.code for h in run.jobs.values() if h.queued.body["pipeline"] == "bug"]
        run.check("a bug fails its job with INTERNAL", codes == ["INTERNAL"] * BUGS, f"{codes}")
        dead = [h.job for h in run.jobs.values() if h.dead]
        run.check("their orders are dead letters", len(dead) == BUGS, f"{len(dead)}")
        scans = {h.status for h in run.jobs.values() if h.queued.body["pipeline"] == "scan"}
        run.check("no scan suffers", scans == {"completed"}, f"{scans}")
        run.check("no worker died", not run.fleet.deaths, f"{len(run.fleet.deaths)}")
    return run.seen()


async def crashes(lab: Lab, size: Size) -> Evidence:
    """A job that kills every process that runs it, while scans are in flight beside it."""
    pipelines = {"scan": SCAN, "crash": "tests.fault.pipelines:crash"}
    async with trial(lab, size, pipelines=pipelines) as run:
        run.failures = frozenset({"POISON"})
        run.submit(size.jobs // 2, over=size.call * 5)
        run.submit(1, pipeline="crash", body={"text": "x"})
        await run.over()
        crashed = [h for h in run.jobs.values() if h.queued.body["pipeline"] == "crash"]
        codes = [h.code for h in crashed]
        dead = [h.job for h in crashed if h.dead]
        run.check("its order is a dead letter", len(dead) == 1)
        deaths = len(run.fleet.deaths)
        lab.say(f"{deaths} crashes, then {codes}")
        run.check("it ends as POISON", codes == ["POISON"], f"{codes}")
        most = SUSPECT_AFTER + MAX_SOLO_CRASHES + 1  # one may hit a worker that has said nothing yet
        run.check(f"after at most {most} crashes", deaths <= most, f"{deaths}")
        scans = {h.status for h in run.jobs.values() if h.queued.body["pipeline"] == "scan"}
        run.check("no scan fails for it", scans == {"completed"}, f"{scans}")
    return run.seen()
