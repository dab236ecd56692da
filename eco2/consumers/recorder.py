"""Writes the events of a stage: that it started, its paid calls and steps, and how it ended."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from pydantic import BaseModel

from eco2.call import Answer, PaidCallFailed, Reply, Usage
from eco2.calls.replies import reply_to_json
from eco2.consumers.progress import Progress, error_json
from eco2.consumers.run import ActiveJob, Run
from eco2.errors import PermanentError
from eco2.event import CallCompleted, StageChanged, Status, StepCompleted
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.pipeline import Stage
from eco2.ports import Clock


class StageRecorder:
    """One per stage and run. `run`: as it is after the progress that was recorded.

    `usage`: the sum over the stage's calls, those of earlier runs included: `{model, calls, input_tokens,
    cached_tokens, output_tokens, cost_usd}`; None if there were none.
    """

    def __init__(
        self, job: ActiveJob, run: Run, stage: Stage[BaseModel], progress: Progress, clock: Clock
    ) -> None:
        self.run = run
        self.stage = stage
        self.progress = progress
        self.usage: JSON | None = None
        self._job = job
        self._clock = clock
        self._place = 1 + job.pipeline.stages.index(stage)
        self._shown = False

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
        self.run = replace(self.run, retries=0)
        return paid

    async def step_completed(self, key: str, value: JSON) -> None:
        """Records the value of a step; returns once it is confirmed."""
        event = StepCompleted(
            ts=self._clock(), job=self._job.id, run=self.run.id, stage=self.stage.name, key=key, value=value
        )
        self._job.write(event)
        await self._job.confirmed()
        self.run = replace(self.run, retries=0)

    def completed(self, output: BaseModel) -> None:
        """Records the output, also for the stages to come. Raises `TooLarge`, or TypeError for a bad type."""
        if not isinstance(output, self.stage.output):
            raise TypeError(f"stage {self.stage.name} must return {self.stage.output.__name__}")
        recorded = output.model_dump(mode="json")
        self.progress.outputs.add(output)
        self.show("completed", output=recorded)
        self.run = replace(self.run, retries=0, started=True)

    def failed(self, error: PermanentError) -> None:
        """Records why the stage ends the job."""
        self.show("failed", error=error_json(error))

    def show(self, status: Status, output: JSON | None = None, error: JSON | None = None) -> None:
        """Writes how far the stage is.

        "started" is written once: when a call of the stage has a slot, with its text, or with its end.
        """
        if status == "started" and self._shown:
            return
        if self.usage:
            self.progress.usage[self.stage.name] = self.usage
        now = self._clock()  # one time for both events: clients rely on times in order
        stages = len(self._job.pipeline.stages)
        opening: tuple[Status, ...] = () if self._shown or status == "started" else ("started",)
        events = [
            StageChanged(
                ts=now,
                job=self._job.id,
                run=self.run.id,
                stage=self.stage.name,
                status=each,
                seq=10 * self._place + (each != "started"),
                progress=100 * (self._place - (each != "completed")) // stages,
                output=output if each == status else None,
                error=error if each == status else None,
                usage=None if each == "started" else self.usage,
            )
            for each in (*opening, status)
        ]
        self._job.write(*events)
        self._shown = True  # not where `write` raised: events that are too large were not shown


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
