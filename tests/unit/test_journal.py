"""The journal on the embedded broker: filling, barrier, idempotency by log order, look-ups of old jobs."""

import asyncio

import pytest

from eco2.broker.embedded import Chaos, Embedded
from eco2.errors import Gone
from eco2.event import Done, Marker, Queued, StageChanged, encode_events
from eco2.job import new_id
from tests.clock import VirtualClock, virtual
from tests.world import KEEP, Process, World, until


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
        assert loser.by == winner.job
        await reader.journal.barrier()
        for process in (first, second, reader):
            seen = process.journal.view.get(loser.job)
            assert seen is not None
            assert (seen.status, seen.by) == ("superseded", winner.job)
            held = process.journal.view.by_key("", "k", VirtualClock.now())
            assert held is not None
            assert held.job == winner.job


@virtual
async def test_a_key_is_free_again_when_its_job_has_left_the_view() -> None:
    async with World().process() as process:
        first = await process.submit("q", key="k")
        await pass_by(process, KEEP + 1)
        again = await process.submit("q", key="k")
        assert (again.status, again.job) != ("superseded", first.job)


@virtual
async def test_a_job_that_left_the_view_is_read_again_with_all_its_events() -> None:
    world = World()
    async with world.process() as process:
        job = (await process.submit()).job
        await end(process, job)
        before = await process.ended(job)
        await pass_by(process, KEEP + 1)
        assert process.journal.view.get(job) is None
        assert await process.journal.find(job) == before


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
            assert newcomer.journal.view.left(job) is None
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
        with pytest.raises(Gone):
            await process.journal.find(new_id(VirtualClock.now() - 3600))


@virtual
async def test_waiting_for_a_job_that_leaves_the_view_ends() -> None:
    async with World().process() as process:
        state = await process.submit()
        waiting = asyncio.ensure_future(process.journal.view.change(state.job, state))
        await pass_by(process, KEEP + 1)
        with pytest.raises(Gone):
            await waiting


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
