"""The large calls that leaders of budgets said they may grant, as the journal tells them to every process."""

from eco2.event import Large

LIFE = 300.0
"""Seconds in which what was said counts: said for a minute, granted a little later, in the provider's window
for another minute, and clocks may differ by one."""


class LargeCalls:
    """Of what was said, it keeps what nothing newer and larger makes superfluous."""

    def __init__(self) -> None:
        self._said: dict[str, list[tuple[float, float]]] = {}

    def said(self, event: Large, now: float) -> None:
        """A leader said it. `now`: a clock ahead must not make it last."""
        at = min(event.ts, now)
        others = self._said.get(event.budget, [])
        kept = [one for one in others if one[0] > now - LIFE and (one[0] > at or one[1] > event.tokens)]
        self._said[event.budget] = [*kept, (at, event.tokens)]

    def largest(self, budget: str, since: float) -> float:
        """Tokens; 0.0 if nothing was said since then (Unix seconds)."""
        return max((tokens for at, tokens in self._said.get(budget, ()) if at >= since), default=0.0)
