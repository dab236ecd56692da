"""The scenarios and their targets as values."""

from dataclasses import dataclass
from typing import Literal

System = Literal["prefork", "gevent", "eco2"]

RPM, TPM = 500, 500_000
"""Tier 1."""
SEED = 20261126
CALL_TIMEOUT = 150.0
"""Seconds: a repeated call draws the same latency, so one that is cut off is lost. 1 of 100,000 is longer."""
RAMP = 10.0
"""Users that begin a second."""
WARM = 60.0
"""Seconds from the load's begin that are not judged: the ramp, and the minute that a new leader of the budget
takes for full."""
SECONDS = 660.0
CASE = r"\(case (\d+)\)"
"""How a scan's question names it at the provider: two runs have the same scans, whatever ids they got."""
IN_FLIGHT = 110
"""Calls at which memory is compared."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. `slots`: processes or greenlets of Celery. `live`: it shows the answer as it is written.
    `share`: its part of the seconds of load."""

    name: str
    title: str
    system: System
    users: int
    slots: int = 0
    live: bool = False
    share: float = 1.0


SCENARIOS = (
    Scenario("prefork-9", "Celery, 9 processes, as many as the seed had", "prefork", 100, 9),
    Scenario("gevent-100", "Celery, 100 greenlets", "gevent", 100, 100),
    Scenario("eco2-100", "eco2, 1 gateway and 1 worker", "eco2", 100),
    Scenario("eco2-150", "eco2 again; now the budget binds", "eco2", 150),
    Scenario("prefork-24", "Celery, 24 processes, as the seed had set", "prefork", 100, 24, share=0.3),
    Scenario(
        "gevent-live",
        "Celery, 100 greenlets, which show the answer as it is written, as eco2 does",
        "gevent",
        100,
        100,
        live=True,
        share=0.3,
    ),
)
"""In the order in which they run."""
