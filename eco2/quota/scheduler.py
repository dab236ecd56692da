"""Decides whose call is granted next: a person's before a batch's, and of several owners each in turn. Pure.

Guarantees, of the calls that wait at one moment: no batch call takes the place of an interactive one, but for
`FLOOR` of the budget where its job has waited for half of its `max_wait`, so that it does not expire behind
an endless load; of calls with one priority each owner gets the same share of the budget, however many it has;
and calls of jobs that have waited for a part of their `max_wait`, `OLD`, go before these, oldest job first.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from eco2.event import CallRequested
from eco2.job import PRIORITIES

OLD = 0.2
"""Of `max_wait`. What was accepted because the budget has room for it in time does not expire behind owners
that come later."""
FLOOR, FLOOR_AGE = 0.05, 0.5
"""The share of the budget, and the part of `max_wait` after which a batch call has it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that waits. `since`: when this process read it."""

    call: CallRequested
    writer: str
    since: float


Rank = Callable[[Request], tuple[float, ...]]
"""Orders requests that have the same turn: the lowest is granted first."""


class Level(IntEnum):
    """Requests of a lower level are granted first. From `OLD_BATCH` on they leave room for a person."""

    FLOOR = 0
    OLD_INTERACTIVE = 1
    INTERACTIVE = 2
    OLD_BATCH = 3
    BATCH = 4


class Scheduler:
    """Holds the turns of one leader; the next leader begins with none."""

    def __init__(self) -> None:
        self._turns = {priority: Turns() for priority in PRIORITIES}
        self._floor_at = -math.inf

    def first(self, waiting: Iterable[Request], rank: Rank, now: float) -> Request | None:
        """Returns the request that is granted next."""

        def place(request: Request) -> tuple[float, ...]:
            level, call = self.level(request, now), request.call
            shared = level in (Level.INTERACTIVE, Level.BATCH)
            return (level, self._turns[call.priority].next(call.owner) if shared else 0.0, *rank(request))

        return min(waiting, key=place, default=None)

    def level(self, request: Request, now: float) -> Level:
        """Returns the request's level at present."""
        call = request.call
        waited = (call.age + now - request.since) / call.max_wait if call.max_wait else 0.0
        if call.priority == "interactive":
            return Level.OLD_INTERACTIVE if waited > OLD else Level.INTERACTIVE
        if waited > FLOOR_AGE and now >= self._floor_at:
            return Level.FLOOR
        return Level.OLD_BATCH if waited > OLD else Level.BATCH

    def granted(self, request: Request, seconds: float, now: float) -> None:
        """Notes that the request is granted, which takes so many seconds' worth of the budget."""
        match self.level(request, now):
            case Level.FLOOR:
                self._floor_at = now + seconds / FLOOR
            case Level.INTERACTIVE | Level.BATCH:
                self._turns[request.call.priority].granted(request.call.owner, seconds)


class Turns:
    """Shares a budget among owners by start-time fair queueing, in a time that passes as calls are granted.

    Each call takes its owner's time from where its last one ended, and the owner whose time is least advanced
    goes first. One that had no call for a while begins at the present.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def next(self, owner: str) -> float:
        """Returns when the owner's next call begins."""
        return self._ends.get(owner, self._now)

    def granted(self, owner: str, seconds: float) -> None:
        """Notes a call of the owner."""
        self._now = max(self._now, begin := self.next(owner))
        self._ends[owner] = begin + seconds
        self._ends = {each: end for each, end in self._ends.items() if end > self._now}
