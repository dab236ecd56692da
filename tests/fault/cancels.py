"""Jobs are cancelled in every state while the worker that has them dies, and then the gateway that was asked.

Calls wait for a true limit here, so that a reservation that is lost would be missed.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

import httpx

from tests.fault.clients import cancel
from tests.fault.evidence import JSON, Evidence, Moment
from tests.fault.fleet import Slot
from tests.fault.lab import Lab
from tests.fault.late import is_result
from tests.fault.size import Size
from tests.fault.trial import SCAN, Trial, trial
from tests.fault.verdict import ON_THE_WAY

PUT_OFF = 60.0
"""Seconds for which the stage of `later` fails."""
STATES = ("queued", "waiting for a grant", "in a call", "put off")
RESERVED = re.compile(r"^eco2_quota_reserved\{.*\} (\S+)$", re.MULTILINE)
WAITING = re.compile(r"^eco2_quota_waiting\{.*\} (\S+)$", re.MULTILINE)

Answer = tuple[int, JSON]


async def killed(lab: Lab, size: Size) -> Evidence:
    """kill -9 of a worker, then of a gateway, each in the middle of cancelling."""
    size = replace(size.lasting, patience=size.patience + PUT_OFF)
    few, rpm = size.jobs // 20 or 1, round(6 * size.jobs / size.call)
    share = str(size.jobs // 4)
    async with trial(
        lab,
        size,
        rpm=rpm,
        env={"ECO2_PREFETCH": share, "ECO2_CONCURRENCY": share},
        pipelines={"scan": SCAN, "later": "tests.fault.pipelines:later"},
    ) as run:
        answers = dict[str, Answer]()
        run.submit(4 * few, pipeline="later", body={"until": time.time() + PUT_OFF})
        run.submit(size.jobs)
        while min(map(len, (found := await states(run)).values())) < few:  # noqa: ASYNC110 - in processes
            await asyncio.sleep(0.2)

        victim = run.fleet.workers[0]
        name = victim.worker
        chosen = [job for jobs in found.values() for job in jobs[: len(jobs) // 3 or 1]]
        lab.say(f"{counts(found)}; cancelling {len(chosen)}, and kill -9 of a worker meanwhile")
        cancelling = [asyncio.create_task(_cancel(run, job, number)) for number, job in enumerate(chosen)]
        await asyncio.wait(cancelling, return_when=asyncio.FIRST_COMPLETED)
        run.moment = Moment(victim.kill9(), worker=name)
        answers |= dict(await asyncio.gather(*cancelling))

        held = [job for job, h in run.jobs.items() if h.end is None and h.held_by(name, time.time())]
        run.check("jobs are cancelled that a dead worker holds", len(held) >= 2, f"{len(held)}")
        lab.say(f"cancelling half of {len(held)} that the dead one holds, and another one has on standby")
        answers |= dict(await asyncio.gather(*(_cancel(run, job, 0) for job in held[::2])))

        found = await states(run)
        chosen = [job for jobs in found.values() for job in jobs[: len(jobs) // 2]]
        lab.say(f"{counts(found)}; cancelling {len(chosen)}, and kill -9 of the gateway meanwhile")
        answers |= await _with_gateway_killed(run, chosen)

        await run.over()
        await run.again("after that", few)
        await _judge(run, answers)
    return run.seen()


async def states(run: Trial) -> dict[str, list[str]]:
    """The jobs that have not ended, by their state."""
    calling = await run.provider.in_flight()
    found = defaultdict[str, list[str]](list, {state: [] for state in STATES})
    for job, history in run.jobs.items():
        last = history.runs[-1] if history.runs else None
        if history.end is not None:
            continue
        if last is not None and last.until is None:
            found["in a call" if job in calling else "waiting for a grant"].append(job)
        elif history.facts[-1].type == "released" and history.facts[-1].body.get("retry"):
            found["put off"].append(job)
        else:
            found["queued"].append(job)
    return found


def counts(found: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(jobs)} {state}" for state, jobs in found.items())


async def _cancel(run: Trial, job: str, first: int) -> tuple[str, Answer]:
    pipeline = str(run.jobs[job].queued.body["pipeline"])
    return job, await cancel(run.http, run.gateways, job, pipeline, first)


async def _with_gateway_killed(run: Trial, jobs: Collection[str]) -> dict[str, Answer]:
    """Cancels them at a gateway that dies with its first answer; the clients go on at the other one."""
    gateway = run.fleet.gateways[0]
    cancelling = [asyncio.create_task(_cancel(run, job, 0)) for job in jobs]
    await asyncio.wait(cancelling, return_when=asyncio.FIRST_COMPLETED)
    gateway.kill9()
    answered = sum(task.done() for task in cancelling)
    answers = dict(await asyncio.gather(*cancelling))
    run.say(f"{answered} of {len(jobs)} were answered by the gateway that died")
    return answers


async def _judge(run: Trial, answers: dict[str, Answer]) -> None:
    """All have ended: asks again at every gateway, and looks at what was paid and what is still reserved."""
    await run.fleet.ready()
    jobs, wrong = run.jobs, list[str]()
    for job, answer in answers.items():
        end = jobs[job].end
        assert end is not None
        cancelled = end.body["status"] == "cancelled"
        right = answer[0] == 200 and is_result(answer[1], end) if cancelled else answer[0] == 409
        for gateway in range(len(run.gateways)):
            right &= (await _cancel(run, job, gateway))[1] == answer
        if not right:
            wrong.append(f"{job} {end.body['status']}: {answer}")
    run.check("each answer is the job's end, however often it is asked", not wrong, "; ".join(wrong[:3]))

    ends = {job: h.end for job, h in jobs.items() if h.end and h.status == "cancelled"}
    run.check("nobody else is cancelled", ends.keys() <= answers.keys())
    run.check("most are cancelled", 2 * len(ends) >= len(answers), f"{len(ends)} of {len(answers)}")
    late = [
        f"{call.job} {call.at - ends[call.job].at:.1f} s later"
        for call in await run.provider.calls()
        if call.paid and call.job in ends and call.at > ends[call.job].at + ON_THE_WAY
    ]
    run.check("nothing is paid for a job after its cancellation", not late, "; ".join(late[:3]))

    reserved = [await _reserved(run.http, slot) for slot in run.fleet.workers]
    run.check("nothing is reserved any more", not any(map(sum, reserved)), f"{reserved}")
    refused, _ = await run.provider.minute()
    run.check("no call meets a 429", refused == 0, f"{refused} did")
    run.say(f"{len(ends)} of {len(answers)} are cancelled, the others had ended")


async def _reserved(http: httpx.AsyncClient, worker: Slot) -> list[float]:
    """What the calls of a worker hold of the budget, and the requests that wait if it leads."""
    page = (await http.get(worker.metrics_url)).text
    return [float(number) for what in (RESERVED, WAITING) for number in what.findall(page)]
