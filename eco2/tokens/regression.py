"""Learns from the last calls: a prompt by least squares, a completion by a quantile. Old calls are forgotten.

The regression learns by how much a first guess is off, part by part, and is held at the guess.

A guess is a sum of parts (say: English letters, Korean letters). The count is taken as the sum of the
same parts, each times its own ratio; all ratios begin at 1. A part that calls never vary, or never have,
keeps the ratio that it had: nothing drifts while only one language comes in. A call counts by its relative
error, so that short and long ones teach alike.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

PRIOR_WEIGHT = 0.004
"""Weight of the guess beside that of a call: its ratios may be wrong by half, and what calls count scatters
by 3 % around the best ratios, so (0.03 / 0.5)²."""


class Regression:
    """Ratios of the parts of a guess. `parts`: how many there are. `memory`: calls that are remembered.

    `samples`: calls that it rests upon.
    """

    def __init__(self, parts: int, memory: int) -> None:
        self.samples = 0
        self._memory = memory
        self._calls: deque[tuple[tuple[int, ...], int]] = deque()
        self._products = [[0.0] * parts for _ in range(parts)]
        self._moments = [0.0] * parts
        self._ratios = [1.0] * parts

    def predict(self, parts: Sequence[int]) -> float:
        """Computes the tokens that a call with these parts will count."""
        return sum(ratio * part for ratio, part in zip(self._ratios, parts, strict=True))

    def learn(self, parts: tuple[int, ...], counted: int) -> None:
        """Adds a call with these parts, of which one is above 0, that counted so much."""
        self._calls.append((parts, counted))
        self._add(parts, counted, 1)
        if len(self._calls) > self._memory:
            self._add(*self._calls.popleft(), -1)
        self.samples = len(self._calls)
        self._ratios = solve(
            [
                [product + PRIOR_WEIGHT * (row == column) for column, product in enumerate(products)]
                for row, products in enumerate(self._products)
            ],
            [moment + PRIOR_WEIGHT for moment in self._moments],
        )

    def _add(self, parts: tuple[int, ...], counted: int, sign: int) -> None:
        weight = sign / sum(parts) ** 2
        for row, part in enumerate(parts):
            self._moments[row] += weight * part * counted
            for column, other in enumerate(parts):
                self._products[row][column] += weight * part * other


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solves a symmetric system that `PRIOR_WEIGHT` keeps well-posed, so that no pivoting is needed."""
    size = len(right)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] -= factor * matrix[pivot][column]
            right[row] -= factor * right[pivot]
    solution = [0.0] * size
    for row in reversed(range(size)):
        known = sum(matrix[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (right[row] - known) / matrix[row][row]
    return solution


class Quantile:
    """The value that all but a few of the last calls stayed below, exact.

    `share`: of the calls that stay at or below the value. `memory`: calls that are remembered. `min_samples`:
    calls before which there is no `value`.
    """

    def __init__(self, share: float, memory: int, min_samples: int) -> None:
        self.value: int | None = None
        self._share = share
        self._memory = memory
        self._min_samples = min_samples
        self._calls: deque[int] = deque()
        self._sorted: list[int] = []

    def learn(self, value: int) -> None:
        """Adds a call, and takes the nearest rank of those that are remembered."""
        self._calls.append(value)
        insort(self._sorted, value)
        if len(self._calls) > self._memory:
            del self._sorted[bisect_left(self._sorted, self._calls.popleft())]
        if len(self._sorted) >= self._min_samples:
            self.value = self._sorted[math.ceil(self._share * len(self._sorted)) - 1]
