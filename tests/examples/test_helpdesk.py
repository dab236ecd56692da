"""Tests the example pipeline by the test kit: no broker, no key, no real time."""

import asyncio
from decimal import Decimal

from eco2.testing import Fault, Limits, RateLimited, ScriptedModel, installation, run, virtual
from tests.examples.helpdesk import Triage, helpdesk

MESSAGE = {"text": "I want my money back."}
REFUND = Triage(topic="refund", urgent=False)


def test_a_refund() -> None:
    model = ScriptedModel({"triage": REFUND, "letter": "Dear customer"}, cost=Decimal("0.01"))
    ran = run(helpdesk, MESSAGE, model)
    assert ran.status == "completed"
    assert ran.result["letter"] == "Dear customer"
    assert ran.events[1:3] == [("triage", "started"), ("triage", "completed")]
    assert ran.calls[1].text == "Topic: refund\nMessage: I want my money back."
    assert ran.cost == Decimal("0.02")


def test_faults() -> None:
    faults = (RateLimited("429", retry_after=7.0), Fault.TIMEOUT, Fault.DUPLICATE, Fault.CRASH)
    ran = run(helpdesk, MESSAGE, {"triage": REFUND, "letter": [*faults, "Dear customer"]})
    assert ran.status == "completed"
    assert [call.kind for call in ran.calls].count("triage") == 1  # its answer was recorded


@virtual
async def test_many_jobs_under_a_limit() -> None:
    model = ScriptedModel({"triage": REFUND, "letter": lambda call: call.text.upper()})
    async with installation(helpdesk, model, limits=Limits(requests=60)) as running:
        ran = await asyncio.gather(*(running.run(MESSAGE) for _ in range(40)))
    assert all(one.status == "completed" for one in ran)
