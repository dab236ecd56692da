"""Faults of `make fault`, made small: the same functions and the same verdict, in seconds.

On the tests' shared broker, so only those that leave the broker alone; `make fault` makes all, at full size.
"""

from pathlib import Path

import pytest

from tests.fault.fault import Fault
from tests.fault.lab import Lab
from tests.fault.registry import named
from tests.fault.size import FAST
from tests.fault.verdict import judge

FAULTS = named(
    [
        "worker-kill9",
        "worker-kill9-amid-calls",
        "workers-rolling",
        "connection-cut",
        "half-open",
        "confirms-withheld",
        "tail-silent",
        "gateway-kill9",
        "key-race",
        "poison-order",
        "poison-bug",
    ]
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_what_was_accepted_ends_once_and_is_paid_once(
    fault: Fault, amqp_url: str, tmp_path: Path
) -> None:
    verdict = judge(await fault.run(Lab(tmp_path, print, given=amqp_url), FAST))
    assert verdict.breaches == ()
    assert verdict.accepted
