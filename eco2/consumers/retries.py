"""Decides when a job is tried again after a stage has failed, as pure functions.

Two layers, which never multiply: the calls of a stage are repeated within seconds (`eco2/calls/router.py`); a
job whose stage fails nevertheless waits in a queue of the broker, and resumes after its last completed stage.
"""

from eco2.pipeline import Retry
from eco2.ports import DELAYS

MIN_TIME_LEFT = 10.0
"""Seconds that a job must have left for another try to be worth it."""

CLOCK_SKEW = 2.0
"""Seconds before its time at which an order is let through, since clocks of workers differ a little."""


def next_delay(
    retry: Retry, retries: int, asked: float | None, remaining: float, remaining_wait: float | None = None
) -> int | None:
    """Returns the delay in seconds, one of `DELAYS`; None if the job has to end as failed.

    `retries`: how often it was put off since its last progress. `asked`: seconds that the provider asked us
    to wait, which may make the delay longer. `remaining`: seconds of work that the job has left; the delay
    does not count among them. `remaining_wait`: seconds that an unstarted job may still wait; there it does.
    """
    if retries + 1 >= retry.attempts:
        return None
    wanted = max(retry.delays[min(retries, len(retry.delays) - 1)], asked or 0.0)
    delay = next((each for each in DELAYS if each >= wanted), None)
    if delay is None:
        return None
    left = remaining if remaining_wait is None else remaining_wait - delay
    return delay if left >= MIN_TIME_LEFT else None


def remaining_delay(until: float, now: float) -> int | None:
    """Returns the delay, one of `DELAYS`, for an order that comes too early; None if its time has come.

    Not the one that waits at the broker: one retry must not be spent twice. `until`: when the job is tried
    again (Unix seconds).
    """
    seconds = until - now
    if seconds <= CLOCK_SKEW:
        return None
    return max(delay for delay in DELAYS if delay <= seconds + DELAYS[0])
