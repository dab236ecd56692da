"""The model's provider fails: errors, limits, answers that stall or break off, an empty account."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace

from eco2.stages.request import MAX_QUESTION
from tests.fault.clients import photo
from tests.fault.evidence import Evidence, Moment
from tests.fault.lab import Lab
from tests.fault.size import Size
from tests.fault.trial import trial

CALL_TIMEOUT = "6"
"""Seconds after which a worker gives a stalled call up; short, so that the run is."""
TOKENS_EACH = 20_000
"""Of one scan with such a question, at the most: two calls of up to 9,500."""


async def down(lab: Lab, size: Size) -> Evidence:
    """503 to everything for a while: nobody fails, the work goes on when it is over."""
    return await _spell(lab, size, {"action": "status", "status": 503})


async def storm(lab: Lab, size: Size) -> Evidence:
    """Half of all calls are refused with 429 and a second to wait."""
    return await _spell(lab, size, {"action": "rate_limit", "retry_after": 1.0, "probability": 0.5})


async def _spell(lab: Lab, size: Size, fault: Mapping[str, object]) -> Evidence:
    """The fault from a moment with calls in flight on, for `size.long` seconds, while jobs come in."""
    async with trial(lab, size) as run:
        run.submit(size.jobs, over=size.long / 2)
        await run.accepted(size.jobs // 4)
        lab.say(f"{fault} for {size.long:g} s")
        await run.provider.faults(fault)
        await asyncio.sleep(size.long)
        await run.provider.faults()
        run.moment = Moment(time.time(), limit=120.0)
        lab.say(f"the provider works again; {run.state()}")
        await run.over()
    return run.seen()


async def broken_answers(lab: Lab, size: Size) -> Evidence:
    """Some answers stall in the middle, break off, or end in a reset: paid, and of no use."""
    env = {"ECO2_CALL_TIMEOUT": CALL_TIMEOUT}
    size = replace(size, call=size.call / 4)  # so that one slow call in 10^8 meets that time-out, not in 10^5
    async with trial(lab, size, env=env) as run:
        await run.provider.faults(
            {"action": "stall", "kind": "answer", "after_chunks": 3, "every": 20},
            {"action": "cut", "kind": "answer", "every": 13},
            {"action": "disconnect", "kind": "answer", "every": 17},
            {"action": "stall", "kind": "vision", "every": 23},
            {"action": "cut", "kind": "vision", "every": 19},
        )
        run.submit(size.jobs, over=size.call * 5)
        await run.over()
        struck = sum(call.fault is not None for call in await run.provider.calls())
        run.check("answers were broken", struck >= size.jobs // 10, f"{struck}")
    return run.seen()


async def rare_script(lab: Lab, size: Size) -> Evidence:
    """The longest questions in the dearest scripts, as many as a minute of the true limit holds: no 429."""
    dice, jobs = random.Random(1), min(size.jobs, 60)
    scripts = ((0x12000, 0x12399), (0x01, 0x1B), (0xD700, 0xD7A3))
    async with trial(lab, size, tpm=jobs * TOKENS_EACH) as run:
        for first, last in scripts:
            question = "".join(chr(dice.randint(first, last)) for _ in range(MAX_QUESTION))
            run.submit(jobs // len(scripts), body={"image_url": photo(), "user_input": question})
        await run.over()
        refused = sum(not call.paid for call in await run.provider.calls())
        run.check("no call met a limit", refused == 0, f"{refused} of {2 * jobs} calls")
    return run.seen()


async def no_quota(lab: Lab, size: Size) -> Evidence:
    """The account is empty for a while: jobs fail or wait, and when it is filled the work goes on."""
    async with trial(lab, size) as run:
        run.failures = frozenset(
            {"PROVIDER_REFUSED", "EXPIRED", "TIMEOUT", "UNAVAILABLE", "INSUFFICIENT_QUOTA"}
        )
        run.submit(size.jobs, over=size.long / 2)
        await run.accepted(size.jobs // 4)
        lab.say(f"insufficient_quota for {size.long:g} s")
        await run.provider.faults({"action": "quota"})
        await asyncio.sleep(size.long)
        before = await run.provider.calls()
        await run.provider.faults()
        lab.say(f"the account is filled; {run.state()}")
        tried = sum(not call.paid for call in before)
        run.check("an empty account is not asked again and again", tried <= 2 * size.jobs, f"{tried} calls")
        await run.over()
        await run.again("after that", 4)
        late = [h.status for h in sorted(run.jobs.values(), key=lambda h: h.queued.offset)[-4:]]
        run.check("jobs that come afterwards complete", late == ["completed"] * 4, f"{late}")
    return run.seen()
