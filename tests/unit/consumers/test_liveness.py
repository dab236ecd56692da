"""Who has a job is asked and answered; only silence that could have been heard counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest

from eco2.consumers.liveness import QUERIES_PER_TIMEOUT, QUERY_TOPIC, REPLY_TOPIC, HolderMonitor
from eco2.consumers.run import ActiveJobs
from eco2.testing.clock import VirtualLoop, virtual
from tests.support.engine_fixtures import rival
from tests.support.world import SILENCE, Process, ScriptedModel, World, until

PAUSE = SILENCE / QUERIES_PER_TIMEOUT
SHORT = 1.0


def now() -> float:
    return asyncio.get_running_loop().time()


def stand_still(seconds: float) -> None:
    """Blocks the loop for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._jump.elapsed += seconds


@asynccontextmanager
async def asking(world: World) -> AsyncIterator[tuple[Process, HolderMonitor]]:
    """A process that asks others, and has no job itself."""
    async with world.process() as process, asyncio.TaskGroup() as group:
        holders, stop = HolderMonitor(process.broker, ActiveJobs(), SILENCE), asyncio.Event()
        group.create_task(holders.run(stop))
        yield process, holders
        stop.set()


class Ears:
    """Notes when each watch was told of silence."""

    def __init__(self, holders: HolderMonitor) -> None:
        self.silent: dict[str, float] = {}
        self._holders = holders
        self._open: list[ExitStack] = []

    def watch(
        self, job: str, run: str | None, name: str | None = None, timeout: float | None = None
    ) -> ExitStack:
        def note() -> None:
            assert (name or job) not in self.silent, "told twice"
            self.silent[name or job] = now()

        stack = ExitStack()
        stack.enter_context(self._holders.watch(job, run, note, timeout))
        self._open.append(stack)  # it ends when nobody refers to it any more
        return stack


@virtual
async def test_silence_counts_after_the_time_out_and_many_questions() -> None:
    async with asking(World()) as (process, holders):
        asked: list[float] = []
        process.broker.subscribe(QUERY_TOPIC, lambda topic, body: asked.append(now()))
        ears, began = Ears(holders), now()
        ears.watch("j", "r")
        await until(lambda: bool(ears.silent))
        assert SILENCE <= ears.silent["j"] - began <= SILENCE + PAUSE + 0.1
        assert len(asked) >= QUERIES_PER_TIMEOUT
        await asyncio.sleep(5 * SILENCE)  # told once, and nobody is asked any more
        assert len(asked) <= QUERIES_PER_TIMEOUT + 1


@virtual
async def test_every_answer_begins_the_time_out_anew() -> None:
    async with asking(World()) as (process, holders):
        ears = Ears(holders)
        with rival(process, "j", run="r"):
            ears.watch("j", "r")
            await asyncio.sleep(5 * SILENCE)
            assert ears.silent == {}
        last = now()
        await until(lambda: bool(ears.silent))
        assert SILENCE - PAUSE - 0.1 <= ears.silent["j"] - last <= SILENCE + PAUSE + 0.1


@virtual
async def test_a_watch_may_have_a_shorter_time_out_of_its_own() -> None:
    async with asking(World()) as (process, holders):
        asked: list[list[str]] = []
        process.broker.subscribe(QUERY_TOPIC, lambda _, body: asked.append(msgspec.json.decode(body)["jobs"]))
        ears, began = Ears(holders), now()
        ears.watch("long", "r")
        await asyncio.sleep(PAUSE / 2)
        for job in ("a", "b"):
            ears.watch(job, "r", timeout=SHORT)
        with rival(process, "lives", run="r"):
            ears.watch("lives", "r", timeout=SHORT)
            await until(lambda: len(ears.silent) == 2)
            for job in ("a", "b"):
                assert (
                    SHORT
                    <= ears.silent[job] - began - PAUSE / 2
                    <= SHORT * (1 + 1 / QUERIES_PER_TIMEOUT) + 0.1
                )
            assert (
                sum({"a", "b", "lives"} <= {*jobs} for jobs in asked) >= QUERIES_PER_TIMEOUT
            )  # in one message
            await asyncio.sleep(3 * SILENCE)
        assert SILENCE <= ears.silent["long"] - began <= SILENCE + PAUSE + 0.1
        assert sum("long" in jobs for jobs in asked) <= QUERIES_PER_TIMEOUT + 1
        assert "lives" not in ears.silent


@virtual
async def test_a_time_out_is_never_longer_than_that_of_the_process() -> None:
    async with asking(World()) as (_, holders):
        ears, began = Ears(holders), now()
        ears.watch("j", "r", timeout=10 * SILENCE)
        await until(lambda: bool(ears.silent))
        assert ears.silent["j"] - began <= SILENCE + PAUSE + 0.1


@pytest.mark.parametrize("late", [0.0, 0.3, 0.95, 1.5])
def test_a_holder_that_replies_is_not_silent_however_slow_we_are(late: float) -> None:
    """Each time that this process wakes up, the next query is due before it has read any reply."""

    @virtual
    async def scenario() -> None:
        async with asking(World()) as (process, holders):
            ears = Ears(holders)
            with rival(process, "j", run="r"):
                ears.watch("j", "r", timeout=SHORT)
                for _ in range(40):
                    await asyncio.sleep(0.1)
                    stand_still(late)
                assert ears.silent == {}
            await until(lambda: bool(ears.silent))

    scenario()


@pytest.mark.parametrize("cut", ["before", "while we watch"])
def test_who_was_cut_off_itself_gives_others_the_whole_time_to_return(cut: str) -> None:
    @virtual
    async def scenario() -> None:
        async with asking(World()) as (process, holders):
            ears = Ears(holders)
            if cut == "before":
                process.broker.disrupt()  # type: ignore[attr-defined]
                await until(lambda: process.broker.ready)
            back = now()
            ears.watch("j", "r", timeout=SHORT)
            if cut != "before":
                await asyncio.sleep(SHORT / 2)
                process.broker.disrupt()  # type: ignore[attr-defined]
                back = now()
            await until(lambda: bool(ears.silent))
            assert SILENCE - PAUSE - 0.1 <= ears.silent["j"] - back <= SILENCE + PAUSE + 0.1
            began = now()
            ears.watch("later", "r", timeout=SHORT)
            await until(lambda: "later" in ears.silent)
            assert ears.silent["later"] - began <= SHORT * (1 + 1 / QUERIES_PER_TIMEOUT) + 0.1

    scenario()


@pytest.mark.parametrize("at", [0.3 * SILENCE, 0.9 * SILENCE])
def test_when_we_stood_still_ourselves_the_time_out_begins_anew(at: float) -> None:
    @virtual
    async def scenario() -> None:
        async with asking(World()) as (_, holders):
            ears = Ears(holders)
            ears.watch("j", "r")
            await asyncio.sleep(at)
            stand_still(2 * SILENCE)
            woke = now()
            await until(lambda: bool(ears.silent))
            assert ears.silent["j"] - woke >= SILENCE

    scenario()


@virtual
async def test_a_watch_that_begins_long_after_the_last_waits_as_long() -> None:
    async with asking(World()) as (_, holders):
        ears = Ears(holders)
        for job in ("first", "second"):
            began = now()
            ears.watch(job, "r")
            await until(lambda job=job: job in ears.silent)  # type: ignore[misc]  # a default of a lambda
            assert SILENCE <= ears.silent[job] - began <= SILENCE + PAUSE + 0.1
            await asyncio.sleep(100)


@virtual
async def test_of_several_watches_each_hears_its_own() -> None:
    async with asking(World()) as (process, holders):
        ears = Ears(holders)
        with rival(process, "j", run="r"):
            for run in ("r", "another", None):
                ears.watch("j", run, str(run))
            ears.watch("k", None)
            closed = ears.watch("l", None)
            await asyncio.sleep(SILENCE / 2)
            closed.close()
            await asyncio.sleep(3 * SILENCE)
            assert sorted(ears.silent) == ["another", "k"]


@virtual
async def test_who_only_keeps_an_order_is_not_at_work_on_a_run() -> None:
    async with asking(World()) as (process, holders):
        ears = Ears(holders)
        with rival(process, "j", run=""):
            ears.watch("j", "r", "the run")
            ears.watch("j", None, "anyone")
            await asyncio.sleep(3 * SILENCE)
            assert list(ears.silent) == ["the run"]


@virtual
async def test_a_worker_says_which_of_its_jobs_it_is_at_work_on() -> None:
    world, model = World(), ScriptedModel(seconds=100)
    said: list[dict[str, str]] = []
    async with world.process() as gateway, world.process(model, concurrency=1):
        gateway.broker.subscribe(
            REPLY_TOPIC, lambda topic, body: said.append(msgspec.json.decode(body)["jobs"])
        )
        job = (await gateway.submit()).job
        await until(lambda: bool(model.in_flight))
        state = gateway.journal.view.get(job)
        assert state is not None
        gateway.broker.broadcast(QUERY_TOPIC, msgspec.json.encode({"jobs": ["unknown", job]}))
        await until(lambda: bool(said))
        assert said == [{job: state.run}]
        gateway.broker.broadcast(QUERY_TOPIC, msgspec.json.encode({"jobs": ["unknown"]}))
        await asyncio.sleep(1)
        assert len(said) == 1
        await gateway.ended(job)


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"jobs": 1}', b"[]"])
def test_what_this_version_cannot_read_is_nothing(body: bytes) -> None:
    @virtual
    async def scenario() -> None:
        async with asking(World()) as (process, holders):
            ears = Ears(holders)
            ears.watch("j", None)
            for _ in range(30):
                process.broker.broadcast(QUERY_TOPIC, body)
                process.broker.broadcast(REPLY_TOPIC, body)
                await asyncio.sleep(1)
            assert list(ears.silent) == ["j"]

    scenario()
