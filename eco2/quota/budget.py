"""One provider's budget, as every process folds it from the journal: who leads, who waits, what was granted.

Two parts. `apply` is the fold: it depends on the order of the records alone, so all processes agree on which
grants are valid. `decide`, `candidacy` and the rest are what one process does with it, at its own time `now`
(seconds of its monotonic clock). Pure: no I/O, no clock.

Guarantee: no 60 s of arrivals at the provider exceed the limits, whichever processes stop, freeze, lag or
start, if clocks run apart by `DRIFT` at most and a call arrives within the transit time of its `by`. The
proof and the price are in docs/decisions/0038-the-budget-is-a-fold.md.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from eco2.event import (
    BudgetEvent,
    CallCounted,
    CallReleased,
    CallRequested,
    CallsGranted,
    CallThrottled,
    EpochOpened,
    GrantedCall,
    Header,
    Leads,
    LimitsNamed,
    WriterAbsent,
)
from eco2.pacer import SPAN, Counting, Limits, Pacer
from eco2.quota.scheduler import Level, Rank, Request, Scheduler
from eco2.quota.throttle import Throttle
from eco2.writers import DRIFT, Writers

GRANT_LIFE = 0.2
"""Seconds from a decision until its call must have left: half of the pacer's transit guard."""
LEADS_INTERVAL = 0.5
"""Seconds without a record after which a leader writes `leads` while requests wait."""
PATIENCE = 1.25
"""Seconds of the leader's silence, at least, after which a process tries to lead."""
NEWCOMER_DELAY = 0.4
"""Seconds more at a process's start, and less and less during its first minute: who has read for longer
knows better when the calls of this minute were granted."""
JITTER = 0.1
"""Seconds more at most, so that processes do not try at once."""
MAX_BACKOFF = 8.0
"""Times the patience of a candidate whose candidacies were void."""
BATCH = 20
"""Grants in one record, at most."""


@dataclass(slots=True)
class _Call:
    """A call that was granted. `at`: on its leader's clock. `counted`: tokens, once the provider said so."""

    leader: str
    at: float
    request: CallRequested
    counted: float | None = None


@dataclass(slots=True)
class _Epoch:
    """The calls that one leader granted. `opened`, `last`: of its clock, when its records began and ended.

    `after`: of its clock, too, when all records of earlier epochs had been written.
    """

    writer: str
    opened: float
    last: float
    after: float
    calls: dict[str, _Call] = field(default_factory=dict)


def patience(age: float, chance: float) -> float:
    """Returns the seconds of the leader's silence that a process bears. `age`: seconds since its start.

    `chance`: from 0 to 1, drawn for each candidacy.
    """
    return PATIENCE + NEWCOMER_DELAY * max(0.0, 1 - age / SPAN) + JITTER * chance


class Budget:
    """`own`: the writer that leads for this process. `current`: may this run of this job make calls, by the
    records read so far?"""

    def __init__(self, name: str, own: str, writers: Writers, current: Callable[[str, str], bool]) -> None:
        self.name = name
        self._own = own
        self.epoch = -1
        self.leader: str | None = None
        self.led_offset = -1
        self.waiting: dict[str, Request] = {}
        self._writers = writers
        self._current = current
        self._epochs: deque[_Epoch] = deque()
        self._throttle = Throttle()
        self._throttled: deque[tuple[Header, CallThrottled, _Call]] = deque(maxlen=100)
        self._pacer: Pacer | None = None
        self._scheduler = Scheduler()
        self._issued: set[str] = set()
        self._deposed = ""
        self._deposed_at = -math.inf
        self._led_at = -math.inf
        self._stood_at = -math.inf
        self._wrote_at = -math.inf
        self._named: dict[tuple[str, bool], tuple[float, Limits]] = {}
        self._known_from: float | None = None
        self._seconds_read = 0.0
        self._backoff = 1.0
        self._largest = math.inf

    @property
    def leading(self) -> bool:
        """True once this process has read its own epoch, until it reads a newer one."""
        return self.leader == self._own

    def apply(self, offset: int, header: Header, record: BudgetEvent, now: float) -> tuple[GrantedCall, ...]:
        """Folds one record, after `Writers.take` took its header; returns the calls that it grants."""
        match record:
            case CallRequested():
                if self._current(record.job, record.run):
                    self.waiting[record.id] = Request(record, header.writer, now)
            case CallReleased():
                self._remove(record.id)
            case CallCounted() | CallThrottled():
                self._answered(header, record, now)
            case LimitsNamed():
                self._named.pop((header.writer, record.given), None)
                self._named[header.writer, record.given] = (now, Limits(record.requests, record.tokens))
            case EpochOpened():
                self._open(offset, header, record.silence, now)
            case CallsGranted() | Leads() | WriterAbsent():
                if self.epoch < record.epoch < offset:  # its beginning was dropped from the journal
                    self._begin_epoch(record.epoch, offset, header, now)
                if record.epoch == self.epoch and header.writer == self.leader:
                    return self._led(offset, header, record, now)
        return ()

    def _answered(self, header: Header, record: CallCounted | CallThrottled, now: float) -> None:
        """Notes what the provider said of a call, unless the call is too old to count."""
        call = next((epoch.calls[record.id] for epoch in self._epochs if record.id in epoch.calls), None)
        if call is None:
            return
        if isinstance(record, CallThrottled):
            self._throttled.append((header, record, call))
            self._push_back(now, record, call, now)
        elif call.counted is None:
            call.counted = record.tokens
            if self._pacer is not None:
                self._pacer.settle(record.id, record.tokens)

    def _push_back(self, at: float, record: CallThrottled, call: _Call, now: float) -> None:
        granted = call.at + self._writers.ahead(call.leader, now)
        self._throttle = self._throttle.pushed_back(at, granted, record.retry_after)

    def _open(self, offset: int, header: Header, silence: float, now: float) -> None:
        if header.seen >= self.led_offset:
            self._begin_epoch(offset, offset, header, now, silence)
        elif header.writer == self._own:
            self._backoff = min(MAX_BACKOFF, 2 * self._backoff)

    def _begin_epoch(self, epoch: int, offset: int, header: Header, now: float, silence: float = 0.0) -> None:
        if self._epochs:
            self._seconds_read += (self._epochs[-1].last - self._epochs[-1].opened) * (1 - DRIFT)
        if self.leader is not None:  # its process was silent: presence must be shown anew
            self._deposed, self._deposed_at = self.leader.removesuffix(f".{self.name}"), now
        self.epoch, self.leader, self.led_offset = epoch, header.writer, offset
        self._epochs.append(_Epoch(header.writer, header.sent, header.sent, header.sent - silence))
        if self._known_from is None:
            self._known_from = header.sent + self._writers.ahead(header.writer, now)
        self._pacer, self._issued, self._scheduler = None, set(), Scheduler()
        self._led_at = now
        self._drop_expired(now)

    def _led(
        self, offset: int, header: Header, record: CallsGranted | Leads | WriterAbsent, now: float
    ) -> tuple[GrantedCall, ...]:
        """Folds a record of the leader; returns the calls that it grants."""
        self.led_offset, self._led_at, self._backoff = offset, now, 1.0
        epoch = self._epochs[-1]
        epoch.last = header.sent
        granted: list[GrantedCall] = []
        if isinstance(record, WriterAbsent):
            for name in [name for name, each in self.waiting.items() if each.writer == record.writer]:
                del self.waiting[name]
        elif isinstance(record, CallsGranted):
            for call in record.calls:
                self._issued.discard(call.id)
                request = self.waiting.pop(call.id, None)
                if request is not None and self._current(request.call.job, request.call.run):
                    epoch.calls[call.id] = _Call(header.writer, record.at, request.call)
                    granted.append(call)
                elif not self.is_known(now):  # its request may be older than what was read
                    unknown = CallRequested(
                        budget=self.name, id=call.id, job="", run="", kind="", tokens=call.tokens
                    )
                    epoch.calls[call.id] = _Call(header.writer, record.at, unknown)
                elif self._pacer is not None:
                    self._pacer.refund(call.id)  # void for everybody: it cannot be sent
            self._drop_expired(now)
        return tuple(granted)

    def _remove(self, name: str) -> None:
        self.waiting.pop(name, None)
        for epoch in self._epochs:
            epoch.calls.pop(name, None)
        if self._pacer is not None:
            self._pacer.refund(name)

    def _drop_expired(self, now: float) -> None:
        """Drops calls that have left the window, and epochs without any, but for the last."""
        for epoch in self._epochs:
            ahead = self._writers.ahead(epoch.writer, now)
            while epoch.calls and epoch.calls[first := next(iter(epoch.calls))].at + ahead + SPAN <= now:
                del epoch.calls[first]
        while len(self._epochs) > 1 and not self._epochs[0].calls:
            self._epochs.popleft()

    def spending(self, now: float) -> list[tuple[float, _Call]]:
        """Returns when each call that counts was granted at the latest, here, oldest first.

        The clock of an epoch's leader is known by its own messages, and by the next leader's first record,
        which says when all of the epoch had been read.
        """
        found: list[tuple[float, _Call]] = []
        end = now
        for epoch in reversed(self._epochs):
            ahead = min(self._writers.ahead(epoch.writer, now), end - epoch.last)
            found += [(call.at + ahead, call) for call in reversed(epoch.calls.values())]
            end = min(end, epoch.after + ahead)
        return found[::-1]

    def limits(self, now: float, own: Limits, *, named: bool = True) -> Limits:
        """Returns the lowest limits that any process has: given to one that runs, or named a minute ago.

        `named`: False leaves out those that were named; an answer of the provider may be an error.
        """
        for (writer, given), (at, limits) in list(self._named.items()):
            if now - (self._writers.heard(writer) if given else at) > SPAN:
                del self._named[writer, given]  # a process that asks again gives them again
            elif given or named:
                own = own.lowest(limits)
        return own

    def is_known(self, now: float) -> bool:
        """Returns True once all grants that count were read: the first epoch that was read is old enough.

        A process that reads them late knows by the leaders' own clocks how long their epochs were.
        """
        if self._known_from is None:
            return False
        last = self._epochs[-1]
        seconds = self._seconds_read + now - last.opened - self._writers.ahead(last.writer, now)
        return max(seconds, now - self._known_from) >= SPAN

    def decide(
        self,
        now: float,
        limits: Limits,
        rank: Rank,
        counting: Counting = "request",
    ) -> CallsGranted | None:
        """Grants what may be sent now, if this process leads and its tail is current.

        `limits`: those given to this process. All of the budget counts as spent if this process has not read
        the last minute.
        """
        if not (self.leading and self._writers.is_current(now)):
            return None
        self._largest = self.limits(now, limits, named=False).tokens or math.inf
        if self._pacer is None:
            self._pacer = self._begin(now, limits, counting)
        limits = self.limits(now, limits)
        self._pacer.limit(limits, self._throttle.at(now), now)
        calls: list[GrantedCall] = []
        waiting = self._grantable(now)
        while len(calls) < BATCH and (request := self._scheduler.first(waiting.values(), rank, now)):
            if self._when(request, now) > now:
                break
            call = request.call
            del waiting[call.id]
            self._scheduler.granted(request, limits.pace(call.tokens), now)
            self._pacer.grant(now, call.id, call.tokens, call.kind)
            self._issued.add(call.id)
            by = now - self._writers.ahead(request.writer, now) + GRANT_LIFE
            calls.append(GrantedCall(call.id, by, call.tokens))
        if not calls:
            return None
        self._wrote_at = now
        return CallsGranted(budget=self.name, epoch=self.epoch, at=now, calls=tuple(calls))

    def used(self, now: float) -> tuple[Limits, Limits] | None:
        """Returns what was granted in the last minute, and what is assumed besides; None if others lead."""
        if self._pacer is None:
            return None
        assumed = self._pacer.assumed(now)
        return self._pacer.used(now).less(assumed), assumed

    def factor(self, now: float) -> float:
        """Returns the share of the limits in use: less than 1 after 429 answers."""
        return self._throttle.shown(now)

    def due(self, now: float, rank: Rank) -> float | None:
        """Returns when `decide` may grant the next request if nothing else happens; None without one."""
        if self._pacer is None or not self._writers.is_current(now):
            return None
        request = self._scheduler.first(self._grantable(now).values(), rank, now)
        return None if request is None else self._when(request, now)

    def _begin(self, now: float, limits: Limits, counting: Counting) -> Pacer:
        """Returns the pacer of a new term, with all grants of the last minute, as late as they can be."""
        self._throttle = Throttle()  # what this process read at its start, it took for new
        for header, record, call in self._throttled:
            self._push_back(header.sent + self._writers.ahead(header.writer, now), record, call, now)
        spending = self.spending(now)
        if not self.is_known(now):
            largest = max((call.request.tokens for _, call in spending), default=0.0)
            return Pacer(limits, now, counting, largest)
        pacer = Pacer(limits, now, counting)
        pacer.clear()
        for at, call in spending:
            pacer.grant(at, call.request.id, call.request.tokens, call.request.kind)
            if call.counted is not None:
                pacer.settle(call.request.id, call.counted)
        return pacer

    def _grantable(self, now: float) -> dict[str, Request]:
        """The requests that may be granted, by id; one that no minute holds waits and blocks nobody."""
        writers = {each.writer for each in self.waiting.values()}
        present = {each for each in writers if self._is_present(each, now)}
        return {
            name: each
            for name, each in self.waiting.items()
            if each.writer in present
            and name not in self._issued
            and self._current(each.call.job, each.call.run)
            and each.call.tokens <= self._largest
        }

    def _is_present(self, writer: str, now: float) -> bool:
        """Returns True if the process reads its grants: a leader that lost its epoch must show it anew."""
        if writer == self._deposed and self._writers.heard(writer) <= self._deposed_at:
            return self._writers.is_own(writer)
        return self._writers.is_present(writer, now)

    def _when(self, request: Request, now: float) -> float:
        assert self._pacer is not None
        call, batch = request.call, self._scheduler.level(request, now) >= Level.OLD_BATCH
        return max(self._throttle.paused, self._pacer.when(now, call.tokens, call.kind, batch=batch))

    def may_send(self, call: GrantedCall, request: CallRequested, now: float) -> bool:
        """Returns True if the granted call may leave now: in time, and of the job's current run.

        The asker looks right before the first byte. If not, it releases the call and asks under a fresh id.
        """
        return now < call.by and self._current(request.job, request.run)

    def withdraw(self, record: CallsGranted) -> None:
        """Takes back grants that were decided, and that no process can read any more."""
        for call in record.calls:
            self._issued.discard(call.id)
            if self._pacer is not None:
                self._pacer.refund(call.id)

    def leads(self, now: float) -> Leads | None:
        """Returns the leader's sign of life if one is due: silence would make another process lead."""
        if not (self.leading and self.waiting and self._writers.is_current(now)):
            return None
        if now - max(self._wrote_at, self._led_at) < LEADS_INTERVAL:
            return None
        self._wrote_at = now
        return Leads(budget=self.name, epoch=self.epoch)

    def absent(self, now: float, timeout: float) -> list[WriterAbsent]:
        """Drops the requests of writers that were silent for `timeout` seconds, as far as this leader saw."""
        if not (self.leading and self._writers.is_current(now)):
            return []
        silent = {
            each.writer
            for each in self.waiting.values()
            if not self._writers.is_own(each.writer)
            and now - max(self._writers.heard(each.writer), self._epochs[-1].opened) > timeout
        }
        return [WriterAbsent(budget=self.name, epoch=self.epoch, writer=each) for each in sorted(silent)]

    def candidacy_due(self, since: float, patience: float) -> float:
        """Returns when this process tries to lead if the leader stays silent: perhaps itself, after a stall.

        `since`: when it read its own oldest request that waits. `patience`: seconds of silence that it bears.
        """
        return max(since, self._led_at, self._stood_at) + patience * self._backoff

    def stand(self, now: float) -> EpochOpened:
        """Returns the record by which this process tries to lead."""
        self._stood_at = now
        return EpochOpened(budget=self.name, silence=max(0.0, now - self._led_at) if self.leader else 0.0)
