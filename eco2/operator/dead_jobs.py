"""Dead letters grouped by job: a job with several letters is shown, dropped or replayed as one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from eco2.errors import DecodeError
from eco2.job import Job, decode_order, order_head
from eco2.journal.state import TRUNCATED, JobState
from eco2.operator.cost import Cost, paid, total

REASONS: Mapping[str | None, str] = {
    "rejected": "a worker rejected it; see that worker's log",
    "delivery_limit": "the broker gave it up after too many deliveries",
    "expired": "it waited in a queue for too long",
    "maxlen": "its queue was full",
    None: "the broker gives no reason",
}
"""The reasons of AMQP's `x-death` header, as texts for operators."""


class DeadMessage(Protocol):
    """A dead letter that this process holds. `queue`, `reason`, `when` (Unix seconds), `count`: of its last
    death."""

    @property
    def body(self) -> bytes: ...
    @property
    def message_id(self) -> str: ...
    @property
    def queue(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def when(self) -> float | None: ...
    @property
    def count(self) -> int: ...

    async def drop(self) -> None:
        """Deletes it, and returns when the broker has confirmed that. Raises `DeliveryLost`."""


@dataclass(frozen=True, slots=True)
class DeadJob:
    """All dead letters of one job. `order`: None if it cannot be decoded (`unreadable` is the reason).

    `id`: of a letter that names no job, its message id, or one made from its content.
    """

    id: str
    letters: tuple[DeadMessage, ...]
    order: Job | None
    unreadable: str = ""

    @property
    def pipeline(self) -> str:
        """Returns the pipeline by the order, else by the queue; "" if neither names it."""
        if self.order is not None:
            return self.order.pipeline
        queue = next((letter.queue for letter in self.letters if letter.queue), "")
        return queue.removeprefix("jobs.").partition(".")[0]

    @property
    def when(self) -> float | None:
        """Returns the time of the last death, in Unix seconds."""
        return max((letter.when for letter in self.letters if letter.when is not None), default=None)

    @property
    def reason(self) -> str:
        """Returns why the broker has the order here, as far as it states the reason."""
        reason = self.letters[-1].reason
        return REASONS.get(reason, reason or "")


def by_job(letters: Iterable[DeadMessage]) -> list[DeadJob]:
    """Groups the letters by job, in the order of each job's first letter."""
    groups: dict[str, list[DeadMessage]] = {}
    for letter in letters:
        head = order_head(letter.body)  # also of an order that this version cannot read completely
        job = head.id if head else letter.message_id or f"letter-{sha256(letter.body).hexdigest()[:12]}"
        groups.setdefault(job, []).append(letter)
    return [_dead_job(job, tuple(group)) for job, group in groups.items()]


def _dead_job(job: str, letters: tuple[DeadMessage, ...]) -> DeadJob:
    unreadable = ""
    for letter in letters:
        try:
            return DeadJob(job, letters, decode_order(letter.body))
        except DecodeError as error:
            unreadable = str(error)
    return DeadJob(job, letters, None, unreadable)


@dataclass(frozen=True, slots=True)
class DeadRow:
    """One dead job in a list. `code`, `message`: its error. `when`: Unix seconds. `stage`: the last shown.

    `status`: by the journal, `unknown` if it has no such job. `replayed`: the job that replays this one, as
    far as the view reaches back.
    """

    job: str
    pipeline: str
    status: str
    code: str
    message: str
    when: float | None
    stage: str
    cost: Cost
    letters: int
    replayed: str | None


def dead_row(dead: DeadJob, state: JobState | None, view: Iterable[JobState]) -> DeadRow:
    """Returns the row of a dead job. `state`: of the job in the journal, if any. `view`: the recent jobs."""
    error = end_error(state) if state else None
    if error is None:
        error = "", f"{dead.reason}: {dead.unreadable}" if dead.unreadable else dead.reason
    replay = successor(dead.id, view)
    return DeadRow(
        job=dead.id,
        pipeline=dead.pipeline,
        status=state.status if state else "unknown",
        code=error[0],
        message=error[1],
        when=dead.when or (state.updated_at if state else None),
        stage=last_stage(state) if state else "",
        cost=total(paid(state).values()) if state else Cost(),
        letters=len(dead.letters),
        replayed=replay.job if replay else None,
    )


def successor(job: str, view: Iterable[JobState]) -> JobState | None:
    """Returns the latest job that replays `job`."""
    return max((each for each in view if each.resumes == job), key=lambda each: each.queued_at, default=None)


def last_stage(state: JobState) -> str:
    """Returns the last stage that clients saw, and its status."""
    stages = [shown for shown in state.visible_events if shown.stage not in ("done", TRUNCATED)]
    if not stages:
        return ""
    last = stages[-1]
    return last.stage if last.seq == 0 else f"{last.stage} {last.status}"


def end_error(state: JobState) -> tuple[str, str] | None:
    """Returns code and message of the error that ended the job; the message is the one for operators."""
    error = (state.result or {}).get("error")
    if not isinstance(error, dict):
        return None
    return str(error.get("code", "")), state.cause or str(error.get("message", ""))
