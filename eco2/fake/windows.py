"""The provider's rate limits as exact sliding windows: pure arithmetic, `now` is an argument.

A window holds what arrived in (now − span, now]. A call that would lift the sum above the limit is refused
and leaves no trace, unless the fake counts refused calls as requests. Times must never go back.
"""

from collections import deque
from dataclasses import dataclass

from eco2.fake.config import FakeConfig
from eco2.fake.refusal import Refusal, too_fast


@dataclass(frozen=True, slots=True)
class Use:
    """A window at one moment. `peak` is the most that any window so far has held."""

    limit: int | None
    used: int
    peak: int
    reset: float  # seconds until the window is empty


class SlidingWindow:
    """One limit: the sum of the costs of the last `span` seconds."""

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
        """Would a call of this cost stay within the limit now?"""
        self._expire(now)
        return self.limit is None or self._used + cost <= self.limit

    def add(self, now: float, cost: int) -> None:
        """Counts a call. A sum can only be largest just after an arrival, so the peak is exact."""
        self._expire(now)
        self._entries.append((now, cost))
        self._used += cost
        self._peak = max(self._peak, self._used)

    def wait(self, now: float, cost: int) -> float | None:
        """Seconds until a call of this cost fits if nobody else comes; None if it never will."""
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

    def use(self, now: float) -> Use:
        """What the window holds now."""
        self._expire(now)
        reset = self._entries[-1][0] + self._span - now if self._entries else 0.0
        return Use(self.limit, self._used, self._peak, max(0.0, reset))


class RateLimits:
    """Requests and tokens together: a call is counted in both or in neither."""

    def __init__(self, config: FakeConfig) -> None:
        self._requests = SlidingWindow(config.rpm, config.window_seconds)
        self._tokens = SlidingWindow(config.tpm, config.window_seconds)
        self._counts_rejected = config.count_rejected

    def refuses(self, now: float, tokens: int) -> Refusal | None:
        """The 429 that says which limit is in this call's way, or None. Counts nothing."""
        for what, window, cost in (("requests", self._requests, 1), ("tokens", self._tokens, tokens)):
            if not window.fits(now, cost):
                return _refusal(what, window, now, cost)
        return None

    def count(self, now: float, tokens: int) -> None:
        """Counts a call that was let in."""
        self._requests.add(now, 1)
        self._tokens.add(now, tokens)

    def count_rejected(self, now: float) -> None:
        """Notes a call that was answered 429; it costs a request only if the fake is set so."""
        if self._counts_rejected:
            self._requests.add(now, 1)

    def use(self, now: float) -> dict[str, Use]:
        """Both windows now, by what they count."""
        return {"requests": self._requests.use(now), "tokens": self._tokens.use(now)}


def _refusal(what: str, window: SlidingWindow, now: float, cost: int) -> Refusal:
    limit = window.limit if window.limit is not None else 0
    return too_fast(what, limit, window.use(now).used, cost, window.wait(now, cost))


def rate_headers(use: dict[str, Use], retry_after: float | None = None) -> dict[str, str]:
    """`x-ratelimit-*` for every limit that is set, and `retry-after(-ms)` for a refused call."""
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
    """A time as OpenAI's headers write it: `12ms`, `8.64s`, `6m0s`."""
    millis = -int(-seconds * 1000 // 1)
    if millis < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"
