"""The log of every call: what tests and benchmarks read to judge whoever called.

A call is in the log from its arrival on and is filled in as it goes. Times named `…_at` are monotonic seconds
of the server; `wall` is Unix seconds at arrival.
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


class Call(msgspec.Struct):
    """One call. Tokens are 0 where the call was refused before they were known."""

    n: int  # number by order of arrival, from 1
    arrived_at: float
    wall: float
    job: str  # header x-eco2-job, else a hash of the body
    run: str | None  # header x-eco2-run
    kind: str = ""  # empty: the request was never understood
    model: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    charged_tokens: int = 0  # what the tokens window counts for it
    counted: bool = False  # is it in the windows?
    latency: float = 0.0  # seconds that it should take
    fault: str | None = None  # action of the fault that struck it
    outcome: Outcome = "running"
    status: int | None = None  # None: no answer was begun
    code: str | None = None  # of the error answered
    began_at: float | None = None  # when a 200 was begun: from here on the call is paid
    ended_at: float | None = None
    chunks: int = 0  # pieces of content sent
    client_disconnected: bool = False


class CallLog:
    """The last `size` calls, and a line per ended call to `sink`."""

    def __init__(self, size: int, sink: Callable[[bytes], object] | None) -> None:
        self._calls: deque[Call] = deque(maxlen=size)
        self._count = 0
        self._sink = sink

    def open(self, arrived_at: float, wall: float, job: str, run: str | None) -> Call:
        """Enters a call that has just arrived."""
        self._count += 1
        call = Call(self._count, arrived_at, wall, job, run)
        self._calls.append(call)
        return call

    def close(self, call: Call, now: float) -> None:
        """Notes that the call has ended."""
        call.ended_at = now
        if self._sink is not None:
            self._sink(msgspec.json.encode(call) + b"\n")

    def select(self, after: int = 0, job: str | None = None, run: str | None = None) -> Iterable[Call]:
        """Calls with n > `after`, of this job and run where given, by arrival."""
        return [
            call
            for call in self._calls
            if call.n > after and job in (None, call.job) and run in (None, call.run)
        ]

    @property
    def dropped(self) -> int:
        """How many calls the log no longer holds."""
        return self._count - len(self._calls)
