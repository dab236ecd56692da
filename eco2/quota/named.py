"""The limits that a provider's answers name: believed once two agree, forgotten once they stop. Pure.

One answer never rules an installation: the middle of the last three values counts, of two the higher. The
price is that the first answer of a start lowers nothing yet, and that a limit which falls is believed one
answer later.
"""

from dataclasses import dataclass

FORGET = 60.0
"""Seconds after which a value that is not named again counts no more."""
REMEMBERED = 3


@dataclass(frozen=True, slots=True)
class Named:
    """`values`: (time, limit) of the last answers that named one, oldest first."""

    values: tuple[tuple[float, float], ...] = ()

    def add(self, now: float, limit: float | None) -> "Named":
        """An answer names `limit`, or (None) does not."""
        if limit is None:
            return self
        return Named((*self.values, (now, limit))[-REMEMBERED:])

    def at(self, now: float) -> float | None:
        """The limit that is believed."""
        fresh = sorted(limit for time, limit in self.values if now - time < FORGET)
        return fresh[len(fresh) // 2] if len(fresh) > 1 else None
