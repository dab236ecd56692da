"""When a job is tried again after a stage has failed, as pure functions.

Two layers, which never multiply: the calls of a stage are sent again at once (`calls.py`); what fails all the
same waits in a queue of the broker, in nobody's hands, and goes on behind its last completed stage.
"""

from collections.abc import Sequence

MIN_TIME_LEFT = 10.0
"""Seconds that must be left of a job's life for another try to be worth it."""

CLOCK_SKEW = 2.0
"""Seconds before its time at which an order is let through: clocks of workers differ a little."""


def next_delay(
    delays: Sequence[int], retries: int, asked: float | None, now: float, deadline: float
) -> int | None:
    """The delay in seconds, one of `delays` (ascending), or None if the job has to end as failed.

    `retries`: how often it was put off since it last got on, each time longer. `asked`: seconds that the
    provider asked us to wait. `now`, `deadline`: Unix seconds.
    """
    for delay in delays[retries:]:
        if delay >= (asked or 0.0):
            return delay if now + delay + MIN_TIME_LEFT <= deadline else None
    return None


def remaining_delay(delays: Sequence[int], retries: int, since: float, now: float) -> int | None:
    """The delay, one of `delays`, for an order that comes before its job is to be tried again, else None.

    Not the one that waits at the broker: one retry must not be spent twice. `retries`: how often
    the job was put off since it last got on; `since`: when for the last time. Unix seconds.
    """
    seconds = since + delays[min(retries, len(delays)) - 1] - now
    if seconds <= CLOCK_SKEW:
        return None
    return max(delay for delay in delays if delay <= seconds + delays[0])
