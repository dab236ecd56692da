"""What clients depend on, message by message: strict models, and checks of an app's whole conversation.

Written from the contract with the app, not from the program. Nothing is optional unless the contract says so,
and a field that it does not name is a finding; what we add on purpose is marked.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tests.clients.exchange import Exchange

ORIGIN = "https://app.example"
STAGES = ("vision", "rule", "answer", "reward")
SEQS = [0, 10, 11, 20, 21, 30, 31, 40, 41, 51]

Stage = Literal["queued", "vision", "rule", "answer", "reward", "done"]
Status = Literal["completed", "failed", "cancelled"]
Progress = Literal[0, 25, 50, 75, 100]


class Strict(BaseModel):
    """Every field must be there, with exactly its type, and no other."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Accepted(Strict):
    job_id: str
    status: Literal["queued"]
    stream_url: str
    result_url: str


class Known(Strict):
    """The answer where the key named a job that was accepted before: `status` is that job's."""

    job_id: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    stream_url: str
    result_url: str


class Processing(Strict):
    status: Literal["processing"]
    message: str = Field(min_length=1)
    current_stage: Stage
    progress: Progress


class Problem(Strict):
    detail: str = Field(min_length=1)
    code: str
    supported_models: list[str] = []  # of UNSUPPORTED_MODEL alone


class Classification(Strict):
    major_category: Literal[
        "재활용폐기물",
        "일반종량제폐기물",
        "음식물류폐기물",
        "대형폐기물",
        "불연성종량제폐기물",
        "공사장생활폐기물",
        "생활계유해폐기물",
        "미분류",
    ]
    middle_category: str
    minor_category: str = Field(min_length=1)


class Meta(Strict):
    user_input: str
    model: str  # ours, beyond the contract: which model looked


class ClassificationResult(Strict):
    classification: Classification
    situation_tags: list[str]
    meta: Meta


class FinalAnswer(Strict):
    """The app shows each member of `disposal_steps` as "name: text"."""

    disposal_steps: dict[str, str]
    insufficiencies: list[str]
    user_answer: str = Field(min_length=1)


class PipelineResult(Strict):
    classification_result: ClassificationResult
    disposal_rules: dict[str, Any] | None
    final_answer: FinalAnswer


class Reward(Strict):
    name: str
    dialog: str
    match_reason: str
    type: str


class Error(Strict):
    code: str
    message: str


class Result(Strict):
    task_id: str
    status: Status
    message: str = Field(min_length=1)
    pipeline_result: PipelineResult | None
    reward: Reward | None
    error: Error | None
    usage: dict[Literal["vision", "rule", "answer", "reward"], dict[str, Any]]


class EventData(Strict):
    """`result` is left out, never null, where an event has none."""

    job_id: str
    stage: Stage
    status: Literal["started", "completed", "failed", "cancelled"]
    seq: int
    ts: float
    progress: Progress
    result: dict[str, Any] = {}


class Delta(Strict):
    text: str


@dataclass(frozen=True)
class Frame:
    """A server-sent event as it stands on the wire."""

    name: str
    id: str | None
    data: str


def check_accepted(exchange: Exchange) -> Accepted:
    """POST: the answer's fields, and that its URLs are relative and lie below what was asked."""
    _check_json(exchange, 202)
    accepted = Accepted.model_validate_json(exchange.body)
    _check_urls(exchange, accepted)
    return accepted


def check_known(exchange: Exchange) -> Known:
    """POST again, with the same key and body."""
    _check_json(exchange, 200)
    known = Known.model_validate_json(exchange.body)
    _check_urls(exchange, known)
    return known


def check_problem(exchange: Exchange, status: int, code: str) -> None:
    """A refusal."""
    _check_json(exchange, status)
    problem = Problem.model_validate_json(exchange.body)
    assert problem.code == code
    assert bool(problem.supported_models) == (code == "UNSUPPORTED_MODEL")
    assert all(model in problem.detail for model in problem.supported_models)


def check_result(exchange: Exchange, job: str) -> Result:
    """GET …/result of a job that has ended: what belongs together is there, or null, together."""
    _check_json(exchange, 200)
    result = Result.model_validate_json(exchange.body)
    assert result.task_id == job
    completed = result.status == "completed"
    assert (result.pipeline_result is not None, result.error is None) == (completed, completed)
    assert completed or result.reward is None
    return result


def check_polls(polls: Sequence[Exchange], job: str) -> Result:
    """GET …/result again and again: 202 with a pause in whole seconds and progress that grows, then 200."""
    *waiting, last = polls
    assert waiting
    progress = [0]
    for poll in waiting:
        _check_json(poll, 202)
        assert re.fullmatch(r"[1-9]\d*", poll.headers["retry-after"])
        progress.append(Processing.model_validate_json(poll.body).progress)
    assert progress == sorted(progress)
    return check_result(last, job)


def check_complete(exchange: Exchange) -> None:
    """A stream that is asked for with the id of `done`: there is nothing more, so do not come back."""
    assert (exchange.status, exchange.body) == (204, "")


def check_stream(exchange: Exchange, job: str, seqs: Sequence[int]) -> list[EventData]:
    """GET …/events: headers, opening, frames; the durable events are those of `seqs`. Returns those."""
    assert exchange.status == 200
    _check_stream_headers(exchange)
    assert re.match(r":[^\n]*\nretry: \d+\nevent: ", exchange.body)
    found = frames(exchange.body)
    durable = [EventData.model_validate_json(frame.data) for frame in found if frame.id is not None]
    names = [frame.name for frame in found if frame.id is not None]
    assert [event.stage for event in durable] == names
    assert [event.seq for event in durable] == list(seqs)
    assert {event.job_id for event in durable} == {job}
    assert len({frame.id for frame in found} - {None}) == len(durable)
    times = [event.ts for event in durable]
    assert times == sorted(times)
    for event in durable:
        _check_event(event)
    _check_live(found)
    return durable


def frames(body: str) -> list[Frame]:
    """The events of a stream. Every line must be a field that the contract knows, or a comment.

    Every blank line ends an event: some clients deliver an empty message where there is none.
    """
    found = []
    *blocks, end = body.split("\n\n")
    assert all(line.startswith((":", "retry: ")) for line in end.splitlines()), end
    for block in blocks:
        lines = [line for line in block.split("\n") if line and not line.startswith((":", "retry: "))]
        fields = dict(line.split(": ", 1) for line in lines)
        assert list(fields) in (["event", "data", "id"], ["event", "data"]), block
        found.append(Frame(fields["event"], fields.get("id"), fields["data"]))
    return found


def _check_urls(exchange: Exchange, job: Accepted | Known) -> None:
    root = f"{exchange.request.removeprefix('POST ')}/{job.job_id}"
    assert (job.stream_url, job.result_url) == (f"{root}/events", f"{root}/result")


def _check_event(event: EventData) -> None:
    if event.stage == "queued":
        assert (event.seq, event.status, event.progress) == (0, "started", 0)
    elif event.stage == "done":
        assert (event.seq, event.progress) == (51, 100)
        assert Result.model_validate(event.result).status == event.status
    else:
        place = STAGES.index(event.stage) + 1
        assert event.seq == 10 * place + (event.status != "started")
        assert event.progress == 25 * (place if event.status == "completed" else place - 1)
    if event.status == "failed" and event.stage != "done":
        Error.model_validate(event.result)


def _check_live(found: Sequence[Frame]) -> None:
    """Live text stands between the start and the end of `answer`, and is the beginning of what it says."""
    live = [index for index, frame in enumerate(found) if frame.id is None]
    assert {found[index].name for index in live} <= {"answer.delta"}
    text = "".join(Delta.model_validate_json(found[index].data).text for index in live)
    answers = [index for index, frame in enumerate(found) if frame.name == "answer"]
    assert all(answers[0] < index < answers[-1] for index in live)
    done = json.loads(found[-1].data)
    if done["stage"] == "done" and (outcome := done["result"]["pipeline_result"]):
        assert outcome["final_answer"]["user_answer"].startswith(text.strip())


def _check_json(exchange: Exchange, status: int) -> None:
    assert exchange.status == status
    assert exchange.headers["content-type"] == "application/json"
    _check_cors(exchange)


def _check_stream_headers(exchange: Exchange) -> None:
    assert exchange.headers["content-type"] == "text/event-stream"
    assert exchange.headers["cache-control"] == "no-cache"
    assert exchange.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in exchange.headers
    _check_cors(exchange)


def _check_cors(exchange: Exchange) -> None:
    """The exact origin, so that credentials may be sent; a cache must keep origins apart."""
    assert exchange.headers["access-control-allow-origin"] == ORIGIN == exchange.asked["origin"]
    assert exchange.headers["access-control-allow-credentials"] == "true"
    assert "origin" in exchange.headers["vary"].lower()
