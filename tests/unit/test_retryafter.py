"""The `Retry-After` of a response: in every form that is met, bounded, and None where it makes no sense."""

import pytest

from eco2.retryafter import seconds_asked

NOW, MOST = 100.0, 86_400.0


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
