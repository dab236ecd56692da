"""The test kit: what a script says happens, the engine does the rest, and a gap in a script is an error."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
from pydantic import BaseModel

from eco2.pipeline import (
    Call,
    Context,
    Pipeline,
    Reply,
    Stage,
    ToolCall,
    Usage,
    Vectors,
    embedding,
)
from eco2.testing import (
    Fault,
    Limits,
    ProviderDown,
    RateLimited,
    Script,
    ScriptedModel,
    installation,
    run,
    virtual,
)
from tests.examples.agent import OpeningHours, agent
from tests.examples.helpdesk import Triage, helpdesk
from tests.support.engine_fixtures import single
from tests.support.world import Draft, Question

REFUND = Triage(topic="refund", urgent=False)
MESSAGE = {"text": "I want my money back."}
ANSWERS: dict[str, Script] = {"triage": REFUND, "letter": "Dear customer"}


def test_a_job_runs_to_its_result() -> None:
    ran = run(helpdesk, MESSAGE, ScriptedModel(ANSWERS, cost=Decimal("0.015")))
    assert (ran.status, ran.code, ran.result["letter"]) == ("completed", None, "Dear customer")
    assert ran.outputs["triage"] == {"topic": "refund", "urgent": False}
    assert ran.events == [
        ("queued", "started"),
        ("triage", "started"),
        ("triage", "completed"),
        ("letter", "started"),
        ("letter", "completed"),
        ("done", "completed"),
    ]
    assert [call.text for call in ran.calls] == [
        "I want my money back.",
        "Topic: refund\nMessage: I want my money back.",
    ]
    assert ran.cost == Decimal("0.03")
    assert 2 <= ran.seconds < 4


def test_a_script_may_be_a_function_of_the_call() -> None:
    def write(call: Call[object]) -> str:
        return call.text.upper()

    ran = run(helpdesk, MESSAGE, {"triage": REFUND, "letter": write})
    assert ran.result["letter"] == "TOPIC: REFUND\nMESSAGE: I WANT MY MONEY BACK."


def test_a_reply_may_ask_for_tools() -> None:
    def turn(call: Call[object]) -> Reply[str]:
        if call.messages:
            return Reply(call.messages[-1].text, "scripted", Usage())
        wanted = call.tools[0].name
        return Reply("", "scripted", Usage(), (ToolCall("1", wanted, OpeningHours(day="sunday")),))

    ran = run(agent, {"text": "Are you open?"}, {"answer": turn})
    assert ran.result["answer"] == "sunday: closed"
    assert ran.cost is None


def test_calls_may_ask_for_a_model_and_for_embeddings() -> None:
    async def ask(context: Context[Question]) -> Draft:
        vectors = await context.call(embedding(("one", "three"), "small-embedding"))
        reply = await context.call(Call("after", "", "text", str, 10, model="mini"))
        return Draft(text=f"{len(vectors.value)} {reply.value}")

    answers: dict[str, Script] = {"embedding": Vectors([(1.0,), (0.5,)]), "after": "said"}
    models, embeddings = ("scripted", "mini"), ("small-embedding",)
    ran = run(single(ask), None, answers, models=models, embeddings=embeddings)
    assert ran.outputs["draft"] == {"text": "2 said"}
    assert run(single(ask), None, answers).code == "UNSUPPORTED_MODEL"


@pytest.mark.parametrize(
    ("fault", "calls", "seconds"),
    [
        (Fault.CRASH, 3, 15),
        (Fault.TIMEOUT, 3, 60),
        (Fault.DUPLICATE, 2, 0),
        (RateLimited("429", retry_after=7.0), 3, 7),
        (ProviderDown("503"), 3, 0),
    ],
    ids=["crash", "timeout", "duplicate", "429", "503"],
)
def test_a_fault_is_survived_and_no_answer_is_paid_twice(
    fault: Fault | Exception, calls: int, seconds: float
) -> None:
    ran = run(helpdesk, MESSAGE, {"triage": REFUND, "letter": [fault, "Dear"]})
    assert (ran.status, ran.result["letter"]) == ("completed", "Dear")
    assert [call.kind for call in ran.calls] == ["triage", *["letter"] * (calls - 1)]
    assert seconds + 1 < ran.seconds < seconds + 15


def test_a_failure_shows_its_code_to_clients_and_its_cause_to_operators() -> None:
    ran = run(helpdesk, MESSAGE, {"triage": REFUND, "letter": LookupError("row 42")})
    assert (ran.status, ran.code) == ("failed", "INTERNAL")
    assert "row 42" in ran.cause
    assert "row 42" not in str(ran.result)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"letter": "Dear"}, "'triage' wants a Triage: the script has only letter"),
        ({"triage": "refund"}, "'triage' wants a Triage: its answer is a str"),
        ({"triage": REFUND, "letter": []}, "'letter' wants a str: the script has 0 answers"),
    ],
)
def test_a_gap_in_the_script_is_an_error(answers: dict[str, Script], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        run(helpdesk, MESSAGE, answers)


def test_a_pipeline_that_no_process_would_start_with_is_refused() -> None:
    with pytest.raises(ValueError, match="stages"):
        run(replace(helpdesk, stages=()), MESSAGE, {})


@virtual
async def test_jobs_share_the_limits_of_the_provider() -> None:
    model = ScriptedModel(ANSWERS)
    async with installation(helpdesk, model, limits=Limits(requests=60)) as running:
        ran = await asyncio.gather(*(running.run(MESSAGE) for _ in range(40)))
    assert {one.status for one in ran} == {"completed"}
    assert len({one.id for one in ran}) == 40
    assert max(one.seconds for one in ran) > 60


@virtual
async def test_jobs_share_the_budget_of_another_api() -> None:
    async def search(context: Context[Question]) -> Draft:
        for _ in range(40):
            async with context.reserve("search"):
                pass
        return Draft(text="found")

    budgets = {"search": Limits(requests=60)}
    async with installation(single(search), ScriptedModel(), budgets=budgets) as running:
        ran = await asyncio.gather(*(running.run(timeout=600) for _ in range(2)))
    assert {one.status for one in ran} == {"completed"}
    assert max(one.seconds for one in ran) > 60


@virtual
async def test_a_key_makes_two_requests_one_job() -> None:
    async with installation(helpdesk, ScriptedModel(ANSWERS)) as running:
        first, second = await asyncio.gather(*(running.run(MESSAGE, key="k") for _ in range(2)))
    assert (first.id, len(first.calls)) == (second.id, 2)


@virtual
async def test_a_failed_assertion_of_the_test_is_shown_as_itself() -> None:
    with pytest.raises(AssertionError, match="as expected"):
        async with installation(helpdesk, ScriptedModel()):
            raise AssertionError("as expected")


def test_resources_are_open_while_the_job_runs() -> None:
    opened: list[str] = []

    class Input(BaseModel):
        pass

    class Output(BaseModel):
        seen: list[str]

    @asynccontextmanager
    async def pool() -> AsyncIterator[list[str]]:
        opened.append("open")
        yield opened
        opened.append("closed")

    async def look(context: Context[Input, list[str]]) -> Output:
        return Output(seen=list(context.resources))

    pipeline = Pipeline("look", Input, (Stage("look", look, Output),), lambda _: {}, resources=pool)
    assert run(pipeline, None, {}).outputs["look"] == {"seen": ["open"]}
    assert opened == ["open", "closed"]


def test_the_kit_needs_no_pytest() -> None:
    code = "import sys, eco2.testing; sys.exit('pytest' in sys.modules or '_pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
