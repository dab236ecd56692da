"""Which failures of a call count among its attempts."""

import pytest

from eco2.calls.router import counts
from eco2.errors import ProviderDown, ProviderError, ProviderTimeout, RateLimited, RetryableError


@pytest.mark.parametrize(
    ("error", "is_down", "elsewhere", "counted"),
    [
        (ProviderError("cut"), False, False, True),
        (ProviderError("cut"), False, True, True),
        (ProviderError("cut"), True, False, False),
        (ProviderDown("503"), False, False, True),
        (ProviderDown("503"), False, True, False),
        (ProviderDown("503"), True, False, False),
        (RateLimited("429"), False, False, False),
        (RateLimited("429"), False, True, False),
        (ProviderTimeout("late"), False, False, True),
        (ProviderTimeout("late"), False, True, True),
        (ProviderTimeout("late"), True, False, True),
    ],
)
def test_only_a_failure_that_may_be_the_calls_own_or_was_paid_counts(
    error: RetryableError, is_down: bool, elsewhere: bool, counted: bool
) -> None:
    assert counts(error, is_down=is_down, elsewhere=elsewhere) == counted
