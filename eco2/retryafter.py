"""The `Retry-After` of an HTTP response, read the same way from gateways and from model providers."""

import math
from datetime import UTC
from email.utils import parsedate_to_datetime


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
