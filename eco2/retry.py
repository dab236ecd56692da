"""Retrying: random pauses that double, and the `Retry-After` of an HTTP response; one implementation for all.

Each kind of failure has its own two bounds, which stand beside its caller.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, wait_exponential

from eco2.errors import RetryableError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts. Drawn at random, so that callers that failed together do not return together.

    `base`: seconds, the longest pause after the first failure; it doubles with each failure, up to `cap`.
    """

    base: float
    cap: float

    def limit(self, failures: int) -> float:
        """Computes the longest pause in seconds after `failures` earlier failures (from 0)."""
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = failures + 1
        return wait_exponential(multiplier=self.base, max=self.cap)(state)

    def pause(self, failures: int) -> float:
        """Draws the seconds to wait after `failures` earlier failures."""
        return random.uniform(0.0, self.limit(failures))

    async def sleep(self, failures: int) -> None:
        """Waits for a random pause after `failures` earlier failures."""
        await asyncio.sleep(self.pause(failures))

    async def retry(self, send: Callable[[], Awaitable[Result]], timeout: float = math.inf) -> Result:
        """Calls `send` until it raises no `RetryableError`.

        The first failure later than `timeout` seconds is raised. `send` itself is not bounded.
        """
        # Not tenacity's loop: it costs as much as what most callers send, and nearly all succeed at once.
        now = asyncio.get_running_loop().time
        end, failures = now() + timeout, 0
        while True:
            try:
                return await send()
            except RetryableError:
                if now() >= end:
                    raise
            await self.sleep(failures)
            failures += 1


PUBLISH = Backoff(0.1, 2.0)
"""For messages that no client waits for."""


def seconds_asked(value: str, now: float, most: float) -> float | None:
    """Reads seconds to wait, from 0 to `most`; None where the header makes no sense.

    A number or a date, which is compared with `now` (Unix seconds). A number may have a fraction, though the
    standard has whole seconds only: providers send it.
    """
    if (seconds := number(value)) is None:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            return None  # no date, or none that a clock can show
    return bounded(seconds, most)


def number(value: str) -> float | None:
    """Reads an ASCII number; None for anything else, NaN included."""
    try:
        found = float(value) if value.isascii() else math.nan
    except ValueError:
        return None
    return None if math.isnan(found) else found


def bounded(seconds: float, most: float) -> float:
    """Limits seconds to the range from 0 to `most`."""
    return min(most, max(0.0, seconds))
