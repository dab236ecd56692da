"""What a running stage sees of the engine: the implementation of `eco2.pipeline.Context`."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from eco2.call import Answer, Call, Reply
from eco2.consumers.calls import Calls
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.run import Run
from eco2.event import Checkpoint, sound
from eco2.job import JSON
from eco2.pipeline import Outputs
from eco2.ports import Clock

Input_co = TypeVar("Input_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Engine:
    """What all stages of all jobs of one process share. `clock`: Unix seconds."""

    calls: Calls
    live: DeltaSender
    clock: Clock


class StageContext(Generic[Input_co]):
    """One per stage and run; see `eco2.pipeline.Context` for what each member promises."""

    def __init__(
        self,
        engine: Engine,
        run: Run,
        stage: str,
        input: Input_co,
        outputs: Outputs,
        saved: dict[str, JSON],
    ) -> None:
        self._engine = engine
        self._run = run
        self._stage = stage
        self._saved = saved
        self._text = 0
        self._usage: dict[str, int | str] = {}
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
        return self._run.job.deadline

    @property
    def usage(self) -> JSON | None:
        """Tokens of this stage's calls: `{model, calls, input_tokens, cached_tokens, output_tokens}`."""
        return dict(self._usage) or None

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        await self._run.confirmed()
        reply = await self._engine.calls.make(self._run, call, self._restart_text, self.emit)
        self._count(reply)
        return reply

    def emit(self, text: str) -> None:
        self._engine.live.add(self.job_id, self._run.id, self._stage, self._text, sound(text))
        self._text += len(text)

    async def checkpoint(self, name: str, value: JSON) -> None:
        now = self._engine.clock()
        self._run.write(
            Checkpoint(ts=now, job=self.job_id, run=self._run.id, stage=self._stage, name=name, value=value)
        )
        await self._run.confirmed()
        self._saved[f"{self._stage}/{name}"] = value

    def saved(self, name: str) -> JSON | None:
        return self._saved.get(f"{self._stage}/{name}")

    def _restart_text(self) -> None:
        self._text = 0

    def _count(self, reply: Reply[Answer]) -> None:
        counted = {
            "calls": 1,
            "input_tokens": reply.usage.input_tokens,
            "cached_tokens": reply.usage.cached_tokens,
            "output_tokens": reply.usage.output_tokens,
        }
        before = self._usage
        self._usage = {"model": reply.model}
        for name, count in counted.items():
            self._usage[name] = int(before.get(name, 0)) + count
