"""A panel of the dashboard as a value: what it asks Prometheus, and how the answer is to be read."""

from dataclasses import dataclass
from typing import Literal

Show = Literal["stat", "timeseries"]
GREEN, YELLOW, RED = "green", "yellow", "red"

Steps = tuple[tuple[float | None, str], ...]
"""From which value on which colour; None: from the least value on."""


@dataclass(frozen=True, slots=True)
class Query:
    """`expr` is PromQL with the dashboard's variables. `legend`: a name with labels, `{{stage}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is Grafana's name. `width`: of 24. `most`: the top of the axis, where there is one."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    show: Show = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = ((None, GREEN),)
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def good_below(warn: float, bad: float) -> Steps:
    return ((None, GREEN), (warn, YELLOW), (bad, RED))


def good_from(warn: float, good: float) -> Steps:
    return ((None, RED), (warn, YELLOW), (good, GREEN))
