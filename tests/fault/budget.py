"""The leader of the budget stands still, or is cut off, while calls wait and its grants are on their way.

The provider's limit is a true one here. None of what the leader decided alone may count: no minute at the
provider exceeds the limit, and no call is sent by a grant that reached the journal too late.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.fault.evidence import Death, Evidence, Moment
from tests.fault.fleet import Slot
from tests.fault.lab import Lab
from tests.fault.recorder import BudgetRecord
from tests.fault.size import Size
from tests.fault.trial import Trial, trial
from tests.support.proxy import Proxy

WORKERS = 3
LEADS = 'eco2_quota_leader{provider="openai"} 1.0'
HELD_BACK = 1.0
"""Seconds for which a leader decides, and nothing that it sends arrives, before it is frozen."""
TAKEOVER = 10.0
"""Seconds in which another process must lead. It does so 1.5 to 2 s after the leader's last word; a leader
that hears nothing goes on for 2.5 s; the rest is for a machine on which all of this runs."""
LASTING = "60"
"""Seconds: with such a heartbeat the broker keeps a frozen process's connections, and takes what it sent."""


@dataclass(frozen=True, slots=True)
class Granting:
    """A trial in which calls wait, and the worker that grants them in epoch `epoch`."""

    run: Trial
    leader: Slot
    wire: Proxy
    epoch: int
    rpm: int


async def leader_frozen(lab: Lab, size: Size) -> Evidence:
    """SIGSTOP of the leader with grants on their way, SIGCONT later: it wakes up believing that it leads."""
    async with _granting(lab, size, {"ECO2_HEARTBEAT": LASTING}) as here:
        here.wire.stall()
        await asyncio.sleep(HELD_BACK)
        lab.say(f"SIGSTOP of the leader for {size.long:g} s; {here.run.state()}")
        death = here.leader.freeze()
        here.run.moment = Moment(death.at, worker=death.worker)
        await asyncio.sleep(size.long)
        lab.say("SIGCONT; what it had sent arrives")
        here.leader.thaw()
        here.wire.flow()
        await _judge(here)
    return here.run.seen()


async def leader_partitioned(lab: Lab, size: Size) -> Evidence:
    """No connection of the leader carries anything for a while, and it gets no new one."""
    async with _granting(lab, size, {}) as here:
        lab.say(f"the leader is cut off for {size.long:g} s; {here.run.state()}")
        death = Death(here.leader.worker, time.time())
        here.leader.deaths.append(death)  # silent for as long as a dead one
        here.run.moment = Moment(death.at, worker=death.worker)
        here.wire.refusing = True
        here.wire.stall()
        await asyncio.sleep(size.long)
        lab.say("it is back; what it had sent arrives")
        here.wire.refusing = False
        here.wire.flow()
        await _judge(here)
    return here.run.seen()


@asynccontextmanager
async def _granting(lab: Lab, size: Size, env: dict[str, str]) -> AsyncIterator[Granting]:
    """Calls for a minute, of which some have been granted, and who grants them."""
    rpm = max(120, 3 * size.jobs)
    async with trial(lab, size, workers=WORKERS, wire=Proxy, env=env, rpm=rpm) as run:
        run.submit(size.jobs * 3 // 2, over=size.call / 2)
        async with asyncio.timeout(60):
            await run.recorder.until(lambda: _granted(run) >= size.jobs // 2)
            leader = await _leader(run)
        assert leader.wire is not None
        epoch = max(record.epoch for record in run.recorder.budget)
        yield Granting(run, leader, leader.wire, epoch, rpm)


def _granted(run: Trial) -> int:
    return sum(len(record.calls) for record in run.recorder.budget if record.type == "granted")


async def _leader(run: Trial) -> Slot:
    """The worker whose metrics say that it grants."""
    while True:
        for slot in run.fleet.workers:
            try:
                if LEADS in (await run.http.get(slot.metrics_url)).text:
                    return slot
            except httpx.HTTPError:
                continue
        await asyncio.sleep(0.1)


async def _judge(here: Granting) -> None:
    """Waits for the end of all jobs, and for some more, and checks the budget."""
    run, moment = here.run, here.run.moment
    assert moment is not None
    await run.over()
    await run.again("with all three workers", 4)
    records = run.recorder.budget
    after = [record for record in records if record.epoch > here.epoch]
    waited = after[0].at - moment.at if after else float("inf")
    run.check(f"another process leads within {TAKEOVER:g} s", waited <= TAKEOVER, f"{waited:.1f} s")
    late, used = used_late(records)
    run.say(f"led again after {waited:.1f} s; {len(late)} calls were granted too late")
    run.check("no call is sent by a grant that came too late", not used, ", ".join(sorted(used)[:3]))
    refused, fullest = await run.provider.minute()
    run.check("no call meets a 429", refused == 0, f"{refused} did")
    run.check("no minute exceeds the limit", fullest <= here.rpm, f"{fullest} of {here.rpm} requests")


def used_late(records: list[BudgetRecord]) -> tuple[set[str], set[str]]:
    """The calls that were granted behind a record of a later epoch; and those of them that were sent by that.

    Sent was a call that the provider counted although no other grant names it.
    """
    newest, late, valid, counted = -1, set[str](), set[str](), set[str]()
    for record in records:
        if record.type == "granted":
            (late if record.epoch < newest else valid).update(record.calls)
        elif record.type == "call_counted":
            counted.update(record.calls)
        newest = max(newest, record.epoch)
    return late, (late & counted) - valid
