"""What becomes of a call's grant: used once and fresh, given back, replaced, settled with the right sum."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from eco2.call import Answer, Call, InvalidAnswer, Reply, Usage
from eco2.errors import ProviderAccessDenied, ProviderDown, ProviderError, RateLimited, StaleRun
from eco2.event import StageChanged
from eco2.pacer import SPAN, Limits
from eco2.pipeline import Context
from eco2.ports import no_gate
from eco2.testing.clock import VirtualClock, virtual
from eco2.tokens.estimate import MIN_SAMPLES, Counting
from tests.support.engine_fixtures import overtaking, single
from tests.support.quotas import Line
from tests.support.rate_limited_provider import Windowed
from tests.support.recorded_quota import RecordedQuota
from tests.support.world import SILENCE, Draft, Process, Question, Remote, ScriptedModel, World, until


async def ask(context: Context[Question]) -> Draft:
    await context.call(Call("draft", "system", context.input.text, str, 400))
    return Draft(text="")


async def twice(context: Context[Question]) -> Draft:
    """A second call while the first one's grant is the last that there is."""
    await context.call(Call("first", "system", context.input.text, str, 400))
    await context.call(Call("second", "system", context.input.text, str, 400))
    return Draft(text="")


def goes_down(process: Process, name: str) -> None:
    with pytest.raises(ProviderAccessDenied), process.providers[name].guard():
        raise ProviderAccessDenied("no")


ONE_CALL = single(ask)
PLENTY = Limits(10_000.0, 1e7)
SMALL = Limits(600.0, 1000.0)


@dataclass
class Connecting:
    """A model whose connection stands after `seconds` only; then it answers at once."""

    seconds: float
    sent: int = 0
    most: list[float] = field(default_factory=list)
    look: Callable[[], float] = lambda: 0.0

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await asyncio.sleep(self.seconds)
        await gate()
        self.sent += 1
        for _ in range(100):
            self.most.append(self.look())
            await asyncio.sleep(0.1)
        return Reply(call.schema(call.text), "connecting", Usage(10, 0, 5))  # type: ignore[call-arg]


def shown(process: Process, series: str) -> float:
    """The value of a series of this process."""
    lines = process.metrics.render().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series + " ")), 0.0)


def grants(process: Process, outcome: str) -> float:
    return shown(process, f'eco2_quota_grants_total{{outcome="{outcome}",provider="p"}}')


@virtual
async def test_a_call_is_settled_once_and_counted_as_used() -> None:
    quota, model = RecordedQuota(), Windowed(PLENTY, "usage", completion=lambda _: 7)
    remotes = [Remote("p", model, counting="usage", quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit("x" * 400)).job)
        assert grants(process, "used") == 1
        assert shown(process, 'eco2_quota_reserved{provider="p",what="tokens"}') == 0
    assert quota.words == [["confirmed", f"settled {12 + 406 // 4 + 7}", "released"]]


@pytest.mark.parametrize(("counting", "settled"), [("request", 400.0), ("input", 113.0), ("usage", 120.0)])
@virtual
async def test_what_is_settled_is_what_the_provider_counts(counting: Counting, settled: float) -> None:
    quota, model = RecordedQuota(), Windowed(PLENTY, counting, completion=lambda _: 7)
    remotes = [Remote("p", model, counting=counting, quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit("x" * 400)).job)
    assert f"settled {settled:g}" in quota.grants[0].words
    assert model.tokens[0][1] == settled


@virtual
async def test_what_a_provider_does_not_count_stays_as_it_was_reserved() -> None:
    quota, model = RecordedQuota(), Windowed(PLENTY, silent=True)
    remotes = [Remote("p", model, quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        state = await process.ended((await process.submit()).job)
    assert state.status == "completed"
    assert quota.words == [["confirmed", "released"]]


@virtual
async def test_a_refusal_as_too_fast_is_told_and_the_next_try_has_a_grant_of_its_own() -> None:
    refusals = iter([RateLimited("429", 3.0, "tokens"), RateLimited("429", None, "requests")])

    def script(kind: str, job: str) -> None:
        if refusal := next(refusals, None):
            raise refusal

    quota = RecordedQuota()
    remotes = [Remote("p", ScriptedModel(script=script), quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit()).job)
        assert shown(process, 'eco2_rate_limited_total{kind="tokens",provider="p"}') == 1
        assert shown(process, 'eco2_rate_limited_total{kind="requests",provider="p"}') == 1
    assert quota.words == [
        ["confirmed", "throttled 3.0", "released"],
        ["confirmed", "throttled None", "released"],
        ["confirmed", "settled 400", "released"],
    ]


@virtual
async def test_a_grant_that_grew_old_is_given_back_at_once_and_replaced() -> None:
    quota = RecordedQuota()
    quota.old = 2
    remotes = [Remote("p", ScriptedModel(), quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit()).job)
        assert (grants(process, "expired"), grants(process, "used")) == (2, 1)
        assert shown(process, 'eco2_quota_reserved{provider="p",what="requests"}') == 0
    assert quota.words == [["released"], ["released"], ["confirmed", "settled 400", "released"]]


class Disturbed(World):
    """Its processes have lines that a test can disturb."""

    def connection(self) -> Line:
        return Line(self.topology, self.server)


@virtual
async def test_a_grant_that_had_expired_when_it_was_read_is_counted() -> None:
    remotes = [Remote("p", ScriptedModel(), Limits(requests=60.0))]
    async with Disturbed().process(remotes=remotes, pipeline=ONE_CALL) as process:
        line = process.broker
        assert isinstance(line, Line)
        await process.ended((await process.submit()).job)
        assert (grants(process, "expired"), grants(process, "used")) == (0, 1)
        job = (await process.submit()).job
        line.delay = 0.05
        await until(lambda: shown(process, 'eco2_calls_waiting{provider="p"}') == 1)
        await asyncio.sleep(0.07)  # the request is written, and the grant on its way
        line.disturb(deaf=True)
        await asyncio.sleep(1.0)
        line.delay = 0.0
        line.hear()
        await process.ended(job)
        assert (grants(process, "expired"), grants(process, "used")) == (1, 2)


@virtual
async def test_a_slow_connection_counts_once_in_the_budget() -> None:
    limits, model = Limits(600.0, 1e6), Connecting(seconds=2.0)
    remotes = [Remote("p", model, limits)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:

        def used() -> float:
            status = process.members["p"].status()
            assert status is not None
            return status.used.requests or 0.0

        await process.ended((await process.submit()).job)
        await asyncio.sleep(SPAN)
        model.look = used
        await process.ended((await process.submit()).job)
        assert grants(process, "expired") >= 2
        assert shown(process, 'eco2_quota_limit{provider="p",what="requests"}') == 600
        assert shown(process, 'eco2_quota_used{provider="p",what="requests"}') == 1
        assert shown(process, 'eco2_quota_terms_total{provider="p"}') == 1
        assert shown(process, 'eco2_call_wait_seconds_count{priority="interactive",provider="p"}') == 2
    assert model.sent == 2
    # Reports of what is given back travel for a moment; after that nothing but the call itself counts.
    assert model.most[-90:] == [1.0] * 90


@virtual
async def test_what_is_not_sent_goes_back_when_the_job_is_over() -> None:
    quota, model = RecordedQuota(), Connecting(seconds=1000.0)
    remotes = [Remote("p", model, quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit(max_wait=20)).job)
        await until(lambda: grants(process, "refunded") == 1)
    assert quota.words == [["released"]]  # it was not confirmed, so it goes back


@virtual
async def test_who_waits_for_a_grant_withdraws_it_in_a_drain() -> None:
    quota = RecordedQuota()
    quota.open.clear()
    world = World()
    async with world.process() as gateway:
        async with world.process(
            remotes=[Remote("p", ScriptedModel(), quota=quota)], pipeline=ONE_CALL
        ) as leaving:
            job = (await gateway.submit()).job
            await until(lambda: quota.asked == 1)
            leaving.stop.set()
            await until(lambda: quota.withdrawn == 1)
        state = gateway.journal.view.get(job)
    assert state is not None
    assert state.released
    assert quota.grants == []


@virtual
async def test_a_grant_that_comes_when_the_provider_is_down_goes_back() -> None:
    quota, model = RecordedQuota(), ScriptedModel()
    quota.shut_after = 1
    remotes = [Remote("p", model, quota=quota, concurrency=2)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        first = (await process.submit()).job
        await until(lambda: bool(model.calls))
        second = (await process.submit()).job
        await until(lambda: quota.asked == 2)
        quota.open.set()
        goes_down(process, "p")
        for job in (first, second):
            await process.ended(job)
    assert all("confirmed" in words or words == ["released"] for words in quota.words)
    assert quota.asked == len(quota.grants) + quota.withdrawn
    assert len(model.calls) == 2


@virtual
async def test_a_call_that_broke_off_is_not_given_back() -> None:
    failures = iter([ProviderError("cut"), ProviderDown("503")])

    def script(kind: str, job: str) -> None:
        if failure := next(failures, None):
            raise failure

    quota = RecordedQuota()
    remotes = [Remote("p", ScriptedModel(script=script), quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        await process.ended((await process.submit()).job)
    assert quota.words == [
        ["confirmed", "released"],
        ["confirmed", "released"],
        ["confirmed", "settled 400", "released"],
    ]


def started(job: str, run: str) -> StageChanged:
    now = VirtualClock.now()
    return StageChanged(ts=now, job=job, run=run, stage="draft", status="started", seq=10, progress=0)


@virtual
async def test_a_void_run_ends_as_overtaken_and_not_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    quota, model = RecordedQuota(), ScriptedModel()
    quota.shut_after = 1
    remotes = [Remote("p", model, quota=quota)]
    async with World().process(remotes=remotes, pipeline=single(twice)) as process:
        job = (await process.submit(max_wait=800)).job
        await until(lambda: quota.asked == 2)
        await process.journal.barrier()  # the first reply is recorded
        began = process.journal.view.get(job)
        assert began is not None
        assert began.run is not None
        await process.journal.put(started(job, began.run))  # as the leader does with a grant
        await process.journal.barrier()
        began = process.journal.view.get(job)
        quota.refusals.append(StaleRun("another run has the job"))
        goes_down(process, "p")  # so that it asks again
        # The leader has seen the other run, and this process is about to.
        quota.on_refusal = lambda: process.journal.put(overtaking(job, attempt=2))
        quota.open.set()
        refused = await process.journal.view.change(job, began)
        assert (refused.run, refused.ended) == ("other", False)
        moment = VirtualClock.now()
        state = await process.ended(job)
        assert VirtualClock.now() - moment >= SILENCE
    assert "bug" not in caplog.text
    assert (state.status, state.attempt) == ("completed", 3)


@virtual
async def test_a_call_that_no_minute_holds_ends_its_job_and_says_why() -> None:
    model = Windowed(SMALL)
    remotes = [Remote("p", model, SMALL)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        state = await process.ended((await process.submit("x" * 6000)).job)
    assert state.result is not None
    error = state.result["error"]
    assert isinstance(error, dict)
    assert error["code"] == "CALL_TOO_LARGE"
    assert "more than the 1000 of a whole minute: shorten its input" in str(error["message"])
    assert model.sent == []


@virtual
async def test_a_call_that_is_too_large_for_one_provider_goes_to_another() -> None:
    small, large = Windowed(SMALL), Windowed(PLENTY)
    remotes = [Remote("small", small, SMALL), Remote("large", large, PLENTY)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        assert (await process.ended((await process.submit("x" * 6000)).job)).status == "completed"
    assert (len(small.sent), len(large.sent)) == (0, 1)


@virtual
async def test_the_longest_answer_is_learnt_and_never_above_the_calls_own() -> None:
    model = Windowed(PLENTY, completion=lambda dice: dice.randint(40, 60))
    remotes = [Remote("p", model, quota=RecordedQuota())]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        for _ in range(MIN_SAMPLES + 20):
            await process.ended((await process.submit()).job)
    longest = [most for _, _, most in model.sent]
    assert longest[:MIN_SAMPLES] == [400] * MIN_SAMPLES
    assert {most for most in longest[MIN_SAMPLES:] if most > 80} == set()
    assert min(longest) >= 60


@virtual
async def test_what_is_reserved_comes_near_to_what_is_counted() -> None:
    quota, model = RecordedQuota(), Windowed(PLENTY, "input")
    remotes = [Remote("p", model, counting="input", quota=quota)]
    async with World().process(remotes=remotes, pipeline=ONE_CALL) as process:
        for n in range(60):
            await process.ended((await process.submit("x" * (400 + 40 * (n % 7)))).job)
    off = [
        grant.request.tokens / counted for grant, (_, counted) in zip(quota.grants, model.tokens, strict=True)
    ]
    assert off[0] > 1.1
    assert all(1.0 <= share < 1.03 for share in off[-20:])


@virtual
async def test_an_answer_that_does_not_fit_and_its_repair_are_both_counted() -> None:
    unfit = iter([InvalidAnswer("unfit", "p", Usage(100, 0, 30), "x", "too short")])

    def script(kind: str, job: str) -> None:
        if error := next(unfit, None):
            raise error

    async def repair(context: Context[Question]) -> Draft:
        call = Call("draft", "system", context.input.text, str, 400)
        with pytest.raises(InvalidAnswer):
            await context.call(call)
        await context.call(call)
        return Draft(text="")

    quota = RecordedQuota()
    remotes = [Remote("p", ScriptedModel(script=script), counting="usage", quota=quota)]
    async with World().process(remotes=remotes, pipeline=single(repair)) as process:
        await process.ended((await process.submit("x" * 300)).job)
    assert quota.words == [["confirmed", "settled 130", "released"], ["confirmed", "settled 15", "released"]]
