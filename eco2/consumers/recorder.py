"""Writes the events of a stage: that it started, its live text, its paid calls and steps, and its end."""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal

from msgspec.structs import replace
from pydantic import BaseModel

from eco2.call import Answer, PaidCallFailed, Reply, Usage
from eco2.calls.replies import reply_to_json
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.progress import Progress, error_json
from eco2.consumers.run import ActiveJob, Run
from eco2.delta import Branches, Delta
from eco2.errors import PermanentError
from eco2.event import CallCompleted, StageChanged, Status, StepCompleted, replace_surrogates
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.pipeline import AnyStage
from eco2.ports import Clock


class StageRecorder:
    """One per stage and run, and the `Output` of its calls. `run`: as it is after the recorded progress.

    `usage`: the sum over the stage's calls, those of earlier runs included: `{model, calls, input_tokens,
    cached_tokens, output_tokens, cost_usd}`; None if there were none.
    `branches`: how many branches the stage's maps have begun with, and `done` of these.
    """

    def __init__(
        self,
        job: ActiveJob,
        run: Run,
        stage: AnyStage,
        progress: Progress,
        live: DeltaSender,
        clock: Clock,
    ) -> None:
        self.run = run
        self.stage = stage
        self.progress = progress
        self.usage: JSON | None = None
        self.emitted = 0
        self.branches = self.done = 0
        self._job = job
        self._live = live
        self._clock = clock
        self._place = 1 + job.pipeline.stages.index(stage)
        self.stage_started: StageChanged | None = self._event("started", clock())

    def repeated(self, state: JobState) -> None:
        """Shows a stage whose output came with a job that resumes another, unless it was shown before."""
        if all(shown.seq <= 10 * self._place for shown in state.visible_events):
            self.show("completed", output=state.outputs[self.stage.name])

    def add_usage(self, model: str, usage: Usage) -> None:
        """Counts a call that was paid in this run or an earlier one."""
        self.usage = added(self.usage, model, usage)

    def call_completed(self, key: str, digest: str, reply: Reply[Answer] | PaidCallFailed) -> JSON:
        """Records the reply of a paid call; returns its recorded form."""
        self.run.scope.mark_saved()
        paid, run, stage = reply_to_json(reply), self.run.id, self.stage.name
        event = CallCompleted(
            ts=self._clock(), job=self._job.id, run=run, stage=stage, key=key, digest=digest, reply=paid
        )
        self._job.write(event)
        self.run = dataclasses.replace(self.run, retries=0)
        return paid

    async def step_completed(self, key: str, value: JSON) -> None:
        """Records the value of a step; returns once it is confirmed."""
        event = StepCompleted(
            ts=self._clock(), job=self._job.id, run=self.run.id, stage=self.stage.name, key=key, value=value
        )
        self._job.write(event)
        await self._job.confirmed()
        self.run = dataclasses.replace(self.run, retries=0)

    def completed(self, output: BaseModel) -> None:
        """Records the output, also for the stages to come. Raises `TooLarge`, or TypeError for a bad type."""
        if not isinstance(output, self.stage.output):
            raise TypeError(f"stage {self.stage.name} must return {self.stage.output.__name__}")
        recorded = output.model_dump(mode="json")
        self.progress.outputs.add(output)
        self.show("completed", output=recorded)
        self.run = dataclasses.replace(self.run, retries=0, started=True)

    def failed(self, error: PermanentError) -> None:
        """Records why the stage ends the job."""
        self.show("failed", error=error_json(error))

    def show_started(self, *, granted: bool = False) -> None:
        """Writes that the stage started, unless that was written, by this process or with a grant."""
        if self.stage_started is not None:
            self._job.write(replace(self.stage_started, ts=self._clock(), granted=granted))
            self.stage_started = None

    def emit(self, text: str) -> None:
        """Shows the next piece of the text that the stage, or its first call, streams."""
        self.show_text("", self.emitted, text)
        self.emitted += len(text)

    def show_text(self, call: str, pos: int, text: str) -> None:
        """Shows a piece of a text; `call`, `pos`: see `Delta`."""
        self.show_started()
        piece, name = replace_surrogates(text), replace_surrogates(call)
        self._live.add(Delta(self._job.id, self.run.id, self.stage.name, pos, piece, name))

    def count_branches(self, *, begun: int = 0, done: int = 0) -> None:
        """Counts branches of a map, and shows how many there are."""
        if done:  # before, a job that waits for its first grant has not started
            self.show_started()
        self.branches += begun
        self.done += done
        self._live.count(Branches(self._job.id, self.run.id, self.stage.name, self.done, self.branches))

    def show(self, status: Status, output: JSON | None = None, error: JSON | None = None) -> None:
        """Writes the end of the stage, behind its start where that was not written."""
        if self.usage:
            self.progress.usage[self.stage.name] = self.usage
        now = self._clock()  # one time for both events: clients rely on times in order
        end = self._event(status, now, output=output, error=error, usage=self.usage)
        self._job.write(*([replace(self.stage_started, ts=now)] if self.stage_started else ()), end)
        self.stage_started = None  # not where `write` raised: events that are too large were not shown

    def _event(
        self,
        status: Status,
        now: float,
        output: JSON | None = None,
        error: JSON | None = None,
        usage: JSON | None = None,
    ) -> StageChanged:
        stages = len(self._job.pipeline.stages)
        return StageChanged(
            ts=now,
            job=self._job.id,
            run=self.run.id,
            stage=self.stage.name,
            status=status,
            seq=10 * self._place + (status != "started"),
            progress=100 * (self._place - (status != "completed")) // stages,
            output=output,
            error=error,
            usage=usage,
        )


class CallOutput:
    """The `Output` of one of several calls of a stage: its text is apart from theirs, under its name."""

    def __init__(self, stage: StageRecorder, name: str) -> None:
        self.emitted = 0
        self._stage = stage
        self._name = name

    @property
    def stage_started(self) -> StageChanged | None:
        return self._stage.stage_started

    @stage_started.setter
    def stage_started(self, event: StageChanged | None) -> None:
        self._stage.stage_started = event

    def show_started(self, *, granted: bool = False) -> None:
        """Shows that the stage started, as `StageRecorder.show_started`."""
        self._stage.show_started(granted=granted)

    def emit(self, text: str) -> None:
        """Shows the next piece of the call's text."""
        self._stage.show_text(self._name, self.emitted, text)
        self.emitted += len(text)


def added(before: Mapping[str, object] | None, model: str, usage: Usage) -> JSON:
    """Returns a stage's usage with one more call.

    `cost_usd`: exact, as text; None once a call had no known cost.
    """
    sums = before or {"calls": 0, "input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "cost_usd": "0"}
    counted = {
        "calls": 1,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    cost = sums["cost_usd"]
    total = None if cost is None or usage.cost is None else Decimal(str(cost)) + usage.cost
    return {
        "model": model,
        **{name: int(str(sums[name])) + count for name, count in counted.items()},
        "cost_usd": None if total is None else plain(total),
    }


def plain(cost: Decimal) -> str:
    """Returns the amount without an exponent and trailing zeros."""
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
