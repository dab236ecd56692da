"""Where a call goes: pinned or not, with one provider slow, down, back, too small or closed to us."""

import asyncio
from collections import Counter

import pytest

from eco2.calls.provider import FAILURES, HALF_LIFE, BreakerOpened, Provider
from eco2.calls.router import best
from eco2.errors import ProviderAccessDenied, ProviderDown, RateLimited
from eco2.journal.state import JobState
from eco2.metrics import Metrics
from eco2.pacer import Limits
from eco2.pipeline import Call, Context
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import single
from tests.support.provider_windows import fullest
from tests.support.rate_limited_provider import Windowed
from tests.support.recorded_quota import RecordedQuota
from tests.support.world import Draft, Process, Question, Remote, ScriptedModel, World, monotonic, until


async def ask(context: Context[Question]) -> Draft:
    await context.call(Call("draft", "system", context.input.text, str, 100))
    return Draft(text="")


ONE_CALL = single(ask)
PLENTY = Limits(10_000.0, 1e7)


def code(state: JobState) -> object:
    error = (state.result or {})["error"]
    return error["code"] if isinstance(error, dict) else error


def message(state: JobState) -> str:
    error = (state.result or {})["error"]
    return str(error["message"]) if isinstance(error, dict) else ""


def failing(error: Exception) -> ScriptedModel:
    """Fails every call by this."""

    def script(kind: str, job: str) -> None:
        raise error

    return ScriptedModel(seconds=0.1, script=script)


def goes_down(process: Process, name: str) -> None:
    """As by a call that the provider refused for good."""
    with pytest.raises(ProviderAccessDenied), process.providers[name].guard():
        raise ProviderAccessDenied("no")


def two(one: ScriptedModel | Windowed, other: ScriptedModel | Windowed, slots: int = 10) -> list[Remote]:
    return [Remote("one", one, concurrency=slots), Remote("other", other, concurrency=slots)]


@virtual
async def test_what_a_call_had_to_wait_counts_half_and_fades() -> None:
    provider = Provider("p", "p", ScriptedModel(), 1, Metrics(), None)
    async with provider.waiting():
        await asyncio.sleep(8)
    assert provider.expected_wait(monotonic()) == pytest.approx(4)
    async with provider.waiting():
        await asyncio.sleep(0)
    assert provider.expected_wait(monotonic()) == pytest.approx(2)
    await asyncio.sleep(HALF_LIFE)
    assert provider.expected_wait(monotonic()) == pytest.approx(1)
    assert provider.expected_wait(monotonic() + 20 * HALF_LIFE) < 1e-5


@virtual
async def test_a_job_gets_the_model_that_it_names() -> None:
    one, other = ScriptedModel(), ScriptedModel()
    async with World().process(remotes=two(one, other), pipeline=ONE_CALL) as process:
        for name in ("other", "one", "other"):
            assert (await process.ended((await process.submit(model=name)).job)).status == "completed"
        unknown = await process.ended((await process.submit(model="none")).job)
    assert (len(one.calls), len(other.calls)) == (1, 2)
    assert code(unknown) == "UNSUPPORTED_MODEL"
    assert "one, other" in message(unknown)


@virtual
async def test_a_pinned_job_waits_for_its_provider_until_its_deadline() -> None:
    down, other = failing(ProviderDown("503")), ScriptedModel()
    async with World().process(remotes=two(down, other), pipeline=ONE_CALL) as process:
        goes_down(process, "one")
        state = await process.ended((await process.submit(model="one", max_wait=120)).job)
        assert VirtualClock.now() - state.deadline < 1
    assert code(state) == "TIMEOUT"  # it had begun: a call found the provider down
    assert other.calls == []


@virtual
async def test_a_pinned_job_goes_on_when_its_provider_is_back() -> None:
    provider = Windowed(PLENTY, down=True)
    async with World().process(remotes=two(provider, ScriptedModel()), pipeline=ONE_CALL) as process:
        goes_down(process, "one")
        job = (await process.submit(model="one")).job
        await asyncio.sleep(60)
        provider.down = False
        back = VirtualClock.now()
        assert (await process.ended(job)).status == "completed"
        assert VirtualClock.now() - back < 20


@virtual
async def test_jobs_without_a_model_are_shared_by_the_expected_wait() -> None:
    slow, quick = ScriptedModel(seconds=30), ScriptedModel(seconds=3)
    remotes = two(slow, quick, slots=2)
    async with World().process(remotes=remotes, pipeline=ONE_CALL, prefetch=40) as process:
        jobs = []
        for _ in range(60):  # a little more than the quick one could take
            jobs.append((await process.submit(max_wait=800)).job)
            await asyncio.sleep(1.4)
        for job in jobs:
            await process.ended(job)
    assert len(slow.calls) + len(quick.calls) == 60
    assert len(quick.calls) > 5 * len(slow.calls) > 0


@virtual
async def test_who_waits_long_or_waited_lately_is_no_place_for_the_next_call() -> None:
    shut, one, other = RecordedQuota(), ScriptedModel(), ScriptedModel()
    shut.open.clear()
    remotes = [Remote("one", one, quota=shut), Remote("other", other)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        first = (await process.submit()).job
        await asyncio.sleep(10)
        await process.ended((await process.submit()).job)
        assert (len(one.calls), len(other.calls)) == (0, 1)
        shut.open.set()
        await process.ended(first)
        await process.ended((await process.submit()).job)
        assert (len(one.calls), len(other.calls)) == (1, 2)


@virtual
async def test_a_long_wait_is_better_than_a_provider_that_is_down() -> None:
    async with World().process(remotes=two(ScriptedModel(), ScriptedModel())) as process:
        one, other = process.providers.values()

        async def wait() -> None:
            async with other.waiting():
                await asyncio.sleep(100)

        waits = asyncio.create_task(wait())
        await asyncio.sleep(30)
        assert best([one, other]) is one
        goes_down(process, "one")
        assert 0 < one.expected_wait(monotonic()) < other.expected_wait(monotonic())
        assert best([one, other]) is other
        goes_down(process, "other")
        with pytest.raises(BreakerOpened):
            await waits


@virtual
async def test_a_burst_is_shared_by_the_slots_that_there_are() -> None:
    one, other = ScriptedModel(), ScriptedModel()
    remotes = [Remote("one", one, concurrency=10), Remote("other", other, concurrency=20)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL, prefetch=30) as process:
        jobs = [(await process.submit()).job for _ in range(30)]
        for job in jobs:
            await process.ended(job)
    assert (len(one.calls), len(other.calls)) == (10, 20)


@virtual
async def test_while_one_provider_is_down_the_other_takes_all() -> None:
    down, other = failing(ProviderDown("503")), ScriptedModel()
    async with World().process(remotes=two(down, other), pipeline=ONE_CALL) as process:
        jobs = [(await process.submit()).job for _ in range(100)]
        states = [await process.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    assert all(state.retries == 0 for state in states)
    assert len(other.calls) == 100
    assert FAILURES <= len(down.calls) <= FAILURES + 10


@virtual
async def test_a_call_that_failed_is_tried_elsewhere_even_while_no_breaker_is_open() -> None:
    flaky, other = failing(ProviderDown("503")), ScriptedModel()
    async with World().process(remotes=two(flaky, other), pipeline=ONE_CALL) as process:
        job = (await process.submit()).job
        assert (await process.ended(job)).status == "completed"
    assert (len(flaky.calls), len(other.calls)) == (1, 1)


@virtual
async def test_a_provider_that_never_answers_is_left_and_comes_back() -> None:
    hanging, other = ScriptedModel(seconds=1000), ScriptedModel()
    async with World().process(remotes=two(hanging, other), pipeline=ONE_CALL) as process:
        states = [await process.ended(job) for job in [(await process.submit()).job for _ in range(10)]]
        assert FAILURES <= len(hanging.calls) <= 10
        assert not process.providers["one"].up
        began = VirtualClock.now()
        for job in [(await process.submit()).job for _ in range(10)]:
            states.append(await process.ended(job))
        assert VirtualClock.now() - began < 5
        pinned = (await process.submit(model="one", max_wait=800)).job
        hanging.seconds = 1.0
        states.append(await process.ended(pinned))
        await until(lambda: process.providers["one"].up)
    assert {state.status for state in states} == {"completed"}
    assert all(state.retries == 0 for state in states)


@virtual
async def test_tokens_bind_where_they_are_scarcer_than_requests() -> None:
    """Both allow a call a second by requests; of the first, tokens last for one in twenty seconds."""
    shut = RecordedQuota()
    shut.open.clear()
    limits = (Limits(60.0, 300.0), Limits(60.0, 60_000.0))
    remotes = [
        Remote(name, ScriptedModel(), limit, quota=shut)
        for name, limit in zip(("one", "other"), limits, strict=True)
    ]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        one, other = process.providers.values()
        for name in ("one", "other"):
            await process.submit(model=name)
        await until(lambda: shut.asked == 2)
        assert other.expected_wait(monotonic()) < 1.1
        assert 19 < one.expected_wait(monotonic()) < 21
        assert best([one, other]) is other


@virtual
async def test_what_one_provider_asks_to_wait_does_not_hold_at_another() -> None:
    limited, other = failing(RateLimited("429", retry_after=50.0)), ScriptedModel()
    async with World().process(remotes=two(limited, other), pipeline=ONE_CALL) as process:
        began = VirtualClock.now()
        await process.ended((await process.submit()).job)
        assert VirtualClock.now() - began < 5
        pinned = asyncio.ensure_future(process.ended((await process.submit(model="one")).job))
        await asyncio.sleep(45)
        assert len(limited.calls) == 2
        await asyncio.sleep(10)
        assert len(limited.calls) == 3
        pinned.cancel()


@virtual
async def test_a_key_that_one_provider_refuses_fails_no_job_that_another_can_take() -> None:
    closed, other = failing(ProviderAccessDenied("check the key")), ScriptedModel()
    async with World().process(remotes=two(closed, other), pipeline=ONE_CALL) as process:
        states = []
        for _ in range(30):
            states.append(await process.ended((await process.submit()).job))
            await asyncio.sleep(5)
        pinned = await process.ended((await process.submit(model="one")).job)
    assert {state.status for state in states} == {"completed"}
    assert len(closed.calls) > 3  # it was tried again and again
    assert (code(pinned), pinned.dead) == ("PROVIDER_REFUSED", True)


@virtual
async def test_behind_an_open_breaker_one_call_goes_ahead_and_brings_the_provider_back() -> None:
    model = ScriptedModel(seconds=5.0)
    remotes = [Remote("one", model, concurrency=30)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL, prefetch=30) as process:
        goes_down(process, "one")
        jobs = [(await process.submit()).job for _ in range(20)]
        await until(lambda: bool(model.calls))
        assert not process.providers["one"].up
        await asyncio.sleep(4.5)
        assert model.peak == 1
        await until(lambda: process.providers["one"].up)
        for job in jobs:
            await process.ended(job)
        assert model.peak > 10


@virtual
async def test_a_call_that_waits_for_a_grant_leaves_a_provider_that_goes_down() -> None:
    shut, other = RecordedQuota(), ScriptedModel()
    shut.open.clear()
    remotes = [Remote("one", ScriptedModel(), quota=shut), Remote("other", other)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        job = (await process.submit()).job
        await until(lambda: shut.asked == 1)
        went_down = VirtualClock.now()
        goes_down(process, "one")
        await until(lambda: bool(other.calls))
        assert VirtualClock.now() - went_down < 0.1
        assert shut.withdrawn == 1
        assert (await process.ended(job)).status == "completed"


@virtual
async def test_a_call_that_waits_for_a_slot_leaves_a_provider_that_goes_down() -> None:
    stuck, other = ScriptedModel(seconds=50), ScriptedModel()
    async with World().process(remotes=two(stuck, other, slots=1), pipeline=ONE_CALL) as process:
        first = (await process.submit(model="one")).job
        await until(lambda: bool(stuck.calls))
        process.providers["other"].slots._value = 0  # so that the next one waits at the first
        waits = asyncio.ensure_future(process.submit(model="one"))
        await asyncio.sleep(1)
        goes_down(process, "one")
        await asyncio.sleep(1)
        assert process.providers["one"]._waiting == {}
        await process.ended(first)
        await process.ended((await waits).job)


@virtual
async def test_the_time_that_a_call_may_take_begins_when_it_is_sent() -> None:
    quota, model = RecordedQuota(), Windowed(PLENTY, seconds=50)
    quota.old = quota.shut_after = 1  # the grant in the place of the old one lets itself be waited for
    remotes = [Remote("one", model, quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        job = (await process.submit()).job
        await asyncio.sleep(70)
        assert quota.words == [["released"]]
        quota.open.set()
        assert (await process.ended(job)).status == "completed"
    assert len(model.sent) == 1


@virtual
async def test_an_outage_of_one_provider_fails_no_job_and_overruns_no_limit_of_the_other() -> None:
    one, other = Windowed(Limits(300.0, 1e6)), Windowed(Limits(300.0, 1e6), seed=1)
    world = World()
    remotes = [
        Remote(name, model, model.limits, concurrency=30) for name, model in (("one", one), ("other", other))
    ]
    workers = [
        await world.start(pipeline=ONE_CALL, prefetch=60, name=f"w{n}", remotes=remotes) for n in range(2)
    ]
    jobs: list[str] = []
    async with world.process() as gateway:

        async def offer() -> None:
            while True:
                jobs.append((await gateway.submit("x" * 400, max_wait=800)).job)
                await asyncio.sleep(60 / 450)

        offering = asyncio.create_task(offer())
        await asyncio.sleep(65)
        one.down = True
        await asyncio.sleep(60)
        one.down = False
        back = monotonic()
        await until(lambda: all(worker.providers["one"].up for worker in workers))
        assert monotonic() - back < 20
        await asyncio.sleep(40)
        offering.cancel()
        states = [await gateway.ended(job) for job in jobs]
        for worker in workers:
            await worker.leave()
    assert Counter(state.status for state in states) == {"completed": len(jobs)}
    assert (one.refused, other.refused) == (0, 0)
    assert max(fullest(one.requests), fullest(other.requests)) <= 300
    during = [time for time, _, _ in one.sent if back - 58 < time < back]
    assert len(during) <= 2 * (60 / 2)  # those that go ahead, of two workers, at first every 2 s
    assert sum(back - 60 < time < back for time, _ in other.requests) > 290
    assert sum(time > back + 20 for time, _ in one.requests) > 100
