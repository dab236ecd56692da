"""The largest calls that leaders of budgets declared, as each process reads them from the journal."""

from eco2.event import LargeCallDeclared

DECLARATION_TTL = 300.0
"""Seconds for which a declaration counts: it holds for a minute, the call is granted a little later and stays
in the provider's window for another minute, and clocks may differ by one."""


class LargestCalls:
    """The declarations of each budget, without those that a newer and larger one makes superfluous."""

    def __init__(self) -> None:
        self._declared: dict[str, list[tuple[float, float]]] = {}

    def apply(self, event: LargeCallDeclared, now: float) -> None:
        """Adds a declaration. `now`: bounds its time, so that a clock ahead does not make it last."""
        at = min(event.ts, now)
        others = self._declared.get(event.budget, [])
        kept = [
            one for one in others if one[0] > now - DECLARATION_TTL and (one[0] > at or one[1] > event.tokens)
        ]
        self._declared[event.budget] = [*kept, (at, event.tokens)]

    def largest(self, budget: str, since: float) -> float:
        """Returns the tokens of the largest; 0.0 if none was declared since then (Unix seconds)."""
        return max((tokens for at, tokens in self._declared.get(budget, ()) if at >= since), default=0.0)
