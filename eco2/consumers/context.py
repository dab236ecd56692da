"""What a running stage sees of the engine: the implementation of `eco2.pipeline.Context`."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from pydantic import BaseModel

from eco2.call import Answer, Call, CallChanged, PaidCallFailed, Reply, Usage
from eco2.calls.replies import base_key, digest_of, reply_from_json, reply_to_json
from eco2.calls.router import Router
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.outcome import LostOwnership
from eco2.consumers.run import Run
from eco2.errors import StaleRun
from eco2.event import CallCompleted, StepCompleted, sound
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.journal.state import EventId, Recorded
from eco2.pipeline import Outputs
from eco2.ports import Clock

Input_co = TypeVar("Input_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Engine:
    """What all stages of all jobs of one process share. `clock`: Unix seconds."""

    router: Router
    live: DeltaSender
    journal: Journal
    clock: Clock


class StageContext(Generic[Input_co]):
    """One per stage and run; see `eco2.pipeline.Context` for what each member promises.

    `started` is called when the stage shows itself: at each of its calls, and when it emits text.
    `recorded`: what runs before this one recorded of the job, by "stage/key".
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        stage: str,
        input: Input_co,
        outputs: Outputs,
        recorded: Mapping[str, Recorded],
        started: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._started = started
        self._run = run
        self._stage = stage
        self._recorded = recorded
        self._taken = Counter[str]()
        self._keyed: dict[str, Recorded] = {}
        self._text = 0
        self._usage: JSON | None = None
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
        """What this stage's calls took, those of earlier runs included:
        `{model, calls, input_tokens, cached_tokens, output_tokens, cost_usd}`; None if there were none."""
        return self._usage

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        digest = digest_of(call, self._run.job.model)
        base = base_key(call, digest)
        reply = await self._recorded_reply(call, base, digest)
        if reply is None:
            reply = await self._pay(call, base, digest)
        else:
            self._started()
        self._usage = added(self._usage, reply.model, reply.usage)
        if isinstance(reply, PaidCallFailed):
            raise reply
        return reply

    async def step(self, name: str, work: Callable[[str], Awaitable[JSON]]) -> JSON:
        key = self._next_key(f"step/{name}")
        if (record := self._record(key)) is not None:
            value = await self._engine.journal.value_of(record)
            if isinstance(value, dict):
                return value
        await self._run.confirmed()
        await self._run.interrupt.may_begin()
        done = await work(f"{self.job_id}/{self._stage}/{key}")
        self._run.write(
            StepCompleted(
                ts=self._engine.clock(),
                job=self.job_id,
                run=self._run.id,
                stage=self._stage,
                key=key,
                value=done,
            )
        )
        await self._run.confirmed()
        self._run.retries = 0  # the job made progress, as every reader of the journal sees it
        return done

    def begin_call(self) -> None:
        """Shows the stage as started; the text of an earlier attempt is void."""
        self._started()
        self._text = 0

    def emit(self, text: str) -> None:
        self._started()
        self._engine.live.add(self.job_id, self._run.id, self._stage, self._text, sound(text))
        self._text += len(text)

    async def _recorded_reply(
        self, call: Call[Answer], base: str, digest: str
    ) -> Reply[Answer] | PaidCallFailed | None:
        """The reply of an earlier run, or of a void run that is still at work; None if there is none."""
        key = base if call.key is not None else f"{base}/{self._taken[base]}"
        if (record := self._record(key)) is None:
            return None
        if record.digest != digest:
            raise CallChanged(
                f"the call {call.key!r} of stage {self._stage} asks something else than before: "
                "give the new question a key of its own, or submit the job again"
            )
        self._taken[base] += 1  # before the await: an equal call beside this one takes the next record
        return reply_from_json(call, await self._engine.journal.value_of(record))

    async def _pay(self, call: Call[Answer], base: str, digest: str) -> Reply[Answer] | PaidCallFailed:
        await self._run.confirmed()
        paid: Reply[Answer] | PaidCallFailed
        try:
            paid = await self._engine.router.call(self._run, call, self)
        except PaidCallFailed as error:
            paid = error
        except StaleRun:
            # The leader has seen another run, and so will we: this one ends here.
            self._run.interrupt.fire(LostOwnership())
            await self._run.interrupt.may_begin()
            raise
        # No await from here to the write: a drain must not come between a paid reply and its record.
        self._run.interrupt.recorded()
        key = base if call.key is not None else self._next_key(base)
        event = CallCompleted(
            ts=self._engine.clock(),
            job=self.job_id,
            run=self._run.id,
            stage=self._stage,
            key=key,
            digest=digest,
            reply=reply_to_json(paid),
        )
        self._run.write(event)
        if call.key is not None:  # it may be asked again before the own tail shows the record
            self._keyed[key] = Recorded(EventId(-1), self._run.id, digest, event.reply)
        self._run.retries = 0  # as in `step`
        return paid

    def _next_key(self, base: str) -> str:
        """Equal calls, and steps of one name, are numbered in the order in which they are recorded."""
        self._taken[base] += 1
        return f"{base}/{self._taken[base] - 1}"

    def _record(self, key: str) -> Recorded | None:
        state = self._engine.journal.view.get(self.job_id)
        recorded = self._recorded if state is None else state.recorded
        return self._keyed.get(key) or recorded.get(f"{self._stage}/{key}")


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
