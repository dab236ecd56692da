"""An app's conversations with a real `eco2 serve`, checked field by field; so are the committed ones."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.clients import contract
from tests.clients.exchange import Exchange
from tests.clients.record import DOCUMENT, REFUSALS, SIGHTINGS, Recording, document, read, record

FAILED = [0, 10, 11, 20, 21, 30, 31, 51]


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return asyncio.run(record())


@pytest.fixture(scope="module")
def committed() -> Recording:
    return read(DOCUMENT.read_text(encoding="utf-8"))


@pytest.fixture(params=["recorded", "committed"])
def recording(request: pytest.FixtureRequest) -> Recording:
    """The run of now, and the one in the documentation."""
    found: Recording = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("name", SIGHTINGS)
def test_a_scan_that_is_followed_and_one_whose_stream_breaks(recording: Recording, name: str) -> None:
    """POST, stream, `done`, result, 204, the same POST again; then POST, a broken stream, polling."""
    submitted, stream, result, again, repeated, other, broken, *polls = recording[name]
    seqs = FAILED if name == "failed" else contract.SEQS
    job = contract.check_accepted(submitted).job_id
    done = contract.check_stream(stream, job, seqs)[-1]
    check_outcome(name, contract.check_result(result, job))
    assert done.result == result.data
    contract.check_complete(again)
    known = contract.check_known(repeated)
    assert (known.job_id, known.status) == (job, done.status)
    second = contract.check_accepted(other).job_id
    assert second != job
    contract.check_stream(broken, second, seqs[:1])
    check_outcome(name, contract.check_polls(polls, second))


def check_outcome(name: str, result: contract.Result) -> None:
    """What each of the three scans is about."""
    if name == "failed":
        assert (result.status, result.pipeline_result, result.reward) == ("failed", None, None)
        assert result.error is not None
        return
    assert (result.status, result.error) == ("completed", None)
    assert result.pipeline_result is not None
    answer = result.pipeline_result.final_answer
    assert answer.disposal_steps
    assert (result.reward is None) == bool(answer.insufficiencies) == (name == "without a reward")
    assert set(result.usage) == {"vision", "answer"}


def test_refusals_say_what_and_why(recording: Recording) -> None:
    accepted, *refused, unknown = recording["refused"]
    contract.check_accepted(accepted)
    for exchange, (code, (status, _)) in zip(refused, REFUSALS.items(), strict=True):
        contract.check_problem(exchange, status, code)
    assert unknown.status in (404, 410)
    contract.check_problem(unknown, unknown.status, {404: "NOT_FOUND", 410: "GONE"}[unknown.status])


def test_the_documentation_shows_the_run_of_now(recorded: Recording, committed: Recording) -> None:
    """In shape. Where this fails on purpose: `python -m tests.clients.record --write`."""
    assert {name: shapes(said) for name, said in committed.items()} == {
        name: shapes(said) for name, said in recorded.items()
    }


def test_the_document_is_what_is_written_for_its_own_recording(committed: Recording) -> None:
    assert document(committed) == DOCUMENT.read_text(encoding="utf-8")


def shapes(said: list[Exchange]) -> list[object]:
    """What was asked and answered without ids, times and texts; polls that were answered alike count once."""
    found: list[object] = []
    for shape in map(shape_of, said):
        if not found or found[-1] != shape:
            found.append(shape)
    return found


def shape_of(exchange: Exchange) -> object:
    """Method and route, status, headers, and the fields of the body or the events of the stream."""
    route = re.sub(r"/[0-9a-f]{8}-[0-9a-f-]{27}", "/ID", exchange.request)
    headers = (sorted(exchange.asked), sorted(exchange.headers))
    body = sorted(set(fields(exchange.data))) if exchange.body.startswith("{") else events(exchange)
    return route, exchange.status, headers, body


def events(exchange: Exchange) -> list[str]:
    """Names of the events in order; live text in a row counts once."""
    names = [frame.name for frame in contract.frames(exchange.body)]
    return [
        name for name, before in zip(names, ["", *names], strict=False) if "." not in name or name != before
    ]


def fields(data: object, path: str = "") -> Iterator[str]:
    """The paths of all fields. What is free within the contract (rules, steps, usage) ends a path."""
    if not isinstance(data, dict) or path in ("disposal_rules", "disposal_steps", "usage"):
        yield path
        return
    for name, value in data.items():
        for inner in fields(value, name):
            yield f"{path}.{inner}"
