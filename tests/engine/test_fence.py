"""The last look before a paid call: behind a barrier, and no longer ago than the lease."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context

import pytest

from eco2.call import Answer, Call, Reply
from eco2.calls.reservation import LEASE, Fence
from eco2.consumers.outcome import LostOwnership
from eco2.consumers.run import Run
from eco2.consumers.scope import CancelScope
from eco2.journal.journal import Journal
from eco2.ports import no_gate
from eco2.service import run
from eco2.testing.clock import virtual
from tests.support.engine_fixtures import single
from tests.support.freeze import Freezable, FreezableLoop
from tests.support.world import SILENCE, Process, ScriptedModel, World, draft, order, until


class Clockwork:
    """A process's own clock, which a test moves on; each look at it takes the next of `jumps`, in seconds."""

    def __init__(self, *jumps: float) -> None:
        self.now = 0.0
        self._jumps = iter(jumps)

    def __call__(self) -> float:
        self.now += next(self._jumps, 0.0)
        return self.now


class Counted(Fence):
    """Counts the barriers."""

    def __init__(self, journal: Journal, clock: Clockwork) -> None:
        super().__init__(journal, clock)
        self.barriers = 0
        barrier = journal.barrier

        async def counted() -> None:
            self.barriers += 1
            await barrier()

        journal.barrier = counted  # type: ignore[method-assign]


@asynccontextmanager
async def run_at(*jumps: float) -> AsyncIterator[tuple[Counted, Run]]:
    """A fence on a clock that jumps, and a run that wants to call."""
    async with World().process() as process, CancelScope(100.0) as scope:
        job = order("j", "q", 0.0)
        run = Run("r", job, scope, retries=0, offset=0, started=False, age=0.0)
        yield Counted(process.journal, Clockwork(*jumps)), run


@pytest.mark.parametrize(
    ("jumps", "barriers"),
    [
        ((), 1),
        ((0.0, LEASE), 1),
        ((0.0, LEASE + 0.1), 2),
        ((0.0, 30.0, 0.0, 30.0, 0.0, 0.1), 3),
        ((30.0, 0.0), 1),
    ],
)
def test_who_took_too_long_behind_the_barrier_asks_again(jumps: tuple[float, ...], barriers: int) -> None:
    @virtual
    async def scenario() -> None:
        async with run_at(*jumps) as (fence, run):
            await fence.check(run)
        assert fence.barriers == barriers

    scenario()


@virtual
async def test_an_overtaken_run_does_not_pass() -> None:
    passed = False
    async with run_at() as (fence, run):
        run.scope.cancel(LostOwnership())
        await fence.check(run)
        passed = True
    assert run.scope.reason == LostOwnership()
    assert not passed


@pytest.mark.parametrize(("seconds", "barriers"), [(LEASE - 0.1, 1), (LEASE + 0.1, 2)])
@virtual
async def test_a_connection_that_takes_longer_than_the_lease_asks_again(
    seconds: float, barriers: int
) -> None:
    async with World().process(Connecting(seconds=seconds), single(draft)) as process:
        counted = Barriers(process, seconds=None)
        state = await process.ended((await process.submit()).job)
    assert (state.status, counted.asked) == ("completed", barriers)


class Connecting(ScriptedModel):
    """A model whose connection stands after `seconds` only."""

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        before_send: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await asyncio.sleep(self.seconds)
        return await super().complete(call, job_id, on_text, before_send)


class Frozen(World):
    """A world whose processes can stand still."""

    def connection(self) -> Freezable:
        return Freezable(self.topology, self.server)


class Barriers:
    """Counts the barriers of a process in runs; it stands still for `seconds` behind the first, if given."""

    def __init__(self, process: Process, seconds: float | None) -> None:
        self.asked = 0
        self.freezing: asyncio.Task[None] | None = None
        self._process = process
        self._seconds = seconds
        self._barrier = process.journal.barrier
        process.journal.barrier = self._frozen  # type: ignore[method-assign]

    async def _frozen(self) -> None:
        in_a_run = any(state.is_held for state in self._process.journal.view)
        self.asked += in_a_run
        await self._barrier()
        if in_a_run and self.freezing is None and self._seconds is not None:
            broker = self._process.broker
            assert isinstance(broker, Freezable)
            loop = asyncio.get_running_loop()
            self.freezing = loop.create_task(broker.freeze(self._seconds), context=Context())
            await asyncio.sleep(0)  # from here on


async def overtaken_behind_the_barrier() -> None:
    world, first, second = Frozen(), ScriptedModel(), ScriptedModel(seconds=50)
    process, components = world.components(first, name="first")
    barriers = Barriers(process, seconds=2 * SILENCE)
    assert isinstance(process.broker, Freezable)
    context = process.broker.freezer.context.copy()
    living = asyncio.get_running_loop().create_task(run(components, process.stop), context=context)
    async with world.process() as gateway:
        job = (await gateway.submit()).job
        await until(lambda: barriers.freezing is not None)
        async with world.process(second, name="second"):
            await until(lambda: barriers.freezing is not None and barriers.freezing.done())
            assert second.in_flight
            state = await gateway.ended(job)
            assert barriers.asked == 2
        process.stop.set()
        await living
    assert (state.status, state.attempt) == ("completed", 2)
    assert first.calls == []
    assert [kind for kind, _ in second.calls] == ["draft", "final"]


def test_a_worker_that_stood_still_before_the_call_and_was_overtaken_never_calls() -> None:
    with asyncio.Runner(loop_factory=FreezableLoop) as runner:
        runner.run(overtaken_behind_the_barrier())
