"""A panel of the dashboard as a value: its Prometheus queries, and how to show the results."""

from dataclasses import dataclass
from typing import Literal

Show = Literal["stat", "timeseries"]
GREEN, YELLOW, RED = "green", "yellow", "red"

Steps = tuple[tuple[float | None, str], ...]
"""From which value on which colour; None: from the least value on."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query. `expr` is PromQL with the dashboard's variables. `legend`: a name with labels, `{{stage}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. `unit` is Grafana's name. `width`: of 24. `most`: the top of the axis, if fixed."""

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
