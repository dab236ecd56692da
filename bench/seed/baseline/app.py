"""The chain: a task per stage, each with a separate queue, and the events that show a scan's progress.

The photo is sent only to `vision`. State is passed along the chain as JSON, so no result backend is needed.
Every stage sends `scan-stage` when it starts and when it has completed, and the last one `done` with the
result.

    celery -A bench.seed.baseline.app worker -P gevent -c 100
"""

import os
import time
from typing import Any

from celery import Celery, Task, chain
from pydantic import BaseModel

from bench.seed.baseline import model
from eco2.pipeline import Outputs
from eco2.stages import answer, reward, rule, scan, vision
from eco2.stages.language import language_of
from eco2.stages.request import ScanInput

STAGES = ("vision", "rule", "answer", "reward")
EVENT = "scan-stage"
LIVE = os.environ.get("BENCH_LIVE") == "1"
TOGETHER = 0.1
"""Seconds of live text that are one event."""
PREFIX = os.environ.get("BENCH_PREFIX", "bench")

JSON = dict[str, Any]

app = Celery("baseline", broker=os.environ.get("BENCH_AMQP_URL", "amqp://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_routes={f"scan.{stage}": {"queue": f"{PREFIX}.{stage}"} for stage in STAGES},
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    event_queue_prefix=f"{PREFIX}.events",
    worker_hijack_root_logger=False,
)


@app.task(bind=True, name="scan.vision")
def look(task: Task, job: str, request: JSON) -> JSON:
    """Classifies the photo."""
    _started(task, job, "vision")
    asked = ScanInput.model_validate(request)
    try:
        sight = model.ask(vision.vision_call(asked), job)
    except model.Unfit as unfit:
        first = vision.Unfit(text=unfit.text, problem=unfit.problem, model=model.MODEL)
        sight = model.ask(vision.repair_call(asked, first), job)
    seen = vision.settle(sight, model.MODEL, asked.user_input)
    return _completed(task, job, "vision", {"job": job, "seen": _dump(seen)})


@app.task(bind=True, name="scan.rule")
def choose(task: Task, state: JSON) -> JSON:
    """Selects the rules that apply."""
    _started(task, state["job"], "rule")
    seen = vision.Seen.model_validate(state["seen"])
    rules = rule.apply_rules(seen.middle, seen.name, seen.tags, language_of(seen.question))
    return _completed(task, state["job"], "rule", state | {"rules": _dump(rules)})


@app.task(bind=True, name="scan.answer")
def say(task: Task, state: JSON) -> JSON:
    """Writes the user's answer; without a rule the fixed reply, and no call."""
    _started(task, state["job"], "answer")
    seen, rules = vision.Seen.model_validate(state["seen"]), rule.Rules.model_validate(state["rules"])
    if rules.found:
        request = ScanInput(image_url="", user_input=seen.question)
        call = answer.answer_call(request, seen, rules)
        if LIVE:
            with _Live(task, state["job"]) as live:
                text = model.ask(call, state["job"], live.add).strip()
        else:
            text = model.ask(call, state["job"]).strip()
    else:
        text = answer.NO_RULE.in_language(rules.language)
    return _completed(task, state["job"], "answer", state | {"text": text})


@app.task(bind=True, name="scan.reward")
def give(task: Task, state: JSON) -> None:
    """Computes the reward, and ends the scan."""
    _started(task, state["job"], "reward")
    seen, rules = vision.Seen.model_validate(state["seen"]), rule.Rules.model_validate(state["rules"])
    won = reward.character_won(seen, rules.language) if reward.earned(seen, rules) else None
    _completed(task, state["job"], "reward", {})
    outputs = Outputs((seen, rules, answer.Answer(text=state["text"]), reward.Reward(won=won)))
    result = {"status": "completed", **scan.result_json(outputs)}
    task.send_event(EVENT, job=state["job"], stage="done", status="completed", result=result)


@app.task(bind=True, name="scan.failed", ignore_result=True)
def fail(task: Task, request: Any, error: object, _trace: object, job: str) -> None:  # noqa: ARG001
    """Ends a scan that did not succeed."""
    result = {"status": "failed", "error": str(error)}
    task.send_event(EVENT, job=job, stage="done", status="failed", result=result)


def publish(job: str, request: JSON) -> None:
    """Sends a scan to the workers; the first task has the scan's id, and so has every event of the chain."""
    steps = chain(look.s(job, request).set(task_id=job), choose.s(), say.s(), give.s())
    steps.on_error(fail.s(job)).apply_async()


class _Live:
    """Shows an answer as it is written: the text of a tenth of a second at once, as eco2 does."""

    def __init__(self, task: Task, job: str) -> None:
        self._task = task
        self._job = job
        self._pieces = list[str]()
        self._sent = 0.0

    def __enter__(self) -> "_Live":
        return self

    def __exit__(self, *_: object) -> None:
        self._send()

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        if time.monotonic() - self._sent > TOGETHER:
            self._send()

    def _send(self) -> None:
        if self._pieces:
            self._task.send_event(EVENT, job=self._job, stage="answer.delta", text="".join(self._pieces))
        self._pieces, self._sent = [], time.monotonic()


def _started(task: Task, job: str, stage: str) -> None:
    task.send_event(EVENT, job=job, stage=stage, status="started")


def _completed(task: Task, job: str, stage: str, state: JSON) -> JSON:
    task.send_event(EVENT, job=job, stage=stage, status="completed")
    return state


def _dump(value: BaseModel) -> JSON:
    return value.model_dump(mode="json")
