"""The bug behind INTERNAL: kept for operators in one bounded, printable line, and never shown to clients."""

import json

import pytest

from eco2.commands import tables
from eco2.consumers.cause import MAX_CAUSE, cause_of
from eco2.event import Done, decode_events, encode_events
from eco2.journal.state import JobState
from eco2.operator.dead_jobs import DeadJob, dead_row
from eco2.operator.jobs import JobDetail
from eco2.pipeline import JSON, Context, Outputs, Pipeline, Stage
from eco2.testing.clock import virtual
from tests.support.world import Draft, Question, ScriptedModel, World, draft, result


def caught(message: object) -> BaseException:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_it_names_class_message_and_place() -> None:
    text = cause_of(caught("boom 42"))
    assert text.startswith("ValueError: boom 42 (consumers/test_cause.py:")
    assert text.endswith(" in caught)")


def test_the_place_is_in_the_pipelines_own_code() -> None:
    with pytest.raises(ValueError) as raised:
        json.loads("{")
    text = cause_of(raised.value)
    assert "consumers/test_cause.py" in text
    assert "decoder" not in text


@pytest.mark.parametrize(
    "message",
    ["\x1b[31mred\x1b[0m", "a\nb\r\nc", "\x00", "\ud800", "x" * 100_000, "\u202ereversed", "\x9b1m", ""],
)
def test_it_is_one_bounded_printable_line(message: str) -> None:
    text = cause_of(caught(message))
    assert len(text) <= MAX_CAUSE
    assert text.isprintable()
    assert "test_cause.py" in text
    text.encode()


def test_a_group_is_the_first_of_its_errors() -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("k")]), ValueError("v")])
    assert cause_of(group) == "KeyError: 'k'"


def test_it_goes_over_the_wire_and_is_left_out_where_there_is_none() -> None:
    done = Done(ts=1.0, job="j", run=None, status="failed", seq=1, result={}, cause="ValueError: x")
    assert decode_events(encode_events([done])) == [done]
    assert b"cause" not in encode_events([Done(ts=1.0, job="j", run=None, status="failed", seq=1, result={})])


async def ended(pipeline: Pipeline[Question]) -> JobState:
    async with World().process(ScriptedModel(), pipeline) as process:
        return await process.ended((await process.submit()).job)


async def explode(context: Context[Question]) -> Draft:
    raise ValueError("boom 42")


def broken(outputs: Outputs | None) -> JSON:
    return {"x": 1 // 0}


@virtual
@pytest.mark.parametrize(
    ("pipeline", "cause"),
    [
        (
            Pipeline("ask", Question, (Stage("draft", explode, Draft),), result),
            "ValueError: boom 42 (consumers/test_cause",
        ),
        (Pipeline("ask", Question, (Stage("draft", draft, Draft),), broken), "ZeroDivisionError: "),
        (
            Pipeline("ask", Question, (Stage("draft", draft, Question),), result),
            "TypeError: stage draft must return",
        ),
    ],
)
async def test_operators_see_it_and_clients_do_not(
    pipeline: Pipeline[Question], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = await ended(pipeline)
    assert cause in state.cause
    shown = repr((state.result, state.visible_events))
    assert "the service failed to process this job: send it again later" in shown
    assert [word for word in ("worker", "log", "bug", "stage ") if word in shown] == []
    assert cause[:10] not in shown
    assert "test_cause" not in shown
    out = tables.console()
    dead = dead_row(DeadJob(state.job, (), None), state, [])
    out.print(tables.dead_table([dead]))
    assert cause[:10] in capsys.readouterr().out
    tables.print_letters(dead, [], {}, out)
    assert cause[:10] in capsys.readouterr().out
    tables.print_detail(JobDetail(state, (), (), "nobody"), out)
    assert cause[:10] in capsys.readouterr().out
    assert cause in str(dead.message)
    assert cause in str(JobDetail(state, (), (), "nobody").document()["cause"])
