"""The events of a stage as a recorder writes them."""

from collections.abc import Iterator
from itertools import count
from typing import Any, cast

import pytest

from eco2.consumers.progress import Progress
from eco2.consumers.recorder import StageRecorder
from eco2.consumers.run import ActiveJob, Run
from eco2.consumers.scope import CancelScope
from eco2.errors import PermanentError
from eco2.event import StageChanged
from eco2.job import Job
from eco2.pipeline import Context, Outputs
from tests.support.engine_fixtures import single
from tests.support.world import Draft, Question, order


class Written(ActiveJob):
    """A job whose events are kept here."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, single(_run), cast(Any, None), cast(Any, None))
        self.events: list[StageChanged] = []

    def write(self, *events: Any) -> None:
        self.events += events


async def _run(_: Context[Question]) -> Draft:
    return Draft(text="a")


def recorder_of(job: Written) -> StageRecorder:
    ticks: Iterator[int] = count()  # a clock that never shows one time twice
    run = Run("run", job.order, CancelScope(100), 0, 1, False, 0.0)
    progress = Progress(Question(text="q"), Outputs(), {})
    return StageRecorder(
        job, run, job.pipeline.stages[0], progress, cast(Any, None), lambda: float(next(ticks))
    )


@pytest.mark.parametrize("shown_before", [False, True])
@pytest.mark.parametrize("ends", ["completed", "failed"])
async def test_a_stage_is_shown_as_started_before_its_end_and_times_never_decrease(
    shown_before: bool, ends: str
) -> None:
    job = Written(order("job", "", 0.0))
    recorder = recorder_of(job)
    if shown_before:
        recorder.show_started()
    if ends == "completed":
        recorder.completed(Draft(text="a"))
    else:
        recorder.failed(PermanentError("no"))
    assert [event.status for event in job.events] == ["started", ends]
    assert job.events[0].ts <= job.events[1].ts
    assert [event.seq for event in job.events] == [10, 11]
