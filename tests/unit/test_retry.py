"""Pauses double up to a cap; a retry ends with success, time or another error; `Retry-After` in each form."""

import asyncio
from collections.abc import Callable

import pytest

from eco2.errors import BrokerUnavailable, PermanentError, PublishUncertain
from eco2.retry import Backoff, seconds_asked
from eco2.testing.clock import virtual

NOW, MOST = 100.0, 86_400.0
BACKOFF = Backoff(base=0.5, cap=4.0)


def test_pauses_double_up_to_the_cap_and_are_drawn_over_the_whole_span() -> None:
    assert [BACKOFF.limit(failures) for failures in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert BACKOFF.limit(10_000) == 4.0
    pauses = [BACKOFF.pause(2) for _ in range(1000)]
    assert 0.0 <= min(pauses) < 0.2 < 1.8 < max(pauses) <= 2.0


@virtual
async def test_two_callers_that_failed_together_return_at_different_times() -> None:
    loop = asyncio.get_running_loop()

    async def returned() -> float:
        await BACKOFF.sleep(10)
        return loop.time()

    times = await asyncio.gather(*(returned() for _ in range(50)))
    assert len(set(times)) == 50
    assert 0.0 <= min(times) < 2.0 < max(times) <= 4.0


def failing(*errors: Exception) -> tuple[Callable[[], "asyncio.Future[str]"], list[Exception]]:
    """A send that raises these errors first, and those that are left of them."""
    left = list(errors)

    def send() -> "asyncio.Future[str]":
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if left:
            future.set_exception(left.pop(0))
        else:
            future.set_result("sent")
        return future

    return send, left


@virtual
async def test_what_may_pass_is_tried_until_it_succeeds() -> None:
    send, left = failing(*(BrokerUnavailable("down") for _ in range(1000)), PublishUncertain("lost"))
    assert await BACKOFF.retry(send) == "sent"
    assert left == []


@virtual
async def test_what_never_passes_is_raised_at_once() -> None:
    send, left = failing(
        BrokerUnavailable("down"), PermanentError("refused"), BrokerUnavailable("never asked")
    )
    with pytest.raises(PermanentError):
        await BACKOFF.retry(send)
    assert len(left) == 1


@virtual
async def test_the_first_failure_after_the_time_out_is_raised() -> None:
    send, _ = failing(*(BrokerUnavailable(str(number)) for number in range(10_000)))
    with pytest.raises(BrokerUnavailable):
        await BACKOFF.retry(send, timeout=20.0)
    assert 20.0 <= asyncio.get_running_loop().time() <= 20.0 + BACKOFF.cap


@virtual
async def test_a_retry_is_cancelled_at_once_in_a_pause_and_in_an_attempt() -> None:
    async def hanging() -> None:
        await asyncio.sleep(1000)

    for send in (failing(*(BrokerUnavailable("down") for _ in range(1000)))[0], hanging):
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await BACKOFF.retry(send)
        assert asyncio.get_running_loop().time() == began + 3.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("+5", 5.0),
        ("-5", 0.0),
        ("-inf", 0.0),
        ("1e3", 1000.0),
        ("1e300", MOST),
        ("inf", MOST),
        ("9" * 5000, MOST),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:02:00 -0000", 20.0),
        ("Thu, 01 Jan 1970 01:02:00 +0100", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MOST),
    ],
)
def test_numbers_and_dates_are_read_and_bounded(value: str, seconds: float) -> None:
    assert seconds_asked(value, NOW, MOST) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "²", "٣", "nan", "soon", "1, 2", "0x10", "\x00"),
        "Thu, 01 Jan 99999 00:00:00 GMT",
        "Thu, 41 Jan 1970 00:00:00 GMT",
    ],
)
def test_what_makes_no_sense_is_none(value: str) -> None:
    assert seconds_asked(value, NOW, MOST) is None
