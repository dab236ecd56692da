"""The value that all but a few of the last calls stayed below, exact and with every old call forgotten."""

import math
from bisect import bisect_left, insort
from collections import deque


class Quantile:
    """`share`: of the calls that stay at or below the value. `memory`: calls that are remembered. `enough`:
    calls before which nothing is said."""

    def __init__(self, share: float, memory: int, enough: int) -> None:
        self._share = share
        self._memory = memory
        self._enough = enough
        self._calls: deque[int] = deque()
        self._sorted: list[int] = []

    @property
    def value(self) -> int | None:
        """The nearest rank; None before enough is known."""
        if len(self._sorted) < self._enough:
            return None
        return self._sorted[math.ceil(self._share * len(self._sorted)) - 1]

    def learn(self, value: int) -> None:
        self._calls.append(value)
        insort(self._sorted, value)
        if len(self._calls) > self._memory:
            del self._sorted[bisect_left(self._sorted, self._calls.popleft())]
