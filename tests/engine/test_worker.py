"""The worker: what happens to a job from its delivery to its settling, in virtual time."""

import asyncio

import pytest

from eco2.broker.embedded import Chaos
from eco2.errors import PermanentError, ProviderError
from eco2.event import Marker, decode_events
from eco2.journal.past_jobs import PastJobs
from eco2.journal.state import JobState
from eco2.pipeline import Context
from eco2.ports import FromStart, Record
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import queue_is_empty, single
from tests.support.metric_value import metric_value
from tests.support.world import KEEP, Draft, Question, ScriptedModel, World, order, until


@virtual
async def test_a_job_runs_all_stages_and_its_result_is_in_the_journal() -> None:
    model = ScriptedModel()
    async with World().process(model) as process:
        state = await process.ended((await process.submit("why")).job)
    assert [(shown.stage, shown.status, shown.seq, shown.progress) for shown in state.visible_events] == [
        ("queued", "started", 0, 0),
        ("draft", "started", 10, 0),
        ("draft", "completed", 11, 50),
        ("final", "started", 20, 50),
        ("final", "completed", 21, 100),
        ("done", "completed", 31, 100),
    ]
    tokens = {"calls": 1, "input_tokens": 10, "cached_tokens": 0, "output_tokens": 5}
    usage = {"model": "scripted", **tokens, "cost_usd": None}
    assert state.result == {
        "task_id": state.job,
        "status": "completed",
        "message": "ask completed",
        "answer": "final(draft(why))",
        "error": None,
        "usage": {"draft": usage, "final": usage},
    }


@virtual
async def test_every_settled_job_has_left_the_queue() -> None:
    world = World()
    async with world.process() as other:
        async with world.process(ScriptedModel()) as process:
            jobs = [await process.submit(str(n)) for n in range(5)]
            for job in jobs:
                await process.ended(job.job)
        assert await queue_is_empty(other)


@virtual
async def test_jobs_wait_side_by_side_and_calls_in_flight_are_bounded() -> None:
    model = ScriptedModel(seconds=10)
    began = VirtualClock.now()
    async with World().process(model, prefetch=50, concurrency=20) as process:
        jobs = [await process.submit(str(n)) for n in range(40)]
        for job in jobs:
            await process.ended(job.job)
    assert model.peak == 20
    assert VirtualClock.now() - began == pytest.approx(40, abs=1)  # 80 calls of 10 s, 20 at once


@virtual
async def test_prefetch_bounds_the_jobs_of_one_worker() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model, prefetch=3) as process:
        jobs = [await process.submit(str(n)) for n in range(9)]
        for job in jobs:
            await process.ended(job.job)
    assert model.peak == 3


@pytest.mark.parametrize(
    ("error", "code", "calls"),
    [
        (PermanentError("no", "CONTENT_REFUSED"), "CONTENT_REFUSED", 1),
        (ProviderError("503"), "UNAVAILABLE", 3 + 3),
        (ZeroDivisionError(), "INTERNAL", 1),
    ],
)
def test_a_stage_that_fails_for_good_ends_the_job(error: Exception, code: str, calls: int) -> None:
    @virtual
    async def scenario() -> None:
        def script(kind: str, job: str) -> None:
            if kind == "final":
                raise error

        model = ScriptedModel(script=script)
        async with World().process(model) as process:
            state = await process.ended((await process.submit()).job)
        assert [(shown.stage, shown.status, shown.seq) for shown in state.visible_events[-2:]] == [
            ("final", "failed", 21),
            ("done", "failed", 31),
        ]
        assert state.result is not None
        assert state.result["answer"] is None
        assert isinstance(state.result["error"], dict)
        assert state.result["error"]["code"] == code
        assert len(model.calls) == 1 + calls

    scenario()


@virtual
async def test_nothing_runs_past_the_deadline() -> None:
    model = ScriptedModel(seconds=50)
    async with World().process(model) as process:
        state = await process.ended((await process.submit(timeout=75)).job)
        assert state.started_at is not None
        assert VirtualClock.now() - state.started_at == pytest.approx(75, abs=0.1)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "TIMEOUT"
    assert model.in_flight == 0


@virtual
async def test_an_order_that_comes_after_its_deadline_is_not_begun() -> None:
    """Not even by stages that never wait, and so would be done before their time-out is noticed."""
    began: list[str] = []

    async def at_once(context: Context[Question]) -> Draft:
        began.append(context.job_id)
        return Draft(text="")

    world = World()
    async with world.process() as gateway:
        late = await gateway.submit(max_wait=30)
        await asyncio.sleep(31)
        async with world.process(ScriptedModel(), single(at_once)):
            state = await gateway.ended(late.job)
    assert state.result is not None
    assert isinstance(state.result["error"], dict)
    assert state.result["error"]["code"] == "EXPIRED"
    assert (state.attempt, began) == (0, [])


@virtual
async def test_orders_older_than_the_view_end_without_a_search_and_hold_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After hours without workers; each search would read the journal from the order to its end."""
    world = World()
    async with world.process() as gateway:
        old = [(await gateway.submit(max_wait=30)).job for _ in range(20)]
        await asyncio.sleep(KEEP + 60)
        fresh = await gateway.submit()
        searched: list[str] = []
        find = PastJobs.find

        async def noted(past_jobs: PastJobs, job_id: str) -> JobState | None:
            searched.append(job_id)
            return await find(past_jobs, job_id)

        monkeypatch.setattr(PastJobs, "find", noted)
        async with world.process(ScriptedModel()) as worker:
            assert (await worker.ended(fresh.job)).status == "completed"
            ended = 'eco2_jobs_ended_total{code="EXPIRED",pipeline="ask",status="failed"}'
            await until(lambda: metric_value(worker.metrics, ended) == len(old))
        assert searched == []
        for job in old:
            state = await gateway.journal.find(job)
            assert state is not None
            assert (state.status, state.dead) == ("failed", False)


@pytest.mark.parametrize("seed", range(40))
def test_on_an_unkind_broker_every_job_ends_once_and_clients_see_it_in_order(seed: int) -> None:
    @virtual
    async def scenario() -> None:
        world = World(Chaos(seed=seed))
        first, second = ScriptedModel(), ScriptedModel()
        async with world.process() as gateway, world.process(first), world.process(second):
            jobs = [(await gateway.submit(str(n))).job for n in range(30)]
            states = [await gateway.ended(job) for job in jobs]
        assert {state.status for state in states} == {"completed"}
        for state in states:
            assert [shown.seq for shown in state.visible_events] == [0, 10, 11, 20, 21, 31]

    scenario()


@virtual
async def test_every_fact_is_written_once_and_a_late_order_writes_nothing() -> None:
    written: list[str] = []

    def read(record: Record) -> None:
        events = (event for event in decode_events(record.body) if not isinstance(event, Marker))
        written.extend(type(event).__name__ for event in events)

    async with World().process(ScriptedModel()) as process:
        process.broker.tail(FromStart(), read)
        first = (await process.submit()).job
        await process.ended(first)
        await process.ended((await process.submit()).job)
        await process.order(order(first, "q", VirtualClock.now()))
        await process.ended((await process.submit()).job)
    stage = ["StageChanged", "CallCompleted", "StageChanged"]
    assert written == ["Queued", "RunStarted", *stage * 2, "Done"] * 3
