"""The breaker of one provider: while it is down, its calls wait instead of failing one after the other.

closed ──FAILURES in a row──▶ open ──pause over──▶ half-open: one trial call ──it succeeds──▶ closed
                               ▲─────────────────────── it fails: a longer pause ──┘

A pure state machine: `now` is seconds of any clock that does not jump.
"""

from dataclasses import dataclass, replace

FAILURES = 5
"""Calls that failed in a row, over all jobs, before the provider counts as down."""
FIRST_PAUSE = 2.0
MAX_PAUSE = 15.0
"""Seconds; the pause doubles up to it. Short, since a provider that is back should not stand idle."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """`until`: open until then; None while closed. `pause`: how long it was opened for last.

    `half_open`: the trial call is in flight.
    """

    failures: int = 0
    until: float | None = None
    pause: float = 0.0
    half_open: bool = False

    @property
    def closed(self) -> bool:
        return self.until is None

    def wait(self, now: float) -> float:
        """Computes seconds after which to ask again; 0.0: a call may begin now, by `began`."""
        if self.until is None:
            return 0.0
        if self.half_open:
            return FIRST_PAUSE
        return max(0.0, self.until - now)

    def began(self) -> "Breaker":
        """Notes that a call begins which `wait` let through: the trial call if the breaker is open."""
        return replace(self, half_open=self.until is not None)

    def succeeded(self) -> "Breaker":
        """Notes that a call was answered."""
        return Breaker()

    def cancelled(self, trial: bool) -> "Breaker":
        """Notes that a call ended for a reason that shows nothing about the provider."""
        return replace(self, half_open=False) if trial else self

    def failed(self, now: float, trial: bool) -> "Breaker":
        """Notes that a call found the provider down. Calls sent before the breaker opened change nothing."""
        failures = self.failures + 1
        if not self.closed and not trial:
            return self
        return self._opened(failures, now) if failures >= FAILURES else replace(self, failures=failures)

    def trip(self, now: float) -> "Breaker":
        """Opens at once: the provider refused to serve any of our calls."""
        return self._opened(FAILURES, now)

    def _opened(self, failures: int, now: float) -> "Breaker":
        pause = min(MAX_PAUSE, max(FIRST_PAUSE, 2 * self.pause))
        return Breaker(failures, now + pause, pause, half_open=False)
