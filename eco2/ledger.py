"""The exact spending of the last `span` seconds: the budget's one source of truth. No I/O, no clock.

An entry counts until `span` seconds after it was made. It can be corrected in place, to nothing if need be,
as if it had never cost more. Two promises, at every moment and for every entry made when `earliest` said so:

* the entries of any `span` seconds sum up to the limit at the most;
* those of any shorter time `d` sum up to `rate × d + max(rate × slack, the largest of them)`, where `rate` is
  `limit / span`. This smooths, and it is what lets a successor that knows nothing assume `spent`.

The entries are the leaves of a segment tree, in the order of time. A node knows the sum of its entries and
the peak of its ends: the maximum over its entries of (what they and all later ones in the node cost,
plus what the rate had allowed up to their time). So adding, correcting and asking take O(log n).
"""

import math
from collections.abc import Sequence

STEP = 0.1
"""Seconds between the entries of a spent window."""
ROUNDING = 1e-9
"""Seconds, and share of the limit: sums of floats are no finer."""


class Ledger:
    """At most `limit` in any `span` seconds, and no more than `slack` seconds' worth ahead of the rate."""

    def __init__(self, limit: float, span: float, slack: float) -> None:
        self.limit = limit
        self._span = span
        self._slack = slack
        self._first = 0  # the key of the oldest entry that is kept
        self._gone = 0  # how many of those kept have expired
        self._times: list[float] = []
        self._assumed = 0  # keys below it are of a spent window, not of calls that are known
        self._initial_burst = 0.0
        self._load([])

    @classmethod
    def spent(cls, limit: float, span: float, slack: float, now: float, largest: float = 0.0) -> "Ledger":
        """Returns the most that a predecessor may have spent, whenever its entries were: a full window.

        `largest`: the most that one of its entries cost, where that is more than `slack` seconds' worth.
        """
        ledger = cls(limit, span, slack)
        step = ledger._rate * STEP
        initial_burst = min(limit, max(ledger._rate * slack, largest))
        steps = math.ceil((limit - initial_burst) / step)
        costs = [min(step, limit - initial_burst - step * back) for back in range(steps)]
        ledger._times = [now - STEP * back for back in reversed(range(steps))] + [now]
        ledger._load([*reversed(costs), initial_burst])
        ledger._assumed, ledger._initial_burst = len(ledger._times), min(initial_burst, largest)
        return ledger

    def used(self, now: float) -> float:
        """The sum of what counts at `now`."""
        self._expire(now)
        return self._sum[1]

    def assumed(self, now: float) -> float:
        """The part of `used` that stands for calls which may never have been made (see `spent`)."""
        self._expire(now)
        return sum(self._cost(key) for key in self._assumed_keys())

    def assume(self, factor: float) -> None:
        """The limit that a predecessor kept was this one times `factor`, and so was what it spent.

        Its largest call stays what it was. Only what was assumed changes, not what is known.
        """
        for key in self._assumed_keys():
            least = self._initial_burst if key == self._assumed - 1 else 0.0
            self.correct(key, max(self._cost(key) * factor, least))

    def _assumed_keys(self) -> range:
        return range(self._first + self._gone, self._assumed)

    def _cost(self, key: int) -> float:
        cost: float = self._sum[self._size + key - self._first]
        return cost

    def earliest(self, now: float, cost: float, margin: float = 0.0, slack: float = math.inf) -> float:
        """The first moment from `now` on when `cost` fits if nothing else changes.

        `margin` is room that must be left beside it; `slack` is less than the ledger's own for a cost that
        may not go so far ahead of the rate. A cost above the limit fits an empty window.
        """
        self._expire(now)
        wanted = cost + margin
        excess = self._sum[1] + wanted - max(self.limit, wanted)
        crowded = excess > self.limit * ROUNDING
        free, peak = self._without(excess) if crowded else (now, self._peak[1])
        smoothed_at = (peak + cost - max(self._rate * min(self._slack, slack), cost)) / self._rate
        moment = max(free, smoothed_at)
        return moment if moment > now + ROUNDING else now

    def add(self, now: float, cost: float) -> int:
        """Enters `cost` and returns the entry's key. Times never go back."""
        self._expire(now)
        if len(self._times) == self._size:
            self._pack()
        self._times.append(now)
        self._put(len(self._times) - 1, cost)
        return self._first + len(self._times) - 1

    def correct(self, key: int, cost: float) -> None:
        """Sets the entry's cost as if it had been `cost` from the start; an expired entry stays expired."""
        place = key - self._first
        if place >= self._gone:
            self._put(place, cost)

    def relimit(self, limit: float) -> None:
        """From now on another limit holds; what was spent stays spent."""
        self.limit = limit
        self._pack()

    def _expire(self, now: float) -> None:
        while self._gone < len(self._times) and self._times[self._gone] + self._span <= now:
            self._leaf(self._gone, 0.0, -math.inf)
            self._gone += 1

    def _without(self, excess: float) -> tuple[float, float]:
        """When the oldest entries that cost `excess` together will have expired, and the rest's peak."""
        node, cost, peak = 1, 0.0, -math.inf
        while node < self._size:
            node *= 2
            if self._sum[node] < excess:
                excess -= self._sum[node]
                node += 1
            else:
                peak = max(peak, self._peak[node + 1] + cost)
                cost += self._sum[node + 1]
        # Rounding may have led past the last entry.
        place = min(node - self._size, len(self._times) - 1)
        return self._times[place] + self._span, peak

    def _put(self, place: int, cost: float) -> None:
        self._leaf(place, cost, cost + self._rate * self._times[place])

    def _leaf(self, place: int, cost: float, peak: float) -> None:
        node = self._size + place
        self._sum[node], self._peak[node] = cost, peak
        while node > 1:
            node //= 2
            self._join(node)

    def _join(self, node: int) -> None:
        left, right = 2 * node, 2 * node + 1
        self._sum[node] = self._sum[left] + self._sum[right]
        self._peak[node] = max(self._peak[left] + self._sum[right], self._peak[right])

    def _pack(self) -> None:
        """Drops what has expired and grows the tree if little has: rare enough to cost nothing."""
        costs = self._sum[self._size + self._gone : self._size + len(self._times)]
        del self._times[: self._gone]
        self._first += self._gone
        self._gone = 0
        self._load(costs)

    def _load(self, costs: Sequence[float]) -> None:
        self._rate = self.limit / self._span
        self._size = size = max(64, 2 ** math.ceil(math.log2(2 * len(costs) + 1)))
        self._sum = [0.0] * size + [*costs] + [0.0] * (size - len(costs))
        self._peak = [-math.inf] * (2 * size)
        for place, cost in enumerate(costs):
            self._peak[size + place] = cost + self._rate * self._times[place]
        for node in range(size - 1, 0, -1):
            self._join(node)
