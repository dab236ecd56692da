"""A cancel scope ends its block for one reason, which it carries, and lets nothing begin afterwards."""

import asyncio
from contextlib import suppress

import pytest

from eco2.call import PaidCallFailed, Usage
from eco2.consumers.outcome import LostOwnership, Released
from eco2.consumers.scope import DRAINED, CancelScope, DeadlineExceeded
from eco2.testing.clock import virtual


def later(seconds: float, *, scope: CancelScope, reason: Released | LostOwnership | None = None) -> None:
    """Drains the scope after so many seconds, or cancels it for the reason."""
    loop = asyncio.get_running_loop()
    if reason is None:
        loop.call_later(seconds, scope.drain)
    else:
        loop.call_later(seconds, scope.cancel, reason)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_a_block_that_ends_by_itself_has_no_reason() -> None:
    async with CancelScope(10) as scope:
        await asyncio.sleep(1)
        await scope.checkpoint()
    assert scope.reason is None


@virtual
async def test_the_deadline_ends_the_block_without_an_exception() -> None:
    began = now()
    async with CancelScope(10) as scope:
        await asyncio.sleep(100)
    assert scope.reason == DeadlineExceeded("TIMEOUT")
    assert now() - began == pytest.approx(10)


@virtual
async def test_a_deadline_that_has_passed_ends_a_block_that_never_waits() -> None:
    went_on = False
    async with CancelScope(-1) as scope:
        await scope.checkpoint()
        went_on = True
    assert (scope.reason, went_on) == (DeadlineExceeded("TIMEOUT"), False)


@virtual
async def test_the_first_reason_counts() -> None:
    async with CancelScope(10) as scope:
        later(1, scope=scope, reason=LostOwnership())
        later(1, scope=scope, reason=Released("the journal was replaced"))
        await asyncio.sleep(100)
    assert scope.reason == LostOwnership()


@virtual
async def test_outside_of_the_block_a_cancel_has_no_effect() -> None:
    scope = CancelScope(10)
    scope.cancel(LostOwnership())
    async with scope:
        await scope.checkpoint()
    scope.cancel(LostOwnership())
    assert scope.reason is None


@virtual
async def test_an_exception_of_the_block_is_raised_though_it_was_cancelled() -> None:
    scope = CancelScope(10)
    later(1, scope=scope, reason=LostOwnership())

    async def untidy() -> None:
        async with scope:
            try:
                await asyncio.sleep(100)
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await untidy()
    assert scope.reason == LostOwnership()


@virtual
async def test_a_time_out_of_the_block_itself_is_no_deadline() -> None:
    scope = CancelScope(10)

    async def impatient() -> None:
        async with scope, asyncio.timeout(1):
            await asyncio.sleep(100)

    with pytest.raises(TimeoutError):
        await impatient()
    assert scope.reason is None


@virtual
async def test_a_clean_up_begins_nothing_and_neither_does_what_outlives_the_block() -> None:
    async with CancelScope(1) as scope:
        try:
            await asyncio.sleep(100)
        finally:
            with pytest.raises(asyncio.CancelledError):
                await scope.checkpoint()
    with pytest.raises(asyncio.CancelledError):
        await scope.checkpoint()


@virtual
async def test_a_drain_ends_a_block_without_calls_at_once() -> None:
    began = now()
    async with CancelScope(100) as scope:
        later(1, scope=scope)
        await asyncio.sleep(50)
    assert scope.reason == DRAINED
    assert now() - began == pytest.approx(1)


@virtual
async def test_a_block_that_begins_during_a_drain_ends_at_its_checkpoint() -> None:
    async with CancelScope(100, draining=True) as scope:
        await scope.checkpoint()
        await asyncio.sleep(50)
    assert scope.reason == DRAINED


@pytest.mark.parametrize("failed", [False, True])
def test_a_drain_waits_for_calls_and_until_their_replies_are_saved(failed: bool) -> None:
    @virtual
    async def scenario() -> None:
        saved, began = False, now()
        async with CancelScope(100) as scope:
            later(1, scope=scope)
            try:
                with scope.in_call():
                    await asyncio.sleep(5)
                    if failed:
                        raise PaidCallFailed("no use", "m", Usage(1, 0, 1))
            except PaidCallFailed:
                pass
            await asyncio.sleep(1)
            scope.mark_saved()
            saved = True
            await scope.checkpoint()
        assert (scope.reason, saved) == (DRAINED, True)
        assert now() - began == pytest.approx(6)

    scenario()


@virtual
async def test_nothing_begins_in_a_drain_and_what_wanted_to_begin_ends_with_the_last_call() -> None:
    began, begun = now(), False

    async def call(scope: CancelScope, seconds: float) -> None:
        with scope.in_call():
            await asyncio.sleep(seconds)
        scope.mark_saved()

    async def begin(scope: CancelScope) -> None:
        nonlocal begun
        await asyncio.sleep(2)
        await scope.checkpoint()  # of a call that is in flight, before its first byte
        await scope.checkpoint(begins=True)
        begun = True

    async with CancelScope(100) as scope:
        later(1, scope=scope)
        await asyncio.gather(call(scope, 3), call(scope, 5), begin(scope))
    assert (scope.reason, begun) == (DRAINED, False)
    assert now() - began == pytest.approx(5)


@virtual
async def test_a_drain_does_not_wait_for_a_call_that_was_not_paid() -> None:
    async with CancelScope(100) as scope:
        later(1, scope=scope)
        with suppress(ZeroDivisionError), scope.in_call():
            await asyncio.sleep(5)
            raise ZeroDivisionError
        await scope.checkpoint()
    assert scope.reason == DRAINED


@virtual
async def test_who_waits_for_a_turn_expires_and_who_works_does_not() -> None:
    began = now()
    async with CancelScope(100, max_wait=10) as scope:
        await asyncio.sleep(20)
        assert scope.remaining_wait == pytest.approx(-10)
        with scope.waiting():
            await asyncio.sleep(1)
    assert scope.reason == DeadlineExceeded("EXPIRED")
    assert now() - began == pytest.approx(20)


@virtual
async def test_waiting_for_a_turn_is_no_work_and_all_waits_at_once_are_one() -> None:
    began = now()
    async with CancelScope(100, max_wait=60) as scope:
        with scope.waiting(), scope.waiting():
            await asyncio.sleep(50)
        assert scope.remaining == pytest.approx(100)
        await asyncio.sleep(500)
    assert scope.reason == DeadlineExceeded("TIMEOUT")
    assert now() - began == pytest.approx(150)


@virtual
async def test_once_it_is_limited_a_block_waits_no_longer_than_that() -> None:
    began = now()
    async with CancelScope(100, max_wait=10) as scope:
        with scope.waiting():
            await asyncio.sleep(5)
            scope.limit(30)
            assert scope.remaining_wait is None
            await asyncio.sleep(500)
    assert scope.reason == DeadlineExceeded("TIMEOUT")
    assert now() - began == pytest.approx(35)


@virtual
async def test_a_limit_does_not_revive_a_block_that_was_cancelled() -> None:
    async with CancelScope(10) as scope:
        scope.cancel(LostOwnership())
        scope.limit(100)
        await asyncio.sleep(50)
    assert scope.reason == LostOwnership()
