"""The port of the Celery app in `examples/from_celery`, by the test kit: what each Celery feature became."""

import asyncio
from collections import Counter

import pytest

from eco2.pipeline import Call, Retry
from eco2.testing import (
    Fault,
    Limits,
    RateLimited,
    Script,
    ScriptedModel,
    installation,
    run,
    until,
    virtual,
)
from examples.from_celery.after import reviews
from examples.from_celery.prompts import Rating

GIVEN = {"product": "kettle", "reviews": ["leaks", "loud", "fine", "slow"]}


def read(call: Call[object]) -> Rating:
    return Rating(stars=5 if call.text == "fine" else 1, complaint=call.text)


ANSWERS: dict[str, Script] = {"rate": read, "summarise": "It leaks."}


def test_the_group_runs_side_by_side_and_the_chords_body_gets_its_results_in_order() -> None:
    model = ScriptedModel(ANSWERS)
    ran = run(reviews, GIVEN, model)
    assert (ran.status, ran.result["stars"], ran.result["summary"]) == ("completed", 2.0, "It leaks.")
    assert ran.calls[-1].text == "Product: kettle\nleaks\nloud\nfine\nslow"
    assert (model.peak, len(ran.calls)) == (4, 5)


@pytest.mark.parametrize(
    "fault", [Fault.CRASH, Fault.TIMEOUT, Fault.DUPLICATE, RateLimited("429", 3.0)], ids=str
)
def test_a_fault_in_the_group_repeats_what_was_in_flight_only(fault: Fault | Exception) -> None:
    good = Rating(stars=3, complaint="leaks")
    ran = run(reviews, GIVEN, {"rate": [good, good, fault, *[good] * 8], "summarise": "It leaks."})
    assert (ran.status, ran.result["stars"]) == ("completed", 3.0)
    asked = Counter(call.text for call in ran.calls if call.kind == "rate")
    assert asked.keys() == set(GIVEN["reviews"])
    assert max(asked.values()) <= 2


def test_a_crash_in_the_body_does_not_pay_for_the_group_again() -> None:
    ran = run(reviews, GIVEN, {"rate": read, "summarise": [Fault.CRASH, "It leaks."]})
    assert [call.kind for call in ran.calls] == [*["rate"] * 4, *["summarise"] * 2]


@virtual
async def test_the_rate_limit_is_one_for_all_jobs() -> None:
    async with installation(reviews, ScriptedModel(ANSWERS), limits=Limits(requests=60)) as running:
        ran = await asyncio.gather(*(running.run(GIVEN) for _ in range(20)))
    assert {one.status for one in ran} == {"completed"}
    assert 80 < max(one.seconds for one in ran) < 120  # 100 calls


@virtual
async def test_a_cancelled_job_breaks_its_calls_off() -> None:
    model = ScriptedModel(ANSWERS, seconds=30.0)
    async with installation(reviews, model) as running:
        job = (await running.gateway.submit(GIVEN)).job
        await until(lambda: model.in_flight == 4)
        ran = running.ran(await running.gateway.cancel(job))
        await until(lambda: model.in_flight == 0)
    assert (ran.status, ran.code, len(ran.calls)) == ("cancelled", "CANCELLED", 4)


def test_a_job_whose_provider_never_answers_ends_in_its_time() -> None:
    ran = run(reviews, GIVEN, {"rate": Fault.TIMEOUT})
    assert (ran.status, ran.code) == ("failed", "UNAVAILABLE")
    assert ran.seconds < 600 + Retry(attempts=6).total_delay
