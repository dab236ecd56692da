"""Compares a few trials with the committed figures, to find out if a change made the core clearly slower.

The comparison uses ratios to the bare loop of the same rounds, of jobs a second and of CPU per job: they
depend little on the machine's load, and the tolerances are wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.core.contender import BARE, CONSUMING, CONTENDERS, ENGINE
from bench.core.rounds import Plan
from bench.core.verdict import Row, by_round

PLAN = Plan(
    tuple(each for each in CONTENDERS if each.name in (CONSUMING, ENGINE, BARE)),
    idle=2,
    sleeping=0,
    workers=(1,),
)
SLOWER, DEARER = 0.75, 1.3
"""Of the committed figures."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure and its committed value. `bound`: the minimum or maximum of `now`."""

    what: str
    now: float
    before: float
    bound: float
    fits: bool


def compare(now: Sequence[Row], before: Sequence[Row]) -> list[Compared]:
    """Compares eco2 in both forms."""
    found = []
    for name in (CONSUMING, ENGINE):
        rate, was = _of_bare(now, name, "rate"), _of_bare(before, name, "rate")
        found.append(Compared(f"{name} ÷ {BARE}, jobs/s", rate, was, SLOWER * was, rate >= SLOWER * was))
        cpu, was = _of_bare(now, name, "cpu"), _of_bare(before, name, "cpu")
        found.append(Compared(f"{name} ÷ {BARE}, CPU per job", cpu, was, DEARER * was, cpu <= DEARER * was))
    return found


def _of_bare(rows: Sequence[Row], name: str, field: str) -> float:
    ours, bare = by_round(rows, name, 1, field=field), by_round(rows, BARE, 1, field=field)
    return median(ours[number] / bare[number] for number in ours.keys() & bare.keys())
