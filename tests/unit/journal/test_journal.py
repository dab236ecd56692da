"""The journal on the embedded broker: filling, barrier, idempotency by log order, look-ups of old jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Never, Self

import pytest

from eco2.broker.embedded import Chaos, Embedded
from eco2.errors import BrokerUnavailable, JobForgotten
from eco2.event import Done, Event, Marker, Queued, RunStarted, StageChanged, Superseded, encode_events
from eco2.job import JSON, new_id
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.journal.view import View
from eco2.ports import Record, Start, ignore
from eco2.testing.clock import VirtualClock, virtual
from tests.support.world import KEEP, Process, World, until


async def end(process: Process, job: str) -> None:
    now = VirtualClock.now()
    await process.journal.put(
        Done(ts=now, job=job, run=None, status="completed", seq=31, result={"job": job})
    )


async def pass_by(process: Process, seconds: float) -> None:
    """Time goes by, and the journal goes on: old jobs leave the view with the next one that is queued."""
    await asyncio.sleep(seconds)
    await process.submit("later")


@virtual
async def test_a_process_that_starts_later_has_folded_what_came_before() -> None:
    world = World()
    async with world.process() as first:
        job = (await first.submit()).job
        async with world.process() as second:
            assert second.journal.view.get(job) == first.journal.view.get(job)


@virtual
async def test_a_found_job_is_never_denied_by_a_replica_that_lags() -> None:
    """The tail of the second process is late by up to 20 ms; `find` passes the barrier first."""
    world = World(Chaos(seed=3, lag=1.0))
    async with world.process() as first, world.process() as second:
        for n in range(20):
            job = (await first.submit(str(n))).job
            assert await second.journal.find(job) is not None


@virtual
async def test_barriers_asked_for_together_share_markers() -> None:
    world = World()
    async with world.process() as process:
        before = process.journal.view.offset
        async with asyncio.TaskGroup() as group:
            for _ in range(500):
                group.create_task(process.journal.barrier())
        assert process.journal.view.offset - before <= 2


@virtual
async def test_of_two_jobs_with_one_key_the_first_in_the_log_wins_everywhere() -> None:
    world = World()
    async with world.process() as first, world.process() as second, world.process() as reader:
        one, other = await asyncio.gather(first.submit("q", key="k"), second.submit("q", key="k"))
        winner, loser = (one, other) if other.status == "superseded" else (other, one)
        assert loser.superseded_by == winner.job
        await reader.journal.barrier()
        for process in (first, second, reader):
            seen = process.journal.view.get(loser.job)
            assert seen is not None
            assert (seen.status, seen.superseded_by) == ("superseded", winner.job)
            held = process.journal.view.by_key("", "k", VirtualClock.now())
            assert held == winner.job


@virtual
async def test_a_key_is_free_again_when_its_job_has_left_the_view() -> None:
    async with World().process() as process:
        first = await process.submit("q", key="k")
        await pass_by(process, KEEP + 1)
        again = await process.submit("q", key="k")
        assert (again.status, again.job) != ("superseded", first.job)


@virtual
async def test_an_ended_job_that_is_not_kept_is_read_again_with_all_its_events() -> None:
    world = World()
    async with world.process() as process:
        job = (await process.submit()).job
        await end(process, job)
        before = await process.ended(job)
        process.journal.view.ended.max_bytes = 0
        await end(process, (await process.submit()).job)
        await process.journal.barrier()
        assert process.journal.view.get(job) is None
        assert await process.journal.find(job) == before


@virtual
async def test_a_job_that_has_not_ended_never_leaves_the_view() -> None:
    async with World().process() as process:
        job = (await process.submit("q", key="k")).job
        waiting = asyncio.ensure_future(process.journal.view.change(job, process.journal.view.get(job)))
        await pass_by(process, 10 * KEEP)
        run = RunStarted(ts=VirtualClock.now(), job=job, run="r", attempt=1, worker="w")
        await process.journal.put(run)
        assert (await waiting).run == "r"
        await end(process, job)
        assert (await process.ended(job)).status == "completed"


@virtual
async def test_an_unended_job_from_before_the_start_is_found_and_then_followed() -> None:
    world = World()
    async with world.process() as process:
        job = (await process.submit()).job
        await pass_by(process, KEEP + 60)
        async with world.process() as newcomer:
            found = await newcomer.journal.find(job)
            assert found == process.journal.view.get(job)
            change = asyncio.ensure_future(newcomer.journal.view.change(job, found))
            await process.journal.put(RunStarted(ts=0.0, job=job, run="r", attempt=1, worker="w"))
            assert (await change).run == "r"


@virtual
async def test_a_process_that_never_saw_the_job_searches_by_the_time_in_its_id() -> None:
    world = World(Chaos(seed=1, early=300))
    async with world.process() as process:
        job = (await process.submit()).job
        await end(process, job)
        for _ in range(400):
            await process.submit("more than an early seek goes back")
        await pass_by(process, KEEP + 60)
        async with world.process() as newcomer:
            assert newcomer.journal.view.ended.find(job) is None
            found = await newcomer.journal.find(job)
    assert found is not None
    assert found.result == {"job": job}


@virtual
async def test_an_unknown_id_is_unknown_and_a_foreign_one_needs_no_search() -> None:
    async with World().process() as process:
        await asyncio.sleep(30)
        await process.submit()
        assert await process.journal.find(new_id(VirtualClock.now())) is None
        assert await process.journal.find("not-an-id") is None
        assert await process.journal.find(new_id(VirtualClock.now() + 1e6)) is None
        assert await process.journal.find("6f1b5b52-52a5-4e6b-9f0e-3a4f5e6d7c8b") is None


@virtual
async def test_an_id_older_than_the_journal_is_gone() -> None:
    async with World().process() as process:
        await process.submit()
        with pytest.raises(JobForgotten):
            await process.journal.find(new_id(VirtualClock.now() - 3600))


@virtual
async def test_what_no_reader_knows_is_skipped_and_counted() -> None:
    world = World()
    async with world.process() as process:
        stray = Embedded(world.topology, world.server)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(stray.run(stop))
            await until(lambda: stray.ready)
            for body in (b"not json", b'{"v":99}', b'{"v":1,"events":[{"type":"newer"}]}'):
                await stray.append(body, "m")
            early = StageChanged(ts=1.0, job="x", run="r", stage="s", status="started", seq=10, progress=0)
            await stray.append(encode_events([early]), "m")
            stop.set()
        state = await process.submit()
        assert process.journal.view.skipped == 3
        assert state.status == "queued"


@virtual
async def test_a_queued_event_that_was_withdrawn_in_time_never_reaches_the_log() -> None:
    world = World()
    async with world.process() as process:
        world.server.block("memory")
        now = VirtualClock.now()
        withheld = Queued(ts=now, job=new_id(now), pipeline="ask", deadline=now + 1, digest="d")
        blocker = process.journal.put(Marker(ts=now, id="first in line"))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await process.journal.announce(withheld)
        world.server.unblock()
        await blocker
        await process.journal.barrier()
        assert process.journal.view.get(withheld.job) is None


@virtual
async def test_stop_flushes_what_was_put() -> None:
    world = World()
    async with world.process() as reader:
        async with world.process() as leaving:
            now = VirtualClock.now()
            queued = Queued(ts=now, job=new_id(now), pipeline="ask", deadline=now + 1, digest="d")
            leaving.journal.put(queued)
        assert (await reader.journal.find(queued.job)) is not None


class Withheld:
    """A stream that confirms at once and whose tail shows records only when it is told to."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._shown = 0
        self._on_record: Callable[[Record], None] = lambda record: None

    @property
    def attached(self) -> bool:
        return True

    async def cancel(self) -> None:
        pass

    async def append(self, body: bytes, message_id: str) -> None:
        self.records.append(Record(len(self.records), body))

    async def reattach(self) -> None:
        pass

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> Self:
        self._on_record = on_record
        return self

    def read(self, start: Start) -> Never:
        raise AssertionError("nothing here is older than the view")

    def show(self, count: int) -> None:
        """The tail moves on until it has shown `count` records in all."""
        for record in self.records[self._shown : count]:
            self._on_record(record)
        self._shown = max(self._shown, count)


@virtual
async def test_a_view_counts_as_filled_only_once_it_shows_its_own_marker() -> None:
    stream, stop = Withheld(), asyncio.Event()
    journal = Journal(stream, View(KEEP, VirtualClock.now))
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.run(stop))
        await until(lambda: bool(stream.records))
        assert not journal.filled.is_set()
        stream.show(1)
        await until(journal.filled.is_set)
        stop.set()


class EndLater(Withheld):
    """As RabbitMQ does now and then: a tail from a time that the log has not reached yet begins at the end of
    a moment later, behind what was written meanwhile."""

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> Self:
        self._shown = 0 if self.records else 1
        return super().tail(start, on_record, on_replaced)


@virtual
async def test_a_view_is_filled_although_a_tail_from_a_time_may_begin_behind_what_is_being_written() -> None:
    stream, stop = EndLater(), asyncio.Event()
    journal = Journal(stream, View(KEEP, VirtualClock.now))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(journal.run(stop))
        await until(lambda: bool(stream.records))
        stream.show(1)
        await until(journal.filled.is_set)
        assert len(stream.records) == 1  # its own marker, which the tail has not missed
        stop.set()


@virtual
async def test_a_barrier_waits_for_what_came_into_the_log_while_an_earlier_one_was_on_its_way() -> None:
    stream, stop = Withheld(), asyncio.Event()
    journal = Journal(stream, View(KEEP, VirtualClock.now))
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.run(stop))
        await until(lambda: len(stream.records) == 1)
        stream.show(1)
        earlier = group.create_task(journal.barrier())
        await until(lambda: len(stream.records) == 2)
        await stream.append(encode_events([queued("confirmed elsewhere", VirtualClock.now())]), "m")
        later = group.create_task(journal.barrier())
        await asyncio.sleep(1)
        stream.show(2)
        await earlier
        await until(lambda: later.done() or len(stream.records) == 4)
        assert not later.done()
        stream.show(4)
        await later
        assert journal.view.get("confirmed elsewhere") is not None
        stop.set()


@virtual
async def test_whoever_gives_up_on_a_barrier_leaves_it_to_the_others() -> None:
    async with World().process() as process:
        impatient, patient = (asyncio.ensure_future(process.journal.barrier()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert impatient.cancelled()
        await process.journal.barrier()


class Fold:
    """A view by itself, under a wall clock that the test sets."""

    def __init__(self, results: int = 1_000_000) -> None:
        self.now = 1_000.0
        self.view = View(100.0, lambda: self.now, results=results)

    def take(self, *events: Event) -> None:
        self.view.apply(Record(self.view.offset + 1, encode_events(events)))

    def holder(self, at: float, owner: str = "") -> str | None:
        return self.view.by_key(owner, "k", at)


def queued(job: str, ts: float, key: str | None = None, owner: str = "") -> Queued:
    return Queued(ts=ts, job=job, pipeline="ask", deadline=ts + 60, digest="d", key=key, owner=owner)


@pytest.mark.parametrize("ended", [False, True])
def test_a_key_counts_as_long_as_the_view_reaches_back(ended: bool) -> None:
    fold = Fold(results=0)
    fold.take(queued("a", 1_000.0, "k"))
    if ended:
        fold.take(done("a"), queued("other", 1_000.0), done("other"))
    assert (fold.view.get("a") is None) is ended
    assert fold.holder(at=1_100.0) == "a"
    assert fold.holder(at=1_100.1) is None
    fold.take(queued("b", 1_100.1, "k"), queued("c", 1_100.1, "k"))
    assert fold.holder(at=1_100.1) == "b"
    fold.take(done("b"), *([] if ended else [done("a")]))
    assert fold.holder(at=1_100.1) == "b"


def test_an_ended_job_is_shown_as_it_was() -> None:
    fold, output, usage = Fold(), JSON(text="long"), JSON(calls=1)
    changes: list[JobState] = []
    fold.view.observe(changes.append)
    fold.take(
        queued("a", 1_000.0, "k"),
        RunStarted(ts=1_000.0, job="a", run="r", attempt=1, worker="w"),
        StageChanged(
            ts=1_000.0,
            job="a",
            run="r",
            stage="draft",
            status="completed",
            seq=11,
            progress=50,
            output=output,
            usage=usage,
        ),
        Done(ts=1_001.0, job="a", run="r", status="failed", seq=21, result={"text": "x"}, dead=True),
    )
    assert fold.view.get("a") == changes[-1]
    assert changes[-1].outputs == {"draft": output}
    assert list(fold.view) == []
    assert fold.view.recent() == [changes[-1]]


def test_ended_jobs_are_kept_up_to_a_bound_and_the_index_names_the_others() -> None:
    fold, text = Fold(results=20_000), "".join(map(str, range(200)))
    for number in range(500):
        name = f"job {number}"
        fold.take(queued(name, 1_000.0), done(name, text=f"{text} {number}", dead=number % 2 == 1))
    kept = [number for number in range(500) if fold.view.get(f"job {number}")]
    assert kept == list(range(500 - len(kept), 500))
    assert 10 < len(kept) < 200
    found = [fold.view.ended.find(f"job {number}") for number in range(500)]
    assert [(each.id, each.dead) for each in found if each] == [
        (f"job {number}", number % 2 == 1) for number in range(500)
    ]
    assert fold.view.ended.find("job 500") is None
    assert fold.view.ended.find("a name of someone else, longer than one of ours") is None


def test_a_copy_of_an_ended_jobs_beginning_does_not_begin_it_anew() -> None:
    fold = Fold(results=0)
    fold.take(queued("a", 1_000.0), done("a"), queued("b", 1_000.0), done("b"), queued("a", 1_000.0))
    assert list(fold.view) == []


def done(job: str, *, text: str = "x", dead: bool = False) -> Done:
    return Done(ts=1_001.0, job=job, run=None, status="completed", seq=21, result={"text": text}, dead=dead)


def test_one_key_of_two_owners_is_two_keys() -> None:
    fold = Fold()
    fold.take(queued("a", 1_000.0, "k", "ann"), queued("b", 1_000.0, "k", "bob"))
    assert (fold.holder(1_000.0, "ann"), fold.holder(1_000.0, "bob")) == ("a", "b")
    assert fold.holder(1_000.0) is None


def test_an_event_from_a_clock_ahead_takes_a_key_that_is_over() -> None:
    fold = Fold()
    fold.take(queued("a", 1_000.0, "k"))
    fold.take(queued("ahead", 1_101.0, "k"))
    assert fold.view.get("a") is not None
    assert fold.holder(at=1_101.0) == "ahead"
    fold.take(done("a"))
    assert fold.holder(at=1_102.0) == "ahead"


def test_a_job_that_lost_to_one_before_the_view_holds_no_key() -> None:
    fold = Fold()
    fold.take(queued("a", 1_000.0, "k"), Superseded(ts=1_001.0, job="a", by="older than the view"))
    assert fold.holder(at=1_001.0) is None


def test_the_index_drops_the_oldest_jobs_but_none_whose_key_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco2.journal.ended.SEGMENT_ROWS", 2)
    monkeypatch.setattr("eco2.journal.ended.INDEX_SIZE", 4)
    fold = Fold(results=0)

    def found() -> list[str]:
        return [name for name in "abcdefgh" if fold.view.ended.find(name)]

    for name in "abcdef":
        fold.take(queued(name, 1_000.0, f"key of {name}"), done(name))
    assert found() == list("abcdef")
    fold.now = 1_200.0
    fold.take(queued("g", 1_200.0), done("g"))
    assert found() == list("cdefg")
    assert fold.view.since == 1_000.0


@virtual
async def test_a_search_allows_for_clocks_that_differ_and_says_so_when_there_was_no_such_job() -> None:
    world = World()
    async with world.process() as process:
        born = VirtualClock.now()
        await asyncio.sleep(4)
        await process.submit("in between")
        await asyncio.sleep(4)
        now = VirtualClock.now()
        slow = (await process.journal.announce(queued(new_id(born), now))).job
        await asyncio.sleep(12)
        await process.submit("behind it")
        await pass_by(process, KEEP + 60)
        async with world.process() as newcomer:
            found = await newcomer.journal.find(slow)
            assert found is not None
            assert found.job == slow
            assert await newcomer.journal.find(new_id(born + 9)) is None


class Readers:
    """Counts the readers of a stream, and what they read."""

    def __init__(self, read: Callable[[Start], AbstractAsyncContextManager[AsyncIterator[Record]]]) -> None:
        self._read = read
        self._open = 0
        self.peak = 0
        self.records = 0

    @asynccontextmanager
    async def read(self, start: Start) -> AsyncIterator[AsyncIterator[Record]]:
        self._open += 1
        self.peak = max(self.peak, self._open)
        async with self._read(start) as records:
            yield self._counted(records)
        self._open -= 1

    async def _counted(self, records: AsyncIterator[Record]) -> AsyncIterator[Record]:
        async for record in records:
            self.records += 1
            yield record


@virtual
async def test_a_search_gives_up_soon_and_few_search_at_once() -> None:
    world = World()
    async with world.process() as process:
        await process.submit()
        born = VirtualClock.now() + 1
        await asyncio.sleep(12)
        for _ in range(300):
            await process.submit("long after")
        await pass_by(process, KEEP + 60)
        async with world.process() as newcomer:
            readers = Readers(newcomer.broker.read)
            newcomer.broker.read = readers.read  # type: ignore[method-assign]
            ids = [new_id(born) for _ in range(6)]
            assert await asyncio.gather(*map(newcomer.journal.find, ids)) == [None] * 6
    assert readers.peak == 2
    assert readers.records < 6 * 10


@pytest.mark.parametrize("closing", ["fails", "swallows it"])
@virtual
async def test_a_look_at_the_logs_end_can_be_cancelled_whatever_its_reader_does(closing: str) -> None:
    """Else the watch would go on for ever, and a replaced journal would never be read."""
    world = World()
    async with world.process() as process:
        reading = asyncio.Event()

        @asynccontextmanager
        async def read(_: Start) -> AsyncIterator[AsyncIterator[Record]]:
            reading.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                if closing == "fails":
                    raise BrokerUnavailable("the connection is gone") from error
            yield _nothing()

        process.journal.put = lambda *_: asyncio.sleep(0)  # type: ignore[assignment,method-assign]
        process.broker.read = read  # type: ignore[assignment,method-assign]
        looking = asyncio.create_task(process.journal._ends_earlier())
        await reading.wait()
        looking.cancel()
        await asyncio.wait({looking})
        assert looking.cancelled()


async def _nothing() -> AsyncIterator[Record]:
    nothing: tuple[Record, ...] = ()
    for record in nothing:
        yield record
