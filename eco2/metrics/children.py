"""The children of one series: each combination of labels is bound once, and then only looked up.

What it guarantees: a series never has more than `MOST` of them, whatever somebody passes as a label. What
comes beyond is counted under `OTHER`.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Metric = TypeVar("Metric")

MOST = 300
OTHER = "other"


class Children(Generic[Metric]):
    """`labels`: the method of that name of the series."""

    def __init__(self, labels: Callable[..., Metric]) -> None:
        self._labels = labels
        self._bound: dict[tuple[str, ...], Metric] = {}

    def of(self, *values: str) -> Metric:
        """The child of these labels; it exists, and is shown, from then on."""
        child = self._bound.get(values)
        return child if child is not None else self._bind(values)

    def _bind(self, values: tuple[str, ...]) -> Metric:
        if len(self._bound) >= MOST:
            values = (OTHER,) * len(values)
        child = self._bound[values] = self._labels(*values)
        return child
