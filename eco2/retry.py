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
from itertools import count
from typing import TypeVar

from eco2.errors import RetryableError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts. Drawn at random, so that callers that failed together do not return together.

    `base`: seconds, the longest pause after the first failure; it doubles with each failure, up to `cap`.
    """

    base: float
    cap: float

    def pause(self, failures: int, fraction: float) -> float:
        """Computes the seconds to wait after `failures` earlier failures; `fraction` is from 0 to 1."""
        # Beyond 2**16 every bound is at its cap; without the limit the float would overflow one day.
        return fraction * min(self.cap, self.base * 2.0 ** min(failures, 16))

    async def sleep(self, failures: int) -> None:
        """Waits for a random pause after `failures` earlier failures (from 0)."""
        await asyncio.sleep(self.pause(failures, random.random()))

    async def retry(self, send: Callable[[], Awaitable[Result]], timeout: float = math.inf) -> Result:
        """Calls `send` until it raises no `RetryableError`.

        The first failure later than `timeout` seconds is raised. `send` itself is not bounded.
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout
        for failures in count():
            try:
                return await send()
            except RetryableError:
                if now() >= end:
                    raise
            await self.sleep(failures)
        raise AssertionError("count() has no end")


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
