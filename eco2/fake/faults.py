"""Decides which call gets which fault, by time and order alone. Pure.

The first fault in the list that applies to a call is used. `every` and `first` count the calls that the
fault's `kind` and `job` select, from the moment at which it was set.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from eco2.fake.api_error import ApiError, out_of_quota
from eco2.fake.latency import uniform

Action = Literal["status", "rate_limit", "quota", "stall", "cut", "disconnect"]
"""The effect of a fault.

* `status`: an HTTP error `status`, at once, with `retry_after` if given. Counted in the windows.
* `rate_limit`: 429 rate_limit_exceeded with `retry_after` (default 1 s), windows or not.
* `quota`: 429 insufficient_quota.
* `stall`: nothing more is sent after `after_chunks` pieces (default 0: not even headers).
* `cut`: the answer ends cleanly after `after_chunks` pieces (default: half), without a finish_reason;
  an answer that is not streamed ends in the middle of its JSON.
* `disconnect`: the connection is reset after `after_chunks` pieces (default: half); when the answer is
  not streamed, before it.
"""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule. Without `every`, `probability`, `first` and `seconds` it applies to every call."""

    action: Action
    kind: str | None = None  # only calls of this kind
    job: str | None = None  # only calls of this job
    status: int = 500  # of action `status`
    retry_after: float | None = None  # seconds, of `status` and `rate_limit`
    after_chunks: int | None = None  # pieces that are sent first
    every: int | None = None  # every n-th selected call
    probability: float | None = None  # share of the selected calls (0..1)
    first: int | None = None  # only the next n selected calls
    seconds: float | None = None  # only until so long after it was set

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"status {self.status} is no error: give 400 to 599")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability}: give a number from 0 to 1")
        for name, minimum in (
            ("every", 1),
            ("first", 1),
            ("after_chunks", 0),
            ("seconds", 0),
            ("retry_after", 0),
        ):
            number = getattr(self, name)
            if number is not None and number < minimum:
                raise ValueError(f"{name} {number}: give at least {minimum}")

    def refusal(self) -> ApiError | None:
        """Returns the error to answer with at once; None if the fault affects the transport of the answer."""
        match self.action:
            case "status":
                message = f"The server had an error (fault on demand, {self.status}). Retry your request."
                return ApiError(self.status, message, "server_error", retry_after=self.retry_after)
            case "rate_limit":
                wait = 1.0 if self.retry_after is None else self.retry_after
                message = f"Rate limit reached (fault on demand). Try again in {wait:.3f}s."
                return ApiError(429, message, "requests", code="rate_limit_exceeded", retry_after=wait)
            case "quota":
                return out_of_quota()
            case _:
                return None

    def pieces(self, of: int) -> int:
        """Returns how many of a streamed answer's `of` pieces are sent before the fault."""
        default = 0 if self.action == "stall" else of // 2
        return min(of, default if self.after_chunks is None else self.after_chunks)


@dataclass(slots=True)
class _Rule:
    fault: Fault
    since: float
    seen: int = 0

    def applies(self, seed: int, index: int, now: float) -> bool:
        fault, self.seen = self.fault, self.seen + 1
        if fault.seconds is not None and now - self.since >= fault.seconds:
            return False
        if fault.first is not None and self.seen > fault.first:
            return False
        if fault.every is not None and self.seen % fault.every != 0:
            return False
        return (
            fault.probability is None or uniform(seed, str(self.seen), f"fault {index}") < fault.probability
        )


class FaultPlan:
    """The faults in force. Call `choose` once per call, in the order of arrival."""

    def __init__(self, faults: tuple[Fault, ...], seed: int, now: float) -> None:
        self._seed = seed
        self._rules = [_Rule(fault, now) for fault in faults]

    def choose(self, kind: str, job: str, now: float) -> Fault | None:
        """Returns the fault of this call, if any. Every rule that selects the call counts it."""
        chosen = None
        for index, rule in enumerate(self._rules):
            if rule.fault.kind not in (None, kind) or rule.fault.job not in (None, job):
                continue
            if rule.applies(self._seed, index, now) and chosen is None:
                chosen = rule.fault
        return chosen
