"""Snapshots: a fold that begins with one is the fold of everything, and one that does not fit is not used."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco2.errors import BrokerUnavailable, TooLarge
from eco2.event import (
    BudgetEvent,
    CallCompleted,
    CallRequested,
    CallsGranted,
    Done,
    EpochOpened,
    Event,
    GrantedCall,
    Header,
    Paused,
    Queued,
    Released,
    Resumed,
    RunStarted,
    StageChanged,
    Superseded,
    encode_batch,
    encode_event,
)
from eco2.journal.snapshots import Collector, Snapshot, messages, read_snapshot, write_snapshot
from eco2.journal.spending import day_of
from eco2.journal.view import View
from eco2.ports import Clock, Record, SnapshotStore, Start
from eco2.quota.budget import Budget
from eco2.testing.clock import VirtualClock, virtual
from tests.support.world import KEEP, Process, ScriptedModel, World

WINDOW = 100.0
BEGAN = 1_800_000_000.0
JOBS, KEYS = "abcdefghi", ("k", "l")


class Folded:
    """A view with one budget, whose process started `ahead` seconds earlier by its monotonic clock."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.now = BEGAN
        self.ahead = ahead
        self.view = View(WINDOW, lambda: self.now, replies=0, monotonic=lambda: self.now - BEGAN + ahead)
        self.budget = Budget("openai", "own", self.view.writers, self.view.may_call)
        self.view.join(self)

    name = "openai"

    def read(self, offset: int, header: Header, event: BudgetEvent, now: float) -> None:
        self.budget.apply(offset, header, event, now)

    def reset(self) -> None:
        raise AssertionError("no log is replaced here")

    def facts(self) -> object:
        """All that later records and readers depend on, but for the budget."""
        view, since = self.view, self.now - WINDOW
        rows = [view.ended.find(job) for job in JOBS]
        return (
            {state.job: state for state in view},
            [view.by_key("", key, self.now) for key in KEYS],
            [row for row in rows if row and row.accepted >= since],
            (view.paused, view.writers.numbers),
        )

    def counted(self) -> dict[str, float]:
        """The calls that count, by when they were granted at the latest (Unix seconds)."""
        spending = self.budget.spending(self.now - BEGAN + self.ahead)
        return {call.request.id: at - self.ahead + BEGAN for at, call in spending}


@dataclass
class Log:
    """A journal by two writers, one of which leads the budget. It sends nothing twice, as a leader does.

    `times`: when each record was written.
    """

    records: list[Record] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)
    paid: dict[tuple[str, str, str], Decimal] = field(default_factory=dict)
    now: float = BEGAN

    def write(self, *events: Event) -> None:
        offset, writer = len(self.records), "worker"
        if isinstance(events[0], EpochOpened | CallsGranted):
            writer = "leader"
        header = Header(writer, offset + 1, self.now - BEGAN, offset - 1)
        self.copy(Record(offset, encode_batch([encode_event(event) for event in events], header)))

    def copy(self, record: Record) -> None:
        self.records.append(Record(len(self.records), record.body))
        self.times.append(self.now)

    def stage(self, job: str, run: str, stage: str, cost: int) -> StageChanged:
        self.paid.setdefault((job, run, stage), Decimal(cost))
        return StageChanged(
            ts=self.now,
            job=job,
            run=run,
            stage=stage,
            status="completed",
            seq=10 * int(stage) + 1,
            progress=50,
            output={"of": run},
            usage={"cost_usd": str(cost)},
        )


@st.composite
def logs(draw: st.DrawFn) -> Log:  # noqa: C901  # one case for each kind of record
    log, calls = Log(), 0
    log.write(EpochOpened(budget="openai"))
    number = st.integers(0, 3)
    for kind, job, n in draw(
        st.lists(st.tuples(st.integers(0, 11), st.sampled_from(JOBS), number), max_size=60)
    ):
        ts, run, key = log.now, f"r{n}", draw(st.sampled_from([None, *KEYS]))
        match kind:
            case 0 | 1 if job not in log.jobs:
                log.jobs.add(job)
                log.write(Queued(ts=ts, job=job, pipeline="ask", deadline=ts + 60, digest="d", key=key))
            case 2:
                log.write(RunStarted(ts=ts, job=job, run=run, attempt=n + 1, worker="w"))
            case 3 if (job, run, str(1 + n // 2)) not in log.paid:  # a second one is a copy
                log.write(log.stage(job, run, str(1 + n // 2), n))
            case 4:
                reply: dict[str, object] = {"value": n}
                log.write(CallCompleted(ts=ts, job=job, run=run, stage="3", key="k", digest="", reply=reply))
            case 5:
                log.write(Done(ts=ts, job=job, run=None, status="completed", seq=99, result={"of": job}))
            case 6:
                log.write(Released(ts=ts, job=job, run=run, reason="", retry=n > 1))
            case 7:
                log.write(Superseded(ts=ts, job=job, by="other"))
            case 8:
                log.write(Paused(ts=ts, reason=run, renewed=n > 1) if n else Resumed(ts=ts))
            case 9:
                copied = draw(st.sampled_from(log.records))
                if b'"w":"worker"' in copied.body:
                    log.copy(copied)
            case 10:
                calls += 1
                name = f"call {calls}"
                log.write(CallRequested(budget="openai", id=name, job=job, run=run, kind="k", tokens=1.0))
                granted = (GrantedCall(name, 0.0, 1.0),)
                log.write(CallsGranted(budget="openai", epoch=0, at=log.now - BEGAN, calls=granted))
            case _:
                log.now += (1.0, 20.0, 50.0, 101.0)[n]
    return log


def sent(snapshot: Snapshot) -> Snapshot:
    """The snapshot as a reader gets it."""
    collector = Collector()
    for body in messages(snapshot):
        assert collector.take(body) is None
    found = collector.newest()
    assert found is not None
    return found


def fold(folded: Folded, records: Iterable[Record], times: list[float]) -> None:
    for record in records:
        folded.now = times[record.offset]
        folded.view.apply(record)


@settings(max_examples=300, deadline=None)
@given(logs(), st.data())
def test_a_fold_from_a_snapshot_is_the_fold_of_everything(log: Log, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(log.records) - 1))
    whole, half, late = Folded(), Folded(), Folded(ahead=500.0)
    fold(whole, log.records, log.times)
    fold(half, log.records[: at + 1], log.times)
    passed = [(ts, offset) for offset, ts in enumerate(log.times[: at + 1])]
    snapshot = sent(half.view.save(passed, log.records[at].body))
    late.view.restore(snapshot)
    whole.now = late.now = log.now
    for record in log.records[snapshot.saved.begin(log.now) :]:
        late.view.apply(record)
    assert late.facts() == whole.facts()
    known, missing, today = late.view.spending, whole.view.spending, day_of(log.now)
    assert known.total(today) == missing.total(today) == sum(log.paid.values())
    assert (known.unpriced, known.since) == (missing.unpriced, missing.since)
    now = log.now - BEGAN + late.ahead
    counted = late.counted()
    if late.budget.is_known(now):
        for name, granted in whole.counted().items():
            assert log.now - granted >= 60.0 or counted[name] >= granted - 1e-6


def test_a_grant_counts_although_its_job_has_ended_since() -> None:
    log, half, late = Log(), Folded(), Folded(ahead=500.0)
    log.write(EpochOpened(budget="openai"))
    log.now += 61.0
    log.write(Queued(ts=log.now, job="a", pipeline="ask", deadline=log.now + 60, digest="d"))
    log.write(CallRequested(budget="openai", id="call", job="a", run="r", kind="k", tokens=1.0))
    calls = (GrantedCall("call", 0.0, 1.0),)
    log.write(CallsGranted(budget="openai", epoch=0, at=log.now - BEGAN, calls=calls))
    log.write(Done(ts=log.now, job="a", run=None, status="failed", seq=99, result={}))
    fold(half, log.records, log.times)
    late.view.restore(sent(half.view.save([(BEGAN, 0)], log.records[-1].body)))
    late.now = log.now
    for record in log.records:
        late.view.apply(record)
    assert late.budget.is_known(log.now - BEGAN + late.ahead)
    assert late.counted().keys() == {"call"}


def test_a_snapshot_that_lacks_a_part_is_none() -> None:
    folded = Folded()
    fold(folded, [Record(0, b"{}")], [BEGAN])
    bodies = [list(messages(folded.view.save([(BEGAN, 0)], b"{}"))) for _ in range(2)]
    collector = Collector()
    for body in (*bodies[0], *bodies[1][1:], b"not json", b"[]"):
        collector.take(body)
    found = collector.newest()
    assert found is not None
    assert found.saved.offset == 0
    empty = Collector()
    for body in bodies[1][1:]:
        empty.take(body)
    assert empty.newest() is None


@virtual
async def test_a_process_starts_from_a_snapshot_with_all_unended_jobs_however_old() -> None:
    world = World(snapshots=True)
    async with world.process() as gateway:
        old = await gateway.submit(max_wait=86_400)
        await asyncio.sleep(4 * KEEP)
        await gateway.submit()
        await asyncio.sleep(200)
        async with world.process(ScriptedModel()) as worker:
            assert worker.journal.view.get(old.job) is not None
            assert (await worker.ended(old.job)).status == "completed"


@virtual
async def test_of_many_processes_about_one_writes_a_snapshot_a_minute_and_none_while_nothing_happens() -> (
    None
):
    world = World(snapshots=True)
    async with world.process() as one, world.process(), world.process():
        written = world.server.logs["eco2.snapshots"]
        before = len(written)
        for _ in range(60):
            await one.submit()
            await asyncio.sleep(10)
        busy = len(written) - before
        assert 2 * 6 <= busy <= 2 * 16  # each by itself: 2 * 24
        await asyncio.sleep(200)
        quiet = len(written)
        await asyncio.sleep(600)
        assert len(written) == quiet


@virtual
async def test_a_snapshot_that_is_written_during_a_start_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(snapshots=True)
    async with world.process() as one:
        old = await one.submit(max_wait=86_400)
        await asyncio.sleep(4 * KEEP)

        async def late(store: SnapshotStore, clock: Clock) -> Snapshot | None:
            await one.submit()
            view, last = one.journal.view, one.journal._last
            assert last is not None
            await write_snapshot(store, messages(view.save([(clock(), view.offset)], last.body)))
            return await read_snapshot(store, clock)

        monkeypatch.setattr("eco2.journal.journal.read_snapshot", late)
        async with world.process() as newcomer:
            assert newcomer.journal.view.get(old.job) is not None


def age(process: Process) -> float:
    found = process.journal.status().snapshot_age
    assert found is not None
    return found


@virtual
async def test_a_process_knows_the_age_of_the_newest_snapshot_whoever_wrote_it() -> None:
    world = World(snapshots=True)
    async with world.process() as one, world.process() as other:
        for _ in range(60):
            await one.submit()
            await asyncio.sleep(5)
            assert max(age(one), age(other)) <= 100
        await asyncio.sleep(600)
        async with world.process() as newcomer:
            assert min(age(one), age(other), age(newcomer)) > 400  # nothing happened meanwhile
        await one.submit()
        await asyncio.sleep(100)
        assert max(age(one), age(other)) <= 100


@virtual
async def test_a_process_that_cannot_write_a_snapshot_keeps_no_other_from_it() -> None:
    world = World(snapshots=True)
    async with world.process() as one:

        async def refuse(body: bytes, message_id: str) -> None:
            raise TooLarge("a message of this size")

        one.broker.append_snapshot = refuse  # type: ignore[method-assign]
        for _ in range(30):
            await one.submit()
            await asyncio.sleep(10)
        assert age(one) >= 300
        async with world.process() as other:
            await one.submit()
            await asyncio.sleep(100)
            assert max(age(one), age(other)) <= 100


@pytest.mark.parametrize("same_length", [False, True])
@virtual
async def test_a_snapshot_of_another_journal_is_not_used(same_length: bool) -> None:
    world, other = World(snapshots=True), World(snapshots=True)
    async with world.process() as gateway:
        lost = await gateway.submit(max_wait=86_400)
        await asyncio.sleep(100)
    other.server.logs["eco2.snapshots"] = world.server.logs["eco2.snapshots"]
    async with other.process() as gateway:
        job = await gateway.submit()
        for _ in range(50 if same_length else 0):
            await gateway.submit()
        async with other.process() as newcomer:
            assert newcomer.journal.view.get(lost.job) is None
            assert newcomer.journal.view.get(job.job) is not None
            assert newcomer.journal.view.since <= VirtualClock.now() - KEEP


@pytest.mark.parametrize("closing", ["fails", "swallows it"])
@virtual
async def test_a_look_for_a_snapshot_can_be_cancelled_whatever_its_reader_does(closing: str) -> None:
    """Else a process that stops while it starts would wait for its broker."""
    reading = asyncio.Event()

    class Store:
        async def append_snapshot(self, body: bytes, message_id: str) -> None: ...

        @asynccontextmanager
        async def read_snapshots(self, _: Start) -> AsyncIterator[AsyncIterator[Record]]:
            reading.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                if closing == "fails":
                    raise BrokerUnavailable("the connection is gone") from error
            yield _nothing()

    looking = asyncio.create_task(read_snapshot(Store(), VirtualClock.now))
    await reading.wait()
    looking.cancel()
    await asyncio.wait({looking}, timeout=300)
    assert looking.cancelled()


async def _nothing() -> AsyncIterator[Record]:
    nothing: tuple[Record, ...] = ()
    for record in nothing:
        yield record


@virtual
async def test_who_is_cancelled_while_it_writes_a_snapshot_writes_no_other() -> None:
    world = World(snapshots=True)
    async with world.process() as process:
        await process.submit()
        writing, stop = asyncio.Event(), asyncio.Event()

        async def append(_: bytes, __: str) -> None:
            if writing.is_set():
                return
            writing.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                raise TooLarge("the connection is gone") from error

        process.broker.append_snapshot = append  # type: ignore[assignment,method-assign]
        task = asyncio.create_task(process.journal.write_snapshots(process.broker, stop))
        await writing.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=300)
        stop.set()
        await asyncio.wait({task})
        assert task.cancelled()
