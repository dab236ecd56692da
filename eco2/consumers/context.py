"""The implementation of `eco2.pipeline.Context`: what a running stage can see and do."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from eco2.call import Answer, Call, CallChanged, PaidCallFailed, Reply
from eco2.calls.caller import Output
from eco2.calls.replies import identify, reply_from_json
from eco2.calls.router import Router
from eco2.consumers.deltas import DeltaSender
from eco2.consumers.outcome import LostOwnership
from eco2.consumers.recorder import CallOutput, StageRecorder
from eco2.consumers.run import ActiveJob
from eco2.errors import PermanentFailure, RateLimited, StaleRun
from eco2.job import JSON
from eco2.journal.journal import Journal
from eco2.journal.state import EventId, Recorded
from eco2.pipeline import BRANCHES_AT_ONCE, Item, Outputs, Value
from eco2.ports import Clock, GrantRequest, Quota

Input_co = TypeVar("Input_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts that all stages of all jobs of one process share.

    `clock`: Unix seconds. `resources`: what each pipeline opened, by its name. `budgets`: of other APIs.
    """

    router: Router
    live: DeltaSender
    journal: Journal
    clock: Clock
    resources: Mapping[str, object] = field(default_factory=dict)
    budgets: Mapping[str, Quota] = field(default_factory=dict)


class StageContext(Generic[Input_co]):
    """One per stage and run; see `eco2.pipeline.Context` for what each member promises.

    `recorded`: the calls and steps that earlier runs recorded of the job, by "stage/key".
    """

    def __init__(
        self, engine: Engine, job: ActiveJob, recorder: StageRecorder, recorded: Mapping[str, Recorded]
    ) -> None:
        self._engine = engine
        self._job = job
        self._recorder = recorder
        self._recorded = recorded
        self._taken = Counter[str]()
        self._streams = Counter[str]()
        self._keyed: dict[str, Recorded] = {}

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def input(self) -> Input_co:
        return cast(Input_co, self._recorder.progress.input)

    @property
    def outputs(self) -> Outputs:
        return self._recorder.progress.outputs

    @property
    def resources(self) -> Any:
        return self._engine.resources.get(self._job.pipeline.name)

    @property
    def deadline(self) -> float:
        return self._engine.clock() + self._recorder.run.scope.remaining

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        base, digest = identify(call, self._job.order.model)
        key = base if call.key is not None else f"{base}/{self._taken[base]}"
        output: Output = self._recorder
        if call.stream:  # named as in every run: by what is asked, never by when
            name = call.key or digest[:8]
            if self._streams or self._recorder.branches:
                number = self._streams[name]
                output = CallOutput(self._recorder, f"{name}/{number}" if number else name)
            self._streams[name] += 1
        reply: Reply[Answer] | PaidCallFailed | None = None
        if (record := self._record(key)) is not None:  # perhaps of a void run that is still at work
            if record.digest != digest:
                raise CallChanged(
                    f"the call {call.key!r} of stage {self._recorder.stage.name} asks something else than "
                    "before: give the new question a key of its own, or submit the job again"
                )
            self._taken[base] += 1  # before the await: an equal call beside this one takes the next record
            reply = reply_from_json(call, await self._engine.journal.value_of(record))
        if reply is None:
            reply = await self._pay(call, base, digest, output)
        self._recorder.show_started()
        self._recorder.add_usage(reply.model, reply.usage)
        if isinstance(reply, PaidCallFailed):
            raise reply
        return reply

    async def step(self, name: str, work: Callable[[str], Awaitable[JSON]]) -> JSON:
        key = self._next_key(f"step/{name}")
        if (record := self._record(key)) is not None:
            value = await self._engine.journal.value_of(record)
            if isinstance(value, dict):
                return value
        # Another worker must know that a step may be in flight; and a job that may have cost does not expire.
        self._recorder.show_started()
        await self._job.confirmed()
        await self._recorder.run.scope.checkpoint(begins=True)
        done = await work(f"{self.job_id}/{self._recorder.stage.name}/{key}")
        await self._recorder.step_completed(key, done)
        return done

    async def map(
        self,
        items: Iterable[Item],
        fn: Callable[[Item], Awaitable[Value]],
        *,
        limit: int = BRANCHES_AT_ONCE,
    ) -> list[Value]:
        if limit < 1:
            raise ValueError(f"limit={limit}: at least one branch must run")
        todo = list(items)
        several = len(todo) > 1
        values: dict[int, Value] = {}
        numbered = iter(enumerate(todo))  # the branches that run share it

        async def work() -> None:
            for number, item in numbered:
                values[number] = await fn(item)
                if several:
                    self._recorder.count_branches(done=1)

        if several:
            self._recorder.count_branches(begun=len(todo))
        error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(limit, len(todo))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            error = errors.exceptions[0]  # the others came of being cancelled
        if error is not None:
            raise error  # not in the `except` block: it keeps its own cause
        if len(values) < len(todo):  # a task group takes a branch that awaited a cancelled future as ended
            raise asyncio.CancelledError("a branch was cancelled by itself")
        return [values[number] for number in range(len(todo))]

    @asynccontextmanager
    async def reserve(self, budget: str, tokens: float = 0.0) -> AsyncGenerator[None, None]:
        run, quota = self._recorder.run, self._engine.budgets.get(budget)
        if quota is None:
            raise PermanentFailure(
                f"there is no budget {budget!r}: set ECO2_BUDGETS__{budget.upper()}__RPM for all workers",
                "UNKNOWN_BUDGET",
            )
        job = run.job
        request = GrantRequest(
            job=job.id,
            run=run.id,
            offset=run.offset,
            started=run.started,
            kind=self._recorder.stage.name,
            tokens=tokens,
            stage_started=self._recorder.stage_started,
            priority=job.priority,
            owner=job.owner,
            age=run.age,
            max_wait=job.max_wait,
        )
        try:
            with run.scope.waiting():
                grant = await quota.acquire(request)
        except StaleRun:
            await self._stand_by()
            raise
        self._recorder.stage_started = None  # it came with the grant
        try:
            await run.scope.checkpoint()
            grant.confirm()
            yield
        except RateLimited as error:
            grant.throttled(error.retry_after)
            raise
        finally:
            grant.release()

    def emit(self, text: str) -> None:
        self._recorder.emit(text)

    async def _pay(
        self, call: Call[Answer], base: str, digest: str, output: Output
    ) -> Reply[Answer] | PaidCallFailed:
        """Makes the call and records its reply.

        No wait for a confirm: the call's grant, or its barrier, follows all that the job has written in the
        journal, and nothing is sent before the own tail has shown it.
        """
        run = self._recorder.run
        paid: Reply[Answer] | PaidCallFailed
        try:
            paid = await self._engine.router.call(run, call, output)
        except PaidCallFailed as error:
            paid = error
        except StaleRun:
            await self._stand_by()
            raise
        # No await from here to the record: a drain must not come between a paid reply and its record.
        key = base if call.key is not None else self._next_key(base)
        reply = self._recorder.call_completed(key, digest, paid)
        if call.key is not None:  # it may be asked again before the own tail shows the record
            self._keyed[key] = Recorded(EventId(-1), run.id, digest, reply)
        return paid

    async def _stand_by(self) -> None:
        """Ends the run here: the leader has seen another one, and so will this process."""
        self._recorder.run.scope.cancel(LostOwnership())
        await self._recorder.run.scope.checkpoint()

    def _next_key(self, base: str) -> str:
        """Numbers equal calls, and steps of one name, in the order in which they are recorded."""
        self._taken[base] += 1
        return f"{base}/{self._taken[base] - 1}"

    def _record(self, key: str) -> Recorded | None:
        state = self._engine.journal.view.get(self._job.id)
        recorded = self._recorded if state is None else state.recorded
        return self._keyed.get(key) or recorded.get(f"{self._recorder.stage.name}/{key}")
