"""How much of the limits may be used after the provider said "too fast" (429). Pure: `now` is an argument."""

import math
from dataclasses import dataclass, replace

FLOOR = 0.1
STEP = 0.1
QUIET = 10.0
"""Seconds without a 429 after which a `STEP` more is used."""
MAX_PAUSE = 30.0
"""Seconds, at the most, for which one 429 stops all calls. A provider that wants more is asked again twice a
minute; one absurd `Retry-After` never stops an installation."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """`since`: when the last 429 or its pause ended, and `factor` right after it. Nothing is granted before
    `paused`."""

    factor: float = 1.0
    since: float = -math.inf
    paused: float = -math.inf
    halved: float = -math.inf

    def at(self, now: float) -> float:
        """The share of the limits that may be used."""
        if self.factor >= 1.0:
            return 1.0
        return min(1.0, self.factor + STEP * max(0, math.floor((now - self.since) / QUIET)))

    def shown(self, now: float) -> float:
        """The share of the limits that is in use: 0 in a pause that a 429 asked for."""
        return 0.0 if now < self.paused and self.factor < 1.0 else self.at(now)

    def pushed_back(self, now: float, granted: float, retry_after: float | None) -> "Throttle":
        """A call that was granted at `granted` met a 429.

        One that was granted before the last halving says nothing about the factor since: it only starts the
        quiet time anew. Else twenty calls in flight together would halve twenty times.
        """
        factor, halved = self.at(now), self.halved
        if granted > halved:
            factor, halved = max(FLOOR, factor / 2), now
        # Whatever another process reports; NaN, which no comparison holds for, is no pause.
        asked = min(MAX_PAUSE, retry_after) if retry_after is not None and retry_after > 0 else 0.0
        paused = max(self.paused, now + asked)
        return replace(self, factor=factor, since=max(now, paused), paused=paused, halved=halved)
