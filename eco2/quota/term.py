"""One leader's term: who waits, who is next, what was granted. All decisions, no I/O; `now` is an argument.

Guarantees: the oldest job goes first over all replicas, and one that has begun before any that has not; what
does not fit yet waits, and nothing smaller passes it; a call asked for twice is granted once; nothing is
granted to a run that is known to be void, not even after it has waited.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from eco2.errors import CallTooLarge
from eco2.pacer import SPAN, Limits, Pacer
from eco2.quota.message import RUN_VOID, WITHDRAWN, Ask, Entry, Granted, Later, Refused, Reply, Report
from eco2.quota.throttle import Throttle

HOLD = 5.0
"""Seconds that an ask waits here; then its worker must ask again, and so shows that it still wants it."""
MOST_HELD = 150
"""Asks that wait here at once: a broker hands one process 256 requests at the most, reports among them."""
BATCH = 20
"""Grants in one turn: the first of a burst must be on their way before the last are made, for they expire."""
CROWDED = (1.0, 10.0)
"""Seconds, at the least and at the most, after which an ask comes again for which there was no place."""

Value = TypeVar("Value")

Current = Callable[[str, str], bool]
"""May this run of this job make calls? False only where another run is known to have the job: one that this
process has not heard of yet may."""


Gone = Callable[[str], bool]
"""Has this worker stopped, as far as anybody can tell?"""


def present(_: str) -> bool:
    """For a leader that cannot tell: a worker counts for as long as what it was granted does."""
    return False


@dataclass(frozen=True, slots=True)
class _Held:
    ask: Ask
    since: float

    @property
    def rank(self) -> tuple[bool, int]:
        return (not self.ask.started, self.ask.offset)


@dataclass(frozen=True, slots=True)
class _Heard:
    """The limits of a worker. `given`: they are what it was given; else the provider named lower ones."""

    at: float
    limits: Limits
    given: bool


@dataclass(frozen=True, slots=True)
class Status:
    """A minute's budget as its leader sees it. `used`: granted in the last minute; `assumed`: what earlier
    leaders may have granted besides; `waiting`: asks; `factor`: of the limits, after 429 answers."""

    epoch: str
    limits: Limits
    used: Limits
    assumed: Limits
    waiting: int
    factor: float


class Term:
    """`own`: the limits that this process was given; workers tell theirs, and the lowest hold.

    `pacer`: with what is known of the terms before. Nothing is granted before `quiet`. `gone`: says of a
    worker that it has stopped: what it was given holds no longer, what the provider named to it does.
    """

    def __init__(
        self,
        epoch: str,
        own: Limits,
        current: Current,
        pacer: Pacer,
        quiet: float = 0.0,
        gone: Gone = present,
    ) -> None:
        self._gone = gone
        self.epoch = epoch
        self.limits = own
        self._own = own
        self._current = current
        self._pacer = pacer
        self._throttle = Throttle(paused=quiet)
        self._news: list[Entry] = []
        self._workers: dict[str, _Heard] = {}
        self._held: dict[str, _Held] = {}
        self._granted: dict[str, float] = {}
        self._withdrawn: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        return len(self._held)

    def status(self, now: float) -> Status:
        """For operators."""
        assumed = self._pacer.assumed(now)
        used = self._pacer.used(now).less(assumed)
        return Status(self.epoch, self.limits, used, assumed, self.waiting, self._throttle.shown(now))

    def factor(self, now: float) -> float:
        """The share of the limits that may be used."""
        return self._throttle.at(now)

    def ask(self, now: float, ask: Ask) -> Reply | None:
        """The answer where there is one at once; None where the ask waits for `due`."""
        self._hear(now, ask)
        if ask.id in self._withdrawn:
            return Refused(code=WITHDRAWN, message="its asker said that it will not be sent")
        if ask.id in self._granted:
            return Granted(epoch=self.epoch, held=self._granted[ask.id] - now)
        self._tidy(now)
        if (refusal := self._refusal(now, ask)) is None:
            self._held[ask.id] = _Held(ask, now)
        return refusal

    def express(self, now: float, ask: Ask) -> Granted | None:
        """The grant where there is one at once. Else nobody has heard of this copy of an ask: the ask itself
        is to be answered."""
        if self._held:
            return None  # they go first
        answer = self.ask(now, ask)
        if answer is None:
            answer = self._decide(now, ask)
            del self._held[ask.id]
        return answer if isinstance(answer, Granted) else None

    def report(self, now: float, report: Report) -> None:
        """Calls were sent, or will not be."""
        self._hear(now, report)
        for name in report.unsent:
            self._withdrawn.setdefault(name, now)
            self._held.pop(name, None)
            self._pacer.refund(name)
        for settled in report.settled:
            self._pacer.settle(settled.id, settled.tokens)
        for refused in report.pushed_back:
            granted = self._granted.get(refused.id)
            if granted is not None:
                self._throttle = self._throttle.pushed_back(now, granted, refused.retry_after)

    def due(self, now: float) -> list[tuple[str, Reply]]:
        """Answers the asks that are next in turn, and those that have waited long; by their ids."""
        self._tidy(now)
        answers: list[tuple[str, Reply]] = []
        while self._held and len(answers) < BATCH:
            held = self._next()
            answer = self._decide(now, held.ask)
            if answer is None:
                break
            answers.append(self._answered(held, answer))
        for held in [held for held in self._held.values() if held.since + HOLD <= now]:
            answers.append(self._answered(held, Later(seconds=0.0)))
        while len(self._held) > MOST_HELD:
            last = max(self._held.values(), key=lambda held: held.rank)
            # Half of the time in which those who wait will all be served, if they are like this one.
            seconds = MOST_HELD / 2 * self.limits.pace(last.ask.tokens)
            answers.append(self._answered(last, Later(seconds=min(max(seconds, CROWDED[0]), CROWDED[1]))))
        return answers

    def news(self) -> tuple[Entry, ...]:
        """Returns what was granted since the last call of this method."""
        news, self._news = tuple(self._news), []
        return news

    def wake(self, now: float) -> float | None:
        """When `due` will have something to say if nothing else happens; None for never."""
        if not self._held:
            return None
        ask = self._next().ask
        turn = max(self._pacer.when(now, ask.tokens, ask.call), self._throttle.paused)
        tired = min(held.since for held in self._held.values()) + HOLD
        return min(turn, tired, self._throttle.changes(now))

    def _next(self) -> _Held:
        return min(self._held.values(), key=lambda held: held.rank)

    def _refusal(self, now: float, ask: Ask) -> Refused | None:
        if not self._current(ask.job, ask.run):
            return Refused(code=RUN_VOID, message=f"another run than {ask.run} has job {ask.job}: stand by")
        try:
            self._pacer.when(now, ask.tokens, ask.call)
        except CallTooLarge as error:
            return Refused(code=error.code, message=str(error))
        return None

    def _decide(self, now: float, ask: Ask) -> Reply | None:
        """Decides on the ask that is first in turn; None where it has to wait."""
        if (refusal := self._refusal(now, ask)) is not None:
            return refusal
        if max(self._pacer.when(now, ask.tokens, ask.call), self._throttle.paused) > now:
            return None
        self._pacer.grant(now, ask.id, ask.tokens, ask.call)
        self._news.append(Entry(ask.id, ask.tokens, ask.call))
        self._granted[ask.id] = now
        return Granted(epoch=self.epoch, held=now - self._held[ask.id].since)

    def _answered(self, held: _Held, answer: Reply) -> tuple[str, Reply]:
        del self._held[held.ask.id]
        return held.ask.id, answer

    def _hear(self, now: float, said: Ask | Report) -> None:
        self._workers.pop(said.worker, None)
        self._workers[said.worker] = _Heard(now, said.limits, said.limits == said.own)

    def _tidy(self, now: float) -> None:
        """Forgets what is a window old, and applies the limits and the factor of this moment."""
        for known in (self._granted, self._withdrawn):
            _drop(known, lambda since: since + SPAN <= now)
        _drop(self._workers, lambda heard: heard.at + SPAN <= now)
        self.limits = self._own
        for worker, heard in self._workers.items():
            if not (heard.given and self._gone(worker)):
                self.limits = self.limits.lowest(heard.limits)
        self._pacer.limit(self.limits, self._throttle.at(now), now)


def _drop(known: dict[str, Value], old: Callable[[Value], bool]) -> None:
    """Takes away the old ones; the oldest stand first."""
    for name in list(takewhile(lambda name: old(known[name]), known)):
        del known[name]
