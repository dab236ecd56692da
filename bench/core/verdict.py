"""Compares the rows of all trials with the targets. Pure arithmetic.

A ratio is taken within each round, between trials a minute or two apart, and the median of those counts.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from bench.core.contender import BARE, CONSUMING, CONTENDERS, ENGINE, Role
from bench.core.rounds import WORKERS

OF_PEER, OF_BARE = 1.5, 0.8
STORED_OF_PEER, STORED_OF_STORING = 0.8, 2.0
OF_IDEAL = 1.05

Row = dict[str, Any]
"""One trial: `round`, `contender`, `workers`, `sleep`, `rate` and the fields of `trial.Figures`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One target and its result. `value`: the measured value; nan: there is none. `least`, `most`: of the
    rounds. `against`: the compared contender."""

    what: str
    value: float
    least: float
    most: float
    target: str
    kept: bool
    against: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """The rounds' median, quartiles and extremes."""

    median: float
    low: float
    high: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Returns the spread: nan without values; of one value all figures are that value."""
    if not values:
        return Spread(*[math.nan] * 5)
    low, _, high = quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(median(values), low, high, min(values), max(values))


def checks(rows: Sequence[Row]) -> list[Check]:
    """Returns every target, in the order of definition."""
    found: list[Check] = []
    for workers in WORKERS:
        where = f"no-op, {workers} worker{'s' * (workers > 1)}"
        peer, storing = (best(rows, role, workers) for role in ("peer", "stores"))
        found += [
            _ratio(rows, f"{where}: {what} ÷ {whom}", workers, eco2, other, target)
            for what, eco2, whom, other, target in (
                ("deliver → handler → settle", CONSUMING, "the best peer", peer, OF_PEER),
                ("deliver → handler → settle", CONSUMING, "bare aio-pika", BARE, OF_BARE),
                ("with `done` confirmed", ENGINE, "the best peer that stores nothing", peer, STORED_OF_PEER),
                ("with `done` confirmed", ENGINE, "the best that stores", storing, STORED_OF_STORING),
            )
        ]
    return [*found, *_sleepers(rows)]


def best(rows: Iterable[Row], role: Role, workers: int) -> str:
    """Returns the contender of this role with the highest median rate; "" if none was measured."""
    rates = {
        contender.name: rate
        for contender in CONTENDERS
        if contender.role == role and (rate := by_round(rows, contender.name, workers))
    }
    return max(rates, key=lambda name: median(rates[name].values()), default="")


def by_round(
    rows: Iterable[Row], contender: str, workers: int, sleep: bool = False, field: str = "rate"
) -> dict[int, float]:
    """Returns one contender's measured values, by the number of the round."""
    return {
        row["round"]: row[field]
        for row in rows
        if (row["contender"], row["workers"], bool(row["sleep"])) == (contender, workers, sleep)
    }


def _ratio(rows: Sequence[Row], what: str, workers: int, eco2: str, other: str, target: float) -> Check:
    ours, theirs = by_round(rows, eco2, workers), by_round(rows, other, workers)
    ratios = spread([ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())])
    kept = ratios.median >= target  # not of nan
    return Check(what, ratios.median, ratios.least, ratios.most, f"≥ {target:g}", kept, other)


def _sleepers(rows: Sequence[Row]) -> Iterator[Check]:
    for name in (CONSUMING, ENGINE):
        seconds, ideal = (by_round(rows, name, 1, True, field) for field in ("seconds", "ideal"))
        ratios = spread([seconds[number] / ideal[number] for number in sorted(seconds)])
        what = f"0.4 s, 1,000 jobs on 100 slots: {name} ÷ ideal"
        kept = ratios.median <= OF_IDEAL
        yield Check(what, ratios.median, ratios.least, ratios.most, f"≤ {OF_IDEAL:g}", kept)
