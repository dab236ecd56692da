"""What a fault is: a name, how it is made, and a function that makes it and brings the evidence."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.fault.evidence import Evidence
from tests.fault.lab import Lab
from tests.fault.size import Size


@dataclass(frozen=True, slots=True)
class Fault:
    """`how`: one sentence for the report. `run(lab, size)`: the evidence; it takes no verdict."""

    name: str
    how: str
    run: Callable[[Lab, Size], Awaitable[Evidence]]
