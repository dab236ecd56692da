"""What was paid today: counted once, known after any restart, none of it on the next day."""

import asyncio
from decimal import Decimal
from itertools import count

import pytest

from eco2.errors import SpendLimit
from eco2.event import Event, StageChanged, encode_events
from eco2.gateway.acceptance import Acceptance, Submission, Terms
from eco2.gateway.config import GatewayConfig
from eco2.job import JSON
from eco2.journal.spending import Spending, day_of, midnight, until_midnight
from eco2.journal.view import View
from eco2.pipeline import Form
from eco2.ports import Record
from eco2.testing.clock import EPOCH, VirtualClock, virtual
from tests.support.world import KEEP, LIFE, Process, ScriptedModel, World

NOON = midnight(EPOCH) + 12 * 3600
TODAY = day_of(NOON)
_numbers = count()


def used(usd: str | None) -> JSON:
    return {"model": "m", "calls": 1, "cost_usd": usd}


def stage(usd: str | None, ts: float = NOON, run: str = "r", name: str | None = None) -> StageChanged:
    return StageChanged(
        ts=ts,
        job=name or f"job {next(_numbers)}",
        run=run,
        stage="vision",
        status="completed",
        seq=11,
        progress=50,
        output={},
        usage=used(usd),
    )


def view(*messages: Event | list[Event], now: float = NOON) -> Spending:
    """The spending of a view whose tail brought these messages."""
    folded = View(KEEP, lambda: now, daily=True)
    for offset, message in enumerate(messages):
        events = message if isinstance(message, list) else [message]
        folded.apply(Record(offset, encode_events(events)))
    return folded.spending


def test_a_day_ends_at_midnight_utc() -> None:
    assert day_of(midnight(NOON)) == TODAY == day_of(midnight(NOON) + 86_399.9)
    assert day_of(midnight(NOON) - 0.1) < TODAY
    assert until_midnight(NOON) == 12 * 3600
    assert until_midnight(midnight(NOON)) == 86_400


def test_sums_are_exact() -> None:
    assert view(*[stage("0.1") for _ in range(30)]).total(TODAY) == Decimal("3.0")


def test_any_number_of_costs_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco2.journal.spending.MAX_COUNTED", 3)
    costs = [stage("1") for _ in range(20)]
    spending = view(*costs, costs[-1])
    assert spending.total(TODAY) == 20
    assert len(spending._counted) == 3


def test_what_is_written_twice_is_counted_once_and_a_void_run_has_paid_too() -> None:
    again = stage("0.5")
    other = StageChanged(**{name: getattr(again, name) for name in again.__struct_fields__} | {"run": "r2"})
    assert view(again, [again, stage("1")], again, other).total(TODAY) == Decimal("2.0")


def test_a_new_day_begins_with_nothing() -> None:
    tomorrow = NOON + 13 * 3600
    early = tomorrow - 10 * 3600
    spending = view(stage("1", ts=early), stage("2", ts=tomorrow), stage("4", ts=early), now=tomorrow)
    assert spending.total(day_of(tomorrow)) == 2
    assert spending.total(TODAY) == 0
    assert view(stage("1")).total(day_of(tomorrow)) == 0


def test_a_clock_that_is_ahead_begins_no_day() -> None:
    spending = view(stage("1"), stage("2", ts=NOON + 86_400))
    assert spending.total(TODAY) == 3


def test_a_journal_that_was_cut_short_and_is_read_again_counts_nothing_twice() -> None:
    spending, before, late = Spending(), stage("1", ts=NOON - 3600), stage("2")
    for event in (before, late):
        spending.paid(event, NOON)
    spending._counted.clear()  # it was long ago
    spending.restart(NOON + 3600)
    for event in (before, late, stage("4", ts=NOON + 3601)):
        spending.paid(event, NOON + 3601)
    assert spending.total(TODAY) == 7


WRONG = ("free", "1e999999999", "NaN", "Infinity", "-1e30", "1000001", "1e-999999", "")


@pytest.mark.parametrize("usd", [None, *WRONG])
def test_a_call_without_a_known_price_counts_as_nothing(usd: str | None) -> None:
    spending = view(stage("1"), stage(usd))
    assert spending.total(TODAY) == 1
    assert spending.unpriced
    assert not view(stage("1")).unpriced


PRICE = Decimal("0.25")
"""Of each of the two calls of a job."""


def priced() -> ScriptedModel:
    return ScriptedModel(seconds=0.1, cost=PRICE)


def total(process: Process) -> Decimal:
    return process.journal.view.spending.total(day_of(VirtualClock.now()))


async def jobs(process: Process, number: int) -> None:
    for _ in range(number):
        await process.ended((await process.submit()).job)


@pytest.mark.parametrize("pause", [60.0, 3 * KEEP, 20 * KEEP])
@pytest.mark.parametrize("snapshots", [False, True])
@virtual
async def test_a_restart_of_all_processes_forgets_nothing(pause: float, snapshots: bool) -> None:
    world = World(spending=True, snapshots=snapshots)
    await asyncio.sleep(midnight(EPOCH) + 86_400 + 3600 - EPOCH)  # the small hours
    async with world.process(priced()) as process:
        for _ in range(4):
            await jobs(process, 2)
            await asyncio.sleep(400)
        await jobs(process, 1)  # and no time for a snapshot
    await asyncio.sleep(pause)
    async with world.process() as gateway:
        assert total(gateway) == 9 * 2 * PRICE
    async with world.process(priced()) as process:
        await jobs(process, 1)
        assert total(process) == 10 * 2 * PRICE


@pytest.mark.parametrize("snapshots", [False, True])
@virtual
async def test_what_no_snapshot_has_is_read_from_midnight_on(snapshots: bool) -> None:
    silent = World(snapshots=snapshots)  # the costs are not needed, so its first fold begins after midnight
    await asyncio.sleep(midnight(EPOCH) + 86_400 - EPOCH - 30)
    async with silent.process(priced()) as process:
        await jobs(process, 1)
    await asyncio.sleep(60)  # midnight
    async with silent.process(priced()) as process:
        await jobs(process, 3)
    await asyncio.sleep(5 * KEEP)
    async with silent.process(priced()) as process:
        await jobs(process, 1)
        await asyncio.sleep(100)
    silent.spending = True
    await asyncio.sleep(2 * KEEP)
    async with silent.process() as gateway:
        assert total(gateway) == 4 * 2 * PRICE


@virtual
async def test_the_next_day_begins_with_nothing_also_behind_a_restart() -> None:
    world = World(spending=True)
    async with world.process(priced()) as process:
        await jobs(process, 3)
        await asyncio.sleep(200)
        before = total(process)
        await asyncio.sleep(until_midnight(VirtualClock.now()) + 1)
        assert before == 3 * 2 * PRICE
        assert total(process) == 0
        await jobs(process, 1)
    async with world.process() as gateway:
        assert total(gateway) == 2 * PRICE


def asked(key: str | None = None) -> Submission:
    return Submission(Form({"text": "q"}), "q", Terms(max_wait=LIFE, timeout=LIFE, key=key))


def acceptance(process: Process, daily: str) -> Acceptance:
    config = GatewayConfig(models=(), daily_usd=Decimal(daily))
    return Acceptance(process.pipeline, process.broker, process.journal, config, VirtualClock.now)


@virtual
async def test_a_gateway_takes_no_job_once_the_limit_is_reached_until_midnight() -> None:
    async with World(spending=True).process(priced()) as process:
        gateway = acceptance(process, "1.00")
        first = await gateway.accept(asked(key="k"))
        await process.ended(first.job_id)
        last = await gateway.accept(asked())  # 0.50 are paid
        await process.ended(last.job_id)
        with pytest.raises(SpendLimit, match="no further jobs are taken today") as caught:
            await gateway.accept(asked())
        assert not (await gateway.accept(asked(key="k"))).new
        assert caught.value.retry_after == until_midnight(VirtualClock.now())
        await asyncio.sleep(caught.value.retry_after)
        assert (await gateway.accept(asked())).new


@virtual
async def test_jobs_in_flight_finish_when_the_limit_is_reached() -> None:
    slow = ScriptedModel(seconds=20, cost=PRICE)
    async with World(spending=True).process(slow) as process:
        gateway = acceptance(process, "0.50")
        taken = [(await gateway.accept(asked())).job_id for _ in range(5)]
        states = [await process.ended(job) for job in taken]
        assert {state.status for state in states} == {"completed"}
        assert total(process) == 5 * 2 * PRICE


@virtual
async def test_calls_without_a_price_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with World(spending=True).process(ScriptedModel(seconds=0.1)) as process:
        gateway = acceptance(process, "1")
        for _ in range(4):
            await process.ended((await gateway.accept(asked())).job_id)
    assert caplog.text.count("calls without a known price") == 1
