"""Each thing that operators look for is counted once, by whoever did it."""

import asyncio

import pytest
from msgspec.structs import replace

from eco2.calls.provider import FAILURES
from eco2.consumers.sweep import INTERVAL, MAX_DEPTH_AGE, OVERDUE
from eco2.errors import PermanentError, ProviderAccessDenied, ProviderDown, ProviderError
from eco2.event import Marker, Queued, encode_events
from eco2.job import new_id
from eco2.journal.backlog import Backlog, backlog
from eco2.journal.outbox import Outbox
from eco2.journal.state import JobState, PutOff
from eco2.journal.view import View
from eco2.ports import DEAD, Record
from eco2.service import run
from eco2.testing.clock import VirtualClock, virtual
from eco2.writers import Writers
from tests.support.engine_fixtures import at_rest
from tests.support.metric_value import metric_value
from tests.support.world import Process, ScriptedModel, World, until
from tests.unit.journal.test_outbox import ScriptedStream, marker

JOB = JobState(
    "j", "ask", accepted=100.0, max_wait=180.0, timeout=180.0, digest="d", queued_at=0, updated_at=100.0
)
HELD = replace(JOB, run="r", status="running")


def failing(*errors: Exception | None) -> ScriptedModel:
    """Raises one after the other, then answers."""
    left = iter(errors)

    def script(kind: str, job: str) -> None:
        if (error := next(left, None)) is not None:
            raise error

    return ScriptedModel(script=script)


async def run_one(model: ScriptedModel) -> Process:
    """A process in which one job came to its end and was let go of."""
    async with World().process(model) as process:
        await process.ended((await process.submit()).job)
        await until(
            lambda: (
                metric_value(process.metrics, 'eco2_jobs_running{pipeline="ask",priority="interactive"}') == 0
            )
        )
    return process


# --- jobs


@virtual
async def test_a_job_that_is_put_off_was_retried_first_and_is_resumed_behind_what_it_has() -> None:
    process = await run_one(failing(None, *[ProviderError("cut")] * 3))
    shown = process.metrics
    assert metric_value(shown, 'eco2_call_retries_total{kind="final"}') == 2
    assert metric_value(shown, 'eco2_jobs_put_off_total{pipeline="ask"}') == 1
    assert metric_value(shown, 'eco2_jobs_resumed_total{pipeline="ask"}') == 1
    assert metric_value(shown, 'eco2_jobs_ended_total{code="OK",pipeline="ask",status="completed"}') == 1
    assert metric_value(shown, 'eco2_job_seconds_count{pipeline="ask",status="putoff"}') == 1
    assert metric_value(shown, 'eco2_jobs_running{pipeline="ask",priority="interactive"}') == 0
    assert metric_value(shown, 'eco2_calls_in_flight{provider="scripted"}') == 0


@virtual
async def test_an_end_is_counted_by_its_code_and_a_dead_one_as_a_letter() -> None:
    shown = (await run_one(failing(ValueError("a bug")))).metrics
    assert metric_value(shown, 'eco2_jobs_ended_total{code="INTERNAL",pipeline="ask",status="failed"}') == 1
    assert metric_value(shown, 'eco2_dead_letters_total{code="INTERNAL",pipeline="ask"}') == 1
    shown = (await run_one(failing(PermanentError("no", "REFUSED")))).metrics
    assert metric_value(shown, 'eco2_jobs_ended_total{code="REFUSED",pipeline="ask",status="failed"}') == 1
    assert metric_value(shown, 'eco2_dead_letters_total{code="REFUSED",pipeline="ask"}') is None
    assert metric_value(shown, 'eco2_dead_letters_total{code="INTERNAL",pipeline="ask"}') == 0


@virtual
async def test_an_order_that_nobody_can_read_ends_its_job_and_is_a_letter() -> None:
    world = World()
    async with world.process(ScriptedModel()) as process:
        now = VirtualClock.now()
        job = new_id(now)
        await process.journal.announce(
            Queued(ts=now, job=job, pipeline="ask", deadline=now + 100, digest="d")
        )
        await process.broker.publish("jobs.ask", b"{", job)
        await process.ended(job)
        await asyncio.sleep(1)
    shown = process.metrics
    assert metric_value(shown, 'eco2_jobs_ended_total{code="MALFORMED",pipeline="ask",status="failed"}') == 1
    assert metric_value(shown, 'eco2_dead_letters_total{code="MALFORMED",pipeline="ask"}') == 1


@virtual
async def test_what_the_sweep_ends_and_what_it_sees_of_the_queues_is_shown_by_who_leads() -> None:
    world = World()
    async with world.process() as gateway, world.process(ScriptedModel()) as worker:
        now = VirtualClock.now()
        job = new_id(now)
        await gateway.journal.announce(Queued(ts=now, job=job, pipeline="ask", deadline=now + 1, digest="d"))
        assert metric_value(worker.metrics, f'eco2_queue_messages{{queue="{DEAD}"}}') is None
        await gateway.broker.publish(DEAD, b"{}", "letter")
        await gateway.ended(job)
        ended = 'eco2_jobs_ended_total{code="EXPIRED",pipeline="ask",status="failed"}'
        assert metric_value(worker.metrics, ended) == 1
        assert metric_value(worker.metrics, 'eco2_jobs_swept_total{pipeline="ask",what="ended"}') == 1
        await asyncio.sleep(OVERDUE + 2 * INTERVAL)
        assert metric_value(worker.metrics, f'eco2_queue_messages{{queue="{DEAD}"}}') == 1
        assert metric_value(worker.metrics, 'eco2_queue_messages{queue="jobs.ask.wait-5s"}') == 0
        assert metric_value(gateway.metrics, f'eco2_queue_messages{{queue="{DEAD}"}}') is None
    await asyncio.sleep(MAX_DEPTH_AGE + 1)
    assert metric_value(worker.metrics, f'eco2_queue_messages{{queue="{DEAD}"}}') is None


@virtual
async def test_a_redelivery_is_counted_whether_it_is_adopted_or_not() -> None:
    world, model = World(), ScriptedModel(seconds=5.0)
    async with world.process(model) as process:
        job = (await process.submit()).job
        await until(lambda: model.in_flight == 1)
        process.broker.disrupt()  # type: ignore[attr-defined]
        await process.ended(job)
        await at_rest(world)
    shown = process.metrics
    assert metric_value(shown, 'eco2_deliveries_redelivered_total{pipeline="ask"}') == 1
    assert metric_value(shown, 'eco2_deliveries_adopted_total{pipeline="ask"}') == 1
    assert process.broker.links[0].reconnects == 1


# --- providers


@virtual
async def test_a_breaker_that_opens_says_why() -> None:
    shown = (await run_one(failing(*[ProviderDown("503")] * FAILURES))).metrics
    assert metric_value(shown, 'eco2_breaker_openings_total{provider="scripted",why="down"}') == 1
    assert metric_value(shown, 'eco2_breaker_open{provider="scripted"}') == 0
    shown = (await run_one(failing(*[ProviderDown("503")] * (FAILURES + 2)))).metrics
    assert metric_value(shown, 'eco2_breaker_openings_total{provider="scripted",why="down"}') == 3
    shown = (await run_one(failing(ProviderAccessDenied("no key")))).metrics
    assert metric_value(shown, 'eco2_breaker_openings_total{provider="scripted",why="refused"}') == 1
    assert metric_value(shown, 'eco2_breaker_open{provider="scripted"}') == 1


@virtual
async def test_a_call_waits_or_is_in_flight_while_it_does() -> None:
    model = ScriptedModel(seconds=5.0)
    async with World().process(model, concurrency=2) as process:
        for _ in range(3):
            await process.submit()
        await until(lambda: metric_value(process.metrics, 'eco2_calls_waiting{provider="scripted"}') == 1)
        assert metric_value(process.metrics, 'eco2_calls_in_flight{provider="scripted"}') == 2
        assert metric_value(process.metrics, 'eco2_call_slots{provider="scripted"}') == 2
        assert metric_value(process.metrics, 'eco2_job_slots{pipeline="ask",priority="interactive"}') == 10


# --- the journal


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], {}),
        ([JOB], {"ask": Backlog(1, 1, {"interactive": 30.0})}),
        ([HELD], {"ask": Backlog(1, 0)}),
        (
            [replace(HELD, released=True, retrying=PutOff("draft", 0.0, 5))],
            {"ask": Backlog(1, 1, {"interactive": 30.0})},
        ),
        ([JOB, replace(JOB, accepted=120.0), HELD], {"ask": Backlog(3, 2, {"interactive": 30.0})}),
        (
            [replace(JOB, priority="batch"), replace(JOB, accepted=120.0)],
            {"ask": Backlog(2, 2, {"batch": 30.0, "interactive": 10.0})},
        ),
        (
            [JOB, replace(JOB, pipeline="other")],
            {"ask": Backlog(1, 1, {"interactive": 30.0}), "other": Backlog(1, 1, {"interactive": 30.0})},
        ),
        ([replace(JOB, accepted=140.0)], {"ask": Backlog(1, 1)}),
    ],
)
def test_a_job_of_the_backlog_waits_until_somebody_is_at_it(
    jobs: list[JobState], expected: dict[str, Backlog]
) -> None:
    assert backlog(jobs, lambda job: 130.0 - job.accepted) == expected


@virtual
async def test_every_process_shows_the_whole_backlog() -> None:
    world, model = World(), ScriptedModel(seconds=5.0)
    async with world.process() as gateway, world.process(model, prefetch=1) as worker:
        jobs = [(await gateway.submit()).job for _ in range(5)]
        await until(lambda: model.in_flight >= 1)
        await asyncio.sleep(1)
        for each in (gateway, worker):
            found = each.journal.status().backlog["ask"]
            assert found.jobs == 5
            assert 0 < found.waiting < 5
            assert found.oldest["interactive"] > 0
        for job in jobs:
            await gateway.ended(job)
        assert gateway.journal.status().backlog == {}
        assert gateway.journal.status().jobs == 5


def test_the_lag_is_of_the_newest_event_as_long_as_that_is_recent() -> None:
    view = View(900.0, lambda: 1000.0)
    assert view.lag(1000.0) == 0
    for offset, (written, lag) in enumerate([(993.0, 7.0), (999.5, 0.5), (1003.0, 0.0)]):
        view.apply(Record(offset, encode_events([marker(offset), Marker(ts=written, id="x")])))
        assert view.lag(1001.0) == lag
    view.apply(Record(9, encode_events([Marker(ts=993.0, id="x")])))
    assert view.lag(1059.0) == 7
    assert view.lag(1061.0) == 0


@virtual
async def test_a_view_that_is_being_filled_has_no_lag() -> None:
    world = World()
    async with world.process() as one:
        await one.submit()
        await asyncio.sleep(100)
        lags = set[float]()
        process, components = world.components()
        process.journal.view.observe(lambda _: lags.add(process.journal.status().lag))
        async with asyncio.TaskGroup() as group:
            group.create_task(run(components, process.stop))
            await process.journal.filled.wait()
            process.stop.set()
    assert lags == {0.0}


@virtual
async def test_the_outbox_says_how_long_its_oldest_event_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco2.journal.outbox.time.monotonic", lambda: asyncio.get_running_loop().time())
    stream, stop = ScriptedStream([ProviderDown("x")] * 5), asyncio.Event()
    outbox = Outbox(stream, Writers("me"))
    assert outbox.oldest == 0
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run(stop))
        confirmed = outbox.put(marker("a"))
        await asyncio.sleep(0.002)
        outbox.put(marker("b"))
        assert outbox.oldest == pytest.approx(0.002)
        await confirmed
        stop.set()
    assert outbox.oldest == 0


@virtual
async def test_barriers_are_timed() -> None:
    seen: list[float] = []
    async with World().process() as process:
        process.journal.observe_barriers(seen.append)
        await process.journal.barrier()
    assert len(seen) == 1
