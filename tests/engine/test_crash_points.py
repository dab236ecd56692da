"""A process crashes between each two of its durable writes: accepted is kept, and nothing is paid twice that
was confirmed. The points are found by the test: it goes on until there is no further write to crash at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import count

import pytest

from eco2.broker.embedded import CALM, Chaos
from eco2.errors import BrokerUnavailable, ProviderAccessDenied, ProviderError
from eco2.event import Done, decode_events
from eco2.gateway.acceptance import Acceptance, Accepted, Submission, Terms
from eco2.gateway.config import GatewayConfig
from eco2.journal.state import JobState
from eco2.pipeline import Call, Context, Form, Pipeline, Stage
from eco2.testing.clock import VirtualClock, run_virtual
from tests.support.crash_points import CrashingProcess, Point, Side
from tests.support.engine_fixtures import at_rest
from tests.support.world import (
    LIFE,
    Draft,
    Final,
    Question,
    ScriptedModel,
    World,
    draft,
    result,
    until,
)

TIMEOUT = 200.0
"""Seconds after which what has not happened will not happen: longer than a job's life."""
KINDS = (
    "late_confirm",
    "lost_confirm",
    "ghost",
    "lost_publish",
    "block",
    "cut",
    "lost_ack",
    "lag",
    "lost_live",
)
UNKIND = [
    Chaos(**(asdict(CALM) | {"seed": seed, "delay": 0.2, kind: 0.3})) for seed, kind in enumerate(KINDS)
]


async def final(context: Context[Question]) -> Final:
    """Pays once, and works on for a while, so that crashes come between the reply and the stage's end."""
    reply = await context.call(Call("final", "system", context.outputs.get(Draft).text, str, 100))
    await asyncio.sleep(1)
    return Final(text=reply.value)


PIPELINE = Pipeline("ask", Question, (Stage("draft", draft, Draft), Stage("final", final, Final)), result)


def ends(world: World, job: str) -> int:
    """Terminal events of the job in the journal."""
    records = world.server.logs[world.topology.stream].after(0)
    events = [event for record in records for event in decode_events(record.body)]
    return sum(isinstance(event, Done) and event.job == job for event in events)


def unsaved(model: ScriptedModel, state: JobState | None) -> int:
    """Paid calls that the journal does not know of."""
    kept = 0 if state is None else len(state.outputs) + len(state.recorded)
    return len(model.calls) - kept


class Provider(ScriptedModel):
    """Fails `times` for the stage `final` with `error`, unpaid, and then answers."""

    def __init__(self, error: Exception | None = None, times: int = 0) -> None:
        super().__init__(script=self._raise)
        self._errors = iter([error] * times)

    def _raise(self, kind: str, job: str) -> None:
        if kind == "final" and (error := next(self._errors, None)) is not None:
            self.calls.remove((kind, job))
            raise error


async def worker_crashes(point: Point, chaos: Chaos) -> bool:
    """False if the worker had done all it had to do before it came to that point."""
    world, model = World(chaos), Provider()
    async with asyncio.timeout(TIMEOUT), world.process() as gateway:
        first = CrashingProcess(*world.components(model, PIPELINE), point)
        living = asyncio.create_task(first.live())
        job = (await gateway.submit()).job
        ending = asyncio.create_task(gateway.ended(job))
        gone = asyncio.create_task(first.gone.wait())
        await asyncio.wait({ending, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not first.gone.is_set():
            first.process.stop.set()  # the points of a drain of an idle worker, too
        await living
        await gateway.journal.barrier()
        lost = unsaved(model, gateway.journal.view.get(job)) if first.gone.is_set() else 0
        gone.cancel()
        async with world.process(model, PIPELINE):
            state = await ending
            await at_rest(world)
    assert (state.status, [shown.seq for shown in state.visible_events]) == (
        "completed",
        [0, 10, 11, 20, 21, 31],
    )
    if chaos is CALM:
        assert ends(world, job) == 1
        assert len(model.calls) == 2 + lost
    assert lost <= 1
    assert len(model.calls) <= 2 + lost
    return first.gone.is_set()


async def failing_worker_crashes(point: Point, provider: Provider) -> tuple[bool, JobState]:
    """The same for a job whose provider does not answer at first. Leaves its dead letters."""
    world = World()
    async with asyncio.timeout(5 * TIMEOUT), world.process() as gateway:
        first = CrashingProcess(*world.components(provider, PIPELINE), point)
        living = asyncio.create_task(first.live())
        job = (await gateway.submit(max_wait=800)).job
        ending = asyncio.create_task(gateway.ended(job))
        gone = asyncio.create_task(first.gone.wait())
        await asyncio.wait({ending, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not first.gone.is_set():
            first.process.stop.set()
        await living
        gone.cancel()
        async with world.process(provider, PIPELINE):
            state = await ending
            assert VirtualClock.now() - state.accepted < 100  # without help of the sweep
            await until(lambda: bool(dead_letters(world)) == state.dead)
            dead = dead_letters(world)
            world.server.queues[world.topology.queue("dead")]._ready.clear()
            await at_rest(world)
    assert ends(world, job) == 1
    assert dead == [job] * state.dead
    assert len(provider.calls) <= 3
    return first.gone.is_set(), state


def dead_letters(world: World) -> list[str]:
    return [message.id for message in world.server.queues[world.topology.queue("dead")]._ready]


@asynccontextmanager
async def accepting(gateway: CrashingProcess) -> AsyncIterator[Acceptance]:
    """A gateway at work; on leaving it stops, if it has not vanished."""
    process = gateway.process
    living = asyncio.create_task(gateway.live())
    await gateway.during(process.journal.filled.wait())
    config = GatewayConfig(models=())
    yield Acceptance(PIPELINE, process.broker, process.journal, config, VirtualClock.now)
    process.stop.set()
    await living


async def patiently(acceptance: Acceptance, key: str | None) -> Accepted:
    """What a client does: asks again while it is told that the broker is away."""
    terms = Terms(max_wait=LIFE, timeout=LIFE, key=key)
    while True:
        try:
            return await acceptance.accept(Submission(Form({"text": "q"}), "digest", terms))
        except BrokerUnavailable:
            await asyncio.sleep(1)


async def gateway_crashes(point: Point, chaos: Chaos, again: bool) -> bool:
    """`again`: the client got no answer and asks another gateway, with its key."""
    world, model = World(chaos), ScriptedModel()
    async with asyncio.timeout(TIMEOUT), world.process(model, PIPELINE) as watching:
        first = CrashingProcess(*world.components(), point)
        async with accepting(first) as acceptance:
            await first.during(patiently(acceptance, "key" if again else None))
        if again:
            async with accepting(CrashingProcess(*world.components(), None)) as acceptance:
                answer = await patiently(acceptance, "key")
            assert (await watching.ended(answer.job_id)).status == "completed"
        await watching.journal.barrier()
        states = await asyncio.gather(
            *(watching.ended(state.job) for state in watching.journal.view.recent())
        )
        await at_rest(world)
    completed = [state for state in states if state.status == "completed"]
    accepted = again or any(state.superseded_by is None for state in states)
    assert len(completed) == accepted
    assert len(model.calls) == 2 * accepted
    return first.gone.is_set()


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("chaos", [CALM, *UNKIND], ids=["calm", *KINDS])
def test_a_worker_may_crash_between_any_two_of_its_writes(chaos: Chaos, side: Side) -> None:
    for write in count():
        if not run_virtual(worker_crashes(Point(write, side), chaos)):
            break
    assert write >= 7


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_worker_may_crash_while_it_puts_a_job_off(side: Side) -> None:
    for write in count():
        provider = Provider(ProviderError("cut"), 4)
        crashed, state = run_virtual(failing_worker_crashes(Point(write, side), provider))
        assert (state.status, state.dead) == ("completed", False)
        if not crashed:
            break
    assert write >= 14


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_worker_may_crash_while_it_buries_a_job(side: Side) -> None:
    for write in count():
        provider = Provider(ProviderAccessDenied("the key is not valid"), 99)
        crashed, state = run_virtual(failing_worker_crashes(Point(write, side), provider))
        assert (state.status, state.dead) == ("failed", True)
        if not crashed:
            break
    assert write >= 6


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("again", [True, False], ids=["asked again", "not asked again"])
@pytest.mark.parametrize("chaos", [CALM, *UNKIND], ids=["calm", *KINDS])
def test_a_gateway_may_crash_between_any_two_of_its_writes(chaos: Chaos, again: bool, side: Side) -> None:
    for write in count():
        if not run_virtual(gateway_crashes(Point(write, side), chaos, again)):
            break
    assert write >= 4
