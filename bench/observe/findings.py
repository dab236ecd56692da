"""The run's findings: the values of each query, the states of each alert, the fit of each histogram."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.observe.alerts import Alert
from bench.observe.dashboard import ROWS

VARIABLES = {"$namespace": ".*", "$pipeline": ".*", "$provider": ".*", "[$__rate_interval]": "[15s]"}

EXCEPTIONS: Mapping[str, str] = {}
"""Queries that need not have data in the run, by the name of their panel or alert, with the reason."""

BEYOND = 0.02
"""Share of the observations that may lie beyond a histogram's last bound."""

_COMPARED = re.compile(r"\s*(?:>=|<=|==|>|<)\s*[\d.]+")
_OPERATOR = re.compile(r"\s*\b(?:unless|and|or)\b(?:\s+on\s*\([^)]*\))?\s*")


@dataclass(frozen=True, slots=True)
class Question:
    """A query. `where`: the panel or alert that uses it."""

    where: str
    expr: str


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a query. `values`: the number of values within the run; `most`: the greatest."""

    question: Question
    values: int
    most: float

    @property
    def missing(self) -> bool:
        return not self.values and self.question.where not in EXCEPTIONS


@dataclass(frozen=True, slots=True)
class Fit:
    """The fit of a histogram's bounds to its observations, as shares of the observations."""

    name: str
    count: float
    below_first: float
    beyond_last: float
    bounds_used: int

    @property
    def fits(self) -> bool:
        return self.beyond_last <= BEYOND


def of_panels() -> list[Question]:
    """Returns every query of the dashboard, with its variables filled in."""
    return [
        Question(f"panel: {panel.title}", _filled(query.expr))
        for row in ROWS
        for panel in row.panels
        for query in panel.queries
    ]


def of_alerts(alerts: Sequence[Alert]) -> list[Question]:
    """Returns the operands of each alert's comparisons: they must have data before they can exceed a
    bound."""
    return [
        Question(f"alert: {alert.name}", operand)
        for alert in alerts
        for operand in operands(" ".join(alert.expr.split()))
    ]


def operands(expr: str) -> list[str]:
    """Returns the operands of a comparison: of `a > 1 unless on (x) b > 0` they are `a` and `b`; of
    `absent(a)` it is `a`."""
    parts = _OPERATOR.split(_COMPARED.sub("", expr))
    return [re.sub(r"^absent\((.*)\)$", r"\1", part.strip()) for part in parts]


def _filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr
