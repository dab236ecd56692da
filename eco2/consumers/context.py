"""What a running stage sees of the engine: the implementation of `eco2.pipeline.Context`."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from pydantic import BaseModel

from eco2.call import Answer, Call, NoAnswer, Reply, Usage
from eco2.consumers.calls import Calls
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.run import Run
from eco2.event import Checkpoint, sound
from eco2.job import JSON
from eco2.journal.state import OWN
from eco2.pipeline import Outputs
from eco2.ports import Clock

USAGE = f"{OWN}usage"
"""The checkpoint that keeps what a stage has paid for when a later run goes on with it."""

Input_co = TypeVar("Input_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Engine:
    """What all stages of all jobs of one process share. `clock`: Unix seconds."""

    calls: Calls
    live: DeltaSender
    clock: Clock


class StageContext(Generic[Input_co]):
    """One per stage and run; see `eco2.pipeline.Context` for what each member promises.

    `started` is called when the stage shows itself: at each of its calls, and when it emits text.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        stage: str,
        input: Input_co,
        outputs: Outputs,
        saved: dict[str, JSON],
        started: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._started = started
        self._run = run
        self._stage = stage
        self._saved = saved
        self._text = 0
        self._usage = saved.get(self._key(USAGE))
        self._input = input
        self._outputs = outputs

    @property
    def job_id(self) -> str:
        return self._run.job.id

    @property
    def input(self) -> Input_co:
        return self._input

    @property
    def outputs(self) -> Outputs:
        return self._outputs

    @property
    def deadline(self) -> float:
        return self._run.deadline

    @property
    def usage(self) -> JSON | None:
        """What this stage's calls took, those of earlier runs before their last checkpoint included:
        `{model, calls, input_tokens, cached_tokens, output_tokens, cost_usd}`; None if there were none."""
        return self._usage

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        await self._run.confirmed()
        try:
            reply = await self._engine.calls.make(self._run, call, self._begin_call, self.emit)
        except NoAnswer as error:
            self._usage = added(self._usage, error.model, error.usage)
            raise
        self._usage = added(self._usage, reply.model, reply.usage)
        return reply

    def emit(self, text: str) -> None:
        self._started()
        self._engine.live.add(self.job_id, self._run.id, self._stage, self._text, sound(text))
        self._text += len(text)

    async def checkpoint(self, name: str, value: JSON) -> None:
        paid = [self._checkpoint(USAGE, self._usage)] if self._usage else []
        self._run.write(*paid, self._checkpoint(name, value))
        await self._run.confirmed()
        if self.saved(name) != value:
            self._run.retries = 0  # the job got on, as every reader of the journal sees it
        self._saved[self._key(name)] = value

    def saved(self, name: str) -> JSON | None:
        return self._saved.get(self._key(name))

    def _checkpoint(self, name: str, value: JSON) -> Checkpoint:
        now = self._engine.clock()
        return Checkpoint(
            ts=now, job=self.job_id, run=self._run.id, stage=self._stage, name=name, value=value
        )

    def _key(self, name: str) -> str:
        return f"{self._stage}/{name}"

    def _begin_call(self) -> None:
        self._started()
        self._text = 0


def added(before: JSON | None, model: str, usage: Usage) -> JSON:
    """A stage's usage with one more call. `cost_usd`: exact, as text; None once a call had no known cost."""
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
    """Without an exponent and trailing zeros."""
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
