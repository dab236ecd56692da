"""Computes the provider's rate limits as exact sliding windows. Pure; `now` is an argument.

A window counts the calls that arrived in (now − span, now]. A call that would exceed the limit is refused and
not counted, unless the fake counts refused calls as requests. Times must never decrease.
"""

from collections import deque
from dataclasses import dataclass

from eco2.fake.api_error import ApiError, too_fast
from eco2.fake.config import FakeConfig


@dataclass(frozen=True, slots=True)
class WindowUse:
    """The use of a window at one moment. `peak`: the maximum so far."""

    limit: int | None
    used: int
    peak: int
    reset: float  # seconds until the window is empty


class SlidingWindow:
    """One limit on the sum of the costs in the last `span` seconds."""

    def __init__(self, limit: int | None, span: float) -> None:
        self.limit = limit
        self._span = span
        self._entries: deque[tuple[float, int]] = deque()
        self._used = 0
        self._peak = 0

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - self._span:
            self._used -= self._entries.popleft()[1]

    def fits(self, now: float, cost: int) -> bool:
        """Returns whether a call of this cost stays within the limit now."""
        self._expire(now)
        return self.limit is None or self._used + cost <= self.limit

    def add(self, now: float, cost: int) -> None:
        """Counts a call. A sum can only be largest just after an arrival, so the peak is exact."""
        self._expire(now)
        self._entries.append((now, cost))
        self._used += cost
        self._peak = max(self._peak, self._used)

    def wait(self, now: float, cost: int) -> float | None:
        """Returns the seconds until a call of this cost fits, without other calls; None if it never does."""
        self._expire(now)
        if self.limit is None:
            return 0.0
        if cost > self.limit:
            return None
        excess = self._used + cost - self.limit
        for arrival, freed in self._entries:
            if excess <= 0:
                return 0.0
            excess -= freed
            if excess <= 0:
                return max(0.0, arrival + self._span - now)
        return 0.0

    def use(self, now: float) -> WindowUse:
        """Returns the present use of the window."""
        self._expire(now)
        reset = self._entries[-1][0] + self._span - now if self._entries else 0.0
        return WindowUse(self.limit, self._used, self._peak, max(0.0, reset))


class RateLimits:
    """The windows of requests and tokens: a call counts in both or in neither."""

    def __init__(self, config: FakeConfig) -> None:
        self._requests = SlidingWindow(config.rpm, config.window_seconds)
        self._tokens = SlidingWindow(config.tpm, config.window_seconds)
        self._counts_rejected = config.count_rejected

    def refuses(self, now: float, tokens: int) -> ApiError | None:
        """Returns the 429 of the limit that this call would exceed, if any. Counts nothing."""
        for what, window, cost in (("requests", self._requests, 1), ("tokens", self._tokens, tokens)):
            if not window.fits(now, cost):
                used = window.use(now).used
                return too_fast(what, window.limit or 0, used, cost, window.wait(now, cost))
        return None

    def count(self, now: float, tokens: int) -> None:
        """Counts an accepted call."""
        self._requests.add(now, 1)
        self._tokens.add(now, tokens)

    def count_rejected(self, now: float) -> None:
        """Notes a call that was answered with 429; it counts as a request only if configured."""
        if self._counts_rejected:
            self._requests.add(now, 1)

    def use(self, now: float) -> dict[str, WindowUse]:
        """Returns the present use of both windows by name."""
        return {"requests": self._requests.use(now), "tokens": self._tokens.use(now)}


def rate_headers(use: dict[str, WindowUse], retry_after: float | None = None) -> dict[str, str]:
    """Returns `x-ratelimit-*` for every limit, and `retry-after(-ms)` for a refused call."""
    headers: dict[str, str] = {}
    for what, window in use.items():
        if window.limit is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(window.limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, window.limit - window.used))
            headers[f"x-ratelimit-reset-{what}"] = duration(window.reset)
    if retry_after is not None:
        headers["retry-after"] = str(-int(-retry_after // 1))
        headers["retry-after-ms"] = str(-int(-retry_after * 1000 // 1))
    return headers


def duration(seconds: float) -> str:
    """Formats a time as in OpenAI's headers: `12ms`, `8.64s`, `6m0s`."""
    millis = -int(-seconds * 1000 // 1)
    if millis < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"
