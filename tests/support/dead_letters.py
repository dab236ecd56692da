"""What tests of the operator's tools are made of: letters that nobody sent, states and costs by hand."""

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from eco2.job import JSON, Job, encode_order
from eco2.journal.state import EventId, JobState, VisibleEvent
from eco2.operator.dead_jobs import DeadJob, by_job

NOW = 1_000.0
LIFE = 180.0


@dataclass
class FakeLetter:
    """A dead letter that knows whether it was dropped."""

    body: bytes
    message_id: str = ""
    queue: str | None = "jobs.ask"
    reason: str | None = "rejected"
    when: float | None = 900.0
    count: int = 1
    dropped: list[bool] = field(default_factory=list)

    async def drop(self) -> None:
        self.dropped.append(True)


def job(job_id: str = "old", **changes: Any) -> Job:
    """A job of the tests' pipeline."""
    fields: dict[str, Any] = {
        "id": job_id,
        "pipeline": "ask",
        "input": {"text": "q"},
        "accepted": 800.0,
        "max_wait": 180.0,
        "timeout": 180.0,
        "max_usd": 0.5,
        "digest": "d",
        "owner": "anna",
        "key": "k",
        "model": "large",
    }
    return Job(**fields | changes)


def dead_job(order: Job | None = None) -> DeadJob:
    """The job with one letter."""
    (dead,) = by_job([FakeLetter(encode_order(order or job()))])
    return dead


def used(usd: str | None = "0.01", calls: int = 1) -> JSON:
    """A stage's usage, as it stands in the journal."""
    return {
        "model": "large",
        "calls": calls,
        "input_tokens": 100 * calls,
        "cached_tokens": 0,
        "output_tokens": 10 * calls,
        "cost_usd": usd,
    }


def state(job_id: str = "old", **changes: Any) -> JobState:
    """A job that failed by a bug in its last stage."""
    shown = (
        VisibleEvent(EventId(1), "queued", "started", 0, 800.0, 0),
        VisibleEvent(EventId(2), "draft", "started", 10, 801.0, 0),
        VisibleEvent(EventId(3), "draft", "completed", 11, 803.0, 50),
        VisibleEvent(EventId(4), "final", "failed", 21, 805.0, 50),
        VisibleEvent(EventId(5), "done", "failed", 31, 805.5, 100),
    )
    failed = JobState(
        job=job_id,
        pipeline="ask",
        accepted=800.0,
        max_wait=180.0,
        timeout=180.0,
        digest="d",
        queued_at=1,
        updated_at=805.5,
        owner="anna",
        key="k",
        model="large",
        status="failed",
        run="r1",
        attempt=1,
        outputs={"draft": {"text": "a draft"}},
        usage={"draft": used()},
        visible_events=shown,
        result={
            "error": {"code": "INTERNAL", "message": "a bug in stage final"},
            "usage": {"draft": used(), "final": used("0.002")},
        },
        ended_at=5,
        dead=True,
    )
    return replace(failed, **changes)
