"""The breaker of a provider: opens by failures in a row, lets one call go ahead, closes when it succeeds."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eco2.call import Answer, Call, Reply
from eco2.calls.provider import FAILURES, FIRST_PAUSE, MAX_PAUSE, Breaker
from eco2.errors import ProviderDown
from eco2.ports import no_gate
from eco2.testing.clock import virtual
from tests.support.world import ScriptedModel, World

NOW = 100.0


def failing(times: int, breaker: Breaker | None = None, now: float = NOW) -> Breaker:
    breaker = breaker or Breaker()
    for _ in range(times):
        breaker = (breaker if breaker.closed else breaker.begin_trial()).failed(now, trial=not breaker.closed)
    return breaker


def test_it_opens_by_failures_in_a_row_and_not_before() -> None:
    assert failing(FAILURES - 1).closed
    assert failing(FAILURES - 1).wait(NOW) == 0
    opened = failing(FAILURES)
    assert not opened.closed
    assert opened.wait(NOW) == FIRST_PAUSE
    assert opened.wait(NOW + 0.5) == FIRST_PAUSE - 0.5


def test_a_call_that_succeeds_ends_the_row() -> None:
    assert failing(FAILURES - 1, failing(FAILURES - 1).succeeded()).closed


def test_a_call_that_tells_nothing_neither_ends_the_row_nor_counts() -> None:
    breaker = failing(FAILURES - 1).cancelled(trial=False)
    assert breaker.closed
    assert not failing(1, breaker).closed


def test_behind_the_pause_one_call_goes_ahead_and_the_others_wait() -> None:
    half_open = failing(FAILURES)
    later = NOW + FIRST_PAUSE
    assert half_open.wait(later) == 0
    probing = half_open.begin_trial()
    assert probing.wait(later) > 0
    assert probing.wait(later + 1000) > 0
    assert probing.succeeded() == Breaker()


def test_a_call_ahead_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = failing(FAILURES), NOW, []
    for _ in range(5):
        pauses.append(breaker.wait(now))
        now += pauses[-1]
        assert breaker.wait(now) == 0
        breaker = breaker.begin_trial().failed(now, trial=True)
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, MAX_PAUSE, MAX_PAUSE]


def test_a_call_ahead_that_tells_nothing_lets_the_next_go_ahead() -> None:
    later = NOW + FIRST_PAUSE
    breaker = failing(FAILURES).begin_trial().cancelled(trial=True)
    assert not breaker.closed
    assert breaker.wait(later) == 0


def test_after_it_closed_the_pause_is_the_first_again() -> None:
    breaker = failing(FAILURES).begin_trial().failed(NOW + FIRST_PAUSE, trial=True).begin_trial().succeeded()
    assert failing(FAILURES, breaker).wait(NOW) == FIRST_PAUSE


@pytest.mark.parametrize("probing", [True, False])
def test_calls_sent_before_it_opened_that_fail_late_change_nothing(probing: bool) -> None:
    breaker = failing(FAILURES)
    if probing:
        breaker = breaker.begin_trial()
    assert breaker.failed(NOW + 1.5, trial=False) == breaker
    assert breaker.cancelled(trial=False) == breaker


@virtual
async def test_while_a_call_goes_ahead_no_other_does_though_an_old_one_fails() -> None:
    """Five fail after 1 s, and so the breaker opens until 3 s; one sent with them fails after 4 s."""
    began: list[float] = []

    class Provider(ScriptedModel):
        async def complete(
            self,
            call: Call[Answer],
            job_id: str,
            on_text: Callable[[str], None],
            gate: Callable[[], Awaitable[None]] = no_gate,
        ) -> Reply[Answer]:
            await gate()
            began.append(asyncio.get_running_loop().time())
            if len(began) <= FAILURES + 1:
                await asyncio.sleep(4 if len(began) == FAILURES + 1 else 1)
                raise ProviderDown("503")
            self.seconds = 20.0 if len(began) == FAILURES + 2 else 1.0
            return await super().complete(call, job_id, on_text)

    async with World().process(Provider()) as process:
        jobs = [(await process.submit()).job for _ in range(FAILURES + 1)]
        states = [await process.ended(job) for job in jobs]
    assert {state.status for state in states} == {"completed"}
    ahead = began[FAILURES + 1]
    assert ahead == pytest.approx(1 + FIRST_PAUSE, abs=0.5)
    assert began[FAILURES + 2] >= ahead + 20


def test_a_late_success_says_that_the_provider_is_back() -> None:
    assert failing(FAILURES).succeeded().closed


def test_a_provider_that_serves_us_no_more_opens_it_at_once() -> None:
    breaker = Breaker().trip(NOW)
    assert not breaker.closed
    assert breaker.wait(NOW) == FIRST_PAUSE
    assert breaker.begin_trial().trip(NOW + FIRST_PAUSE).wait(NOW + FIRST_PAUSE) == 2 * FIRST_PAUSE
