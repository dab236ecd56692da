"""Decides when a call may go out: requests and tokens a minute, both exact. Pure: `now` is an argument.

A provider counts a call when it arrives, up to `TRANSIT_GUARD` seconds after its grant. So the grants of any
`SPAN` = 60 s + `TRANSIT_GUARD` stay within the limit, and no 60 s of arrivals can exceed it, however late
each is (derivation: docs/decisions/0012-exact-ledger.md). Providers count tokens in one of three ways:

* `request`: what was reserved, fixed by the request; a prompt that was longer than that counts as it was;
* `input`: what it really took (its input), which is at most what was reserved; corrected once it is known;
* `usage`: what it really took, known at its end only. Calls in flight are reserved together: the mean of
  their kind each, and `SIGMAS` standard deviations of their sum as room for all.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eco2.errors import CallTooLarge
from eco2.ledger import Ledger

MINUTE = 60.0
TRANSIT_GUARD = 0.4
"""Seconds from a grant to the call's arrival at the provider, at the most; older grants are not used."""
SPAN = MINUTE + TRANSIT_GUARD
BURST_SECONDS = 2.0
"""Seconds' worth of calls that may go out at once. A leader that knows nothing pauses for about as long."""
BATCH_BURST_SECONDS = 0.25
"""The same for batch calls: in larger lumps they would leave the window together, a minute later, too."""
MAX_RESERVE, RESERVE_SHARE = 3, 160
"""Requests that batch calls leave free for a person who comes: so many, and one for so many of the limit."""
SIGMAS = 3.5
MIN_CALLS = 30
"""Calls of a kind from which on its mean is used; until then the reserved tokens count."""
MAX_CALLS = 300
"""Calls of a kind over which its mean is taken: older ones fade."""

Counting = Literal["request", "input", "usage"]


@dataclass(frozen=True, slots=True)
class Limits:
    """A minute's budget; None where there is no limit."""

    requests: float | None = None
    tokens: float | None = None

    def pace(self, tokens: float) -> float:
        """Seconds from one call of so many tokens to the next, by the limit that binds; 0.0 without any."""
        shares = (self.requests and 1 / self.requests, self.tokens and tokens / self.tokens)
        return MINUTE * max(share or 0.0 for share in shares)

    def lowest(self, other: "Limits") -> "Limits":
        """Returns the limits that keep within both."""
        return Limits(_lower(self.requests, other.requests), _lower(self.tokens, other.tokens))

    def less(self, other: "Limits") -> "Limits":
        """Returns these limits less `other`, never negative, since sums of floats drift."""
        return Limits(_left(self.requests, other.requests), _left(self.tokens, other.tokens))

    def scaled(self, factor: float) -> "Limits":
        return Limits(
            None if self.requests is None else self.requests * factor,
            None if self.tokens is None else self.tokens * factor,
        )


def _lower(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _left(one: float | None, other: float | None) -> float | None:
    return None if one is None else max(0.0, one - (other or 0.0))


@dataclass(frozen=True, slots=True)
class CallStats:
    """The tokens of one kind of call: a mean and a variance in which old calls fade."""

    calls: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def with_call(self, tokens: float) -> "CallStats":
        calls = min(self.calls + 1, MAX_CALLS)
        deviation = tokens - self.mean
        mean = self.mean + deviation / calls
        return CallStats(calls, mean, self.variance + (deviation * (tokens - mean) - self.variance) / calls)


Charge = tuple[Ledger, int]
"""Where a cost was entered, and its key there. A new limit gets a new ledger."""


@dataclass(slots=True)
class _Entry:
    """A grant in both ledgers. `variance`: of what it will have taken, 0 once that is known."""

    name: str
    time: float
    kind: str
    request: Charge | None
    tokens: Charge | None
    variance: float
    cost: float


class Pacer:
    """The budget of one leader. It begins as though its predecessor had just spent all of it, evenly.

    `largest`: the tokens of the largest call that a predecessor may have granted.
    """

    def __init__(
        self, limits: Limits, now: float, counting: Counting = "request", largest: float = 0.0
    ) -> None:
        self._counting = counting
        self._largest = largest
        self._limits = limits
        self._most = limits.tokens
        self._requests = self._ledger(None, limits.requests, now, 1.0)
        self._tokens = self._ledger(None, limits.tokens, now, largest)
        self._entries: dict[str, _Entry] = {}  # of the last minute, neither settled nor refunded
        self._order: deque[_Entry] = deque()
        self._kinds: dict[str, CallStats] = {}
        self._variance = 0.0

    def clear(self) -> None:
        """Takes the window as empty, for a pacer that will be told everything that was spent."""
        self._requests, self._tokens = _emptied(self._requests), _emptied(self._tokens)

    def limit(self, limits: Limits, factor: float, now: float) -> None:
        """From now on `factor` of `limits` may be used.

        A window that is assumed to be spent was spent at the limits that hold now: a provider that names a
        lower one has held the predecessor to it, too.
        """
        before, self._limits = self._limits, limits
        _assume(self._requests, before.requests, limits.requests)
        _assume(self._tokens, before.tokens, limits.tokens)
        scaled = limits.scaled(factor)
        self._requests = self._ledger(self._requests, scaled.requests, now, 1.0)
        self._tokens = self._ledger(self._tokens, scaled.tokens, now, self._largest)

    def when(self, now: float, tokens: float, kind: str = "", *, batch: bool = False) -> float:
        """Returns the first moment from `now` on when a call of so many tokens may be granted.

        `batch`: it leaves a reserve, and comes at an even pace, so that a person's call fits at any time.
        Raises `CallTooLarge` for one that never may by the limits that this pacer began with. A lower limit
        from elsewhere makes it wait for an empty window: an answer of the provider may name it by error.
        """
        self._expire(now)
        cost, variance = self._estimate(tokens, kind)
        if self._most is not None and cost > self._most:
            raise CallTooLarge(
                f"a call of {cost:g} tokens is more than the {self._most:g} of a whole minute: "
                "shorten its input or its longest answer, or raise the limit"
            )
        moment, slack = now, BATCH_BURST_SECONDS if batch else BURST_SECONDS
        if self._requests is not None:
            reserve = min(MAX_RESERVE, self._requests.limit // RESERVE_SHARE) if batch else 0
            moment = self._requests.earliest(now, 1.0, reserve, slack)
        if self._tokens is not None:
            margin = SIGMAS * math.sqrt(self._variance + variance)
            moment = max(moment, self._tokens.earliest(now, cost, margin, slack))
        return moment

    def grant(self, now: float, name: str, tokens: float, kind: str = "") -> None:
        """Enters the call under `name`.

        Call it only if `when()` returned `now`, or to apply another leader's grant. A grant that is repeated
        under its name replaces the earlier entry.
        """
        self._expire(now)
        self.refund(name)
        cost, variance = self._estimate(tokens, kind)
        entry = self._entries[name] = _Entry(
            name,
            now,
            kind,
            _charge(self._requests, now, 1.0),
            _charge(self._tokens, now, cost),
            variance,
            cost,
        )
        self._order.append(entry)
        self._variance += variance

    def settle(self, name: str, tokens: float) -> None:
        """Corrects the cost of a call to `tokens`; the first `settle` or `refund` of a call counts."""
        entry = self._close(name)
        if entry is None:
            return
        if self._counting == "request":
            if tokens > entry.cost:  # its estimate was too low, and the provider has counted what it was
                _correct(entry.tokens, tokens)
            return
        self._kinds[entry.kind] = self._kinds.get(entry.kind, CallStats()).with_call(tokens)
        _correct(entry.tokens, tokens)

    def refund(self, name: str) -> None:
        """Removes a call that was not sent; the first `settle` or `refund` of a call counts."""
        entry = self._close(name)
        if entry is None:
            return
        _correct(entry.request, 0.0)
        _correct(entry.tokens, 0.0)

    def used(self, now: float) -> Limits:
        """Returns the sums that count at `now`."""
        return self._sums(lambda ledger: ledger.used(now))

    def assumed(self, now: float) -> Limits:
        """Returns the part of `used` without a known call, which a predecessor may have spent."""
        return self._sums(lambda ledger: ledger.assumed(now))

    def _sums(self, of: Callable[[Ledger], float]) -> Limits:
        return Limits(
            None if self._requests is None else of(self._requests),
            None if self._tokens is None else of(self._tokens),
        )

    def _estimate(self, tokens: float, kind: str) -> tuple[float, float]:
        """Returns the cost that the call is entered with, and the variance of its tokens."""
        known = self._kinds.get(kind)
        if self._counting != "usage" or known is None or known.calls < MIN_CALLS:
            return tokens, 0.0
        return known.mean, known.variance

    def _close(self, name: str) -> _Entry | None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            # Sums of floats drift: without a call in flight the sum must not fall below 0.
            self._variance = max(0.0, self._variance - entry.variance)
        return entry

    def _expire(self, now: float) -> None:
        while self._order and self._order[0].time + SPAN <= now:
            entry = self._order.popleft()
            if self._entries.get(entry.name) is entry:
                self._close(entry.name)

    def _ledger(
        self, ledger: Ledger | None, limit: float | None, now: float, largest: float
    ) -> Ledger | None:
        if limit is None:
            return None
        if ledger is None:
            return Ledger.spent(limit, SPAN, BURST_SECONDS, now, largest)
        if ledger.limit != limit:
            ledger.relimit(limit)
        return ledger


def _assume(ledger: Ledger | None, before: float | None, limit: float | None) -> None:
    if ledger is not None and before and limit and before != limit:
        ledger.assume(limit / before)


def _emptied(ledger: Ledger | None) -> Ledger | None:
    return None if ledger is None else Ledger(ledger.limit, SPAN, BURST_SECONDS)


def _charge(ledger: Ledger | None, now: float, cost: float) -> Charge | None:
    return None if ledger is None else (ledger, ledger.add(now, cost))


def _correct(charge: Charge | None, cost: float) -> None:
    if charge is not None:
        ledger, key = charge
        ledger.correct(key, cost)
