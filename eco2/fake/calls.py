"""Logs every call, for tests and benchmarks that judge the caller.

A call is in the log from its arrival on, and is completed while it runs. Times named `…_at` are monotonic
seconds of the server; `wall` is Unix seconds at arrival.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

Outcome = Literal[
    "running",
    "ok",
    "rate_limited",
    "refused",
    "failed",
    "stalled",
    "cut",
    "disconnected",
    "aborted",
]
"""`refused`: another 4xx; `failed`: a 5xx; `stalled`, `cut`, `disconnected`: by a fault;
`aborted`: the client left before the end, or the server stopped."""


class LoggedCall(msgspec.Struct):
    """One call. Tokens are 0 if the call was refused before they were counted."""

    n: int  # number by order of arrival, from 1
    arrived_at: float
    wall: float
    job: str  # header x-eco2-job, else a hash of the body
    run: str | None  # header x-eco2-run
    kind: str = ""  # empty: the request could not be parsed
    model: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    charged_tokens: int = 0  # counted in the token window
    counted: bool = False  # is it in the windows?
    latency: float = 0.0  # seconds that it should take
    fault: str | None = None  # action of its fault
    outcome: Outcome = "running"
    status: int | None = None  # None: nothing was answered
    code: str | None = None  # of the error answered
    began_at: float | None = None  # when a 200 began: from then on the call is paid
    ended_at: float | None = None
    chunks: int = 0  # pieces of content sent
    client_disconnected: bool = False


class CallLog:
    """Keeps the last `size` calls, and writes a line for each ended call to `sink`."""

    def __init__(self, size: int, sink: Callable[[bytes], object] | None) -> None:
        self._calls: deque[LoggedCall] = deque(maxlen=size)
        self._count = 0
        self._sink = sink

    def open(self, arrived_at: float, wall: float, job: str, run: str | None) -> LoggedCall:
        """Adds a call that has just arrived."""
        self._count += 1
        call = LoggedCall(self._count, arrived_at, wall, job, run)
        self._calls.append(call)
        return call

    def close(self, call: LoggedCall, now: float) -> None:
        """Notes that the call has ended."""
        call.ended_at = now
        if self._sink is not None:
            self._sink(msgspec.json.encode(call) + b"\n")

    def select(self, after: int = 0, job: str | None = None, run: str | None = None) -> Iterable[LoggedCall]:
        """Returns the calls with n > `after`, of this job and run if given, by arrival."""
        return [
            call
            for call in self._calls
            if call.n > after and job in (None, call.job) and run in (None, call.run)
        ]

    @property
    def dropped(self) -> int:
        """Returns the number of calls that the log no longer holds."""
        return self._count - len(self._calls)
