"""The breaker of one provider: while it is down, its calls wait instead of failing one after the other.

closed ──FAILURES in a row──▶ open ──pause over──▶ half-open: one call goes ahead ──it succeeds──▶ closed
                               ▲────────────────────────────── it fails: a longer pause ──┘

A pure state machine: `now` is seconds of any clock that does not jump.
"""

from dataclasses import dataclass, replace

FAILURES = 5
"""Calls that failed in a row, over all jobs, before the provider counts as down."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 15.0
"""Seconds; the pause doubles up to it. Short, since a provider that is back should not stand idle."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """`until`: open until then; None while closed. `pause`: how long it was opened for last.

    `probing`: the one call is under way that goes ahead.
    """

    failures: int = 0
    until: float | None = None
    pause: float = 0.0
    probing: bool = False

    @property
    def closed(self) -> bool:
        return self.until is None

    def wait(self, now: float) -> float:
        """Seconds after which to ask again; 0.0: a call may begin now, by `began`."""
        if self.until is None:
            return 0.0
        if self.probing:
            return FIRST_PAUSE
        return max(0.0, self.until - now)

    def began(self) -> "Breaker":
        """A call that `wait` let through begins: behind an open breaker it is the one that goes `ahead`."""
        return self if self.closed else replace(self, probing=True)

    def succeeded(self) -> "Breaker":
        """A call was answered."""
        return Breaker()

    def abandoned(self, ahead: bool) -> "Breaker":
        """A call ended without telling anything: it was interrupted, or it failed for its own reasons."""
        return replace(self, probing=False) if ahead else self

    def failed(self, now: float, ahead: bool) -> "Breaker":
        """A call found the provider down. Those sent before the breaker opened change nothing any more."""
        failures = self.failures + 1
        if not self.closed and not ahead:
            return self
        return self._opened(failures, now) if failures >= FAILURES else replace(self, failures=failures)

    def shut(self, now: float) -> "Breaker":
        """The provider said that it serves none of our calls: no need to count."""
        return self._opened(FAILURES, now)

    def _opened(self, failures: int, now: float) -> "Breaker":
        pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self.pause))
        return Breaker(failures, now + pause, pause, probing=False)
