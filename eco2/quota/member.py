"""This process's part in one provider's budget: it asks for its calls, and grants while it leads.

All that it knows comes from the journal by the own tail; `Budget` folds and decides, and here is the I/O. A
grant is read by its asker in the same order as all other records, so it is permission and fence at once.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import msgspec
from msgspec.structs import replace

from eco2.errors import BrokerUnavailable, CallTooLarge, GrantExpired, RetryableError, StaleRun
from eco2.event import (
    BudgetEvent,
    CallCounted,
    CallReleased,
    CallRequested,
    CallsGranted,
    CallThrottled,
    Event,
    GrantedCall,
    Header,
    LimitsNamed,
    WriterAbsent,
)
from eco2.log import get_logger
from eco2.pacer import Counting, Limits
from eco2.ports import Clock, GrantRequest, PubSub, Subscription
from eco2.quota.budget import Budget, patience
from eco2.quota.scheduler import Request
from eco2.retry import Backoff
from eco2.writers import Writers, boot_time

TICK = 0.25
"""Seconds between two looks at what is due without a record: a sign of life, a candidacy."""
HEARTBEAT_INTERVAL = 1.0
"""Seconds between two live messages of a process whose calls wait."""
ABSENCE = 15.0
"""Seconds of silence after which the requests of a process are dropped."""
RENEWAL = 60.0
"""Seconds after which a process that asks writes its limits again."""
MIN_WAIT = 0.001
"""Seconds: timers are no finer."""
AGAIN = Backoff(0.1, 2.0)
"""Between two requests for one call: the grants of a tail that lags are late for a while."""

log = get_logger(__name__)


class Log(Protocol):
    """The journal, as far as a budget needs it."""

    writers: Writers

    def put(self, *events: Event) -> asyncio.Future[None]: ...
    async def append(self, header: Header, *events: Event) -> None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """A minute's budget as its leader sees it. `used`: granted in the last minute; `assumed`: what may have
    been granted before this process knew; `waiting`: requests; `factor`: of the limits, after 429 answers."""

    epoch: str
    limits: Limits
    used: Limits
    assumed: Limits
    waiting: int
    factor: float


def by_rank(request: Request) -> tuple[float, ...]:
    """Orders the calls of one owner: jobs that have started first, then the oldest job."""
    return (not request.call.started, request.call.offset)


@dataclass(slots=True)
class CallGrant:
    """Implements `ports.Grant` for one call."""

    expires_at: float
    late: int
    _call: CallRequested
    _granted: GrantedCall
    _member: "Member"
    _confirmed: bool = False
    _closed: bool = False

    def confirm(self) -> None:
        if not self._member.budget.may_send(self._granted, self._call, self._member.clock()):
            raise GrantExpired("the grant is too old to be used: release it and acquire another")
        self._confirmed = True

    def settle(self, tokens: float) -> None:
        self._close(CallCounted(budget=self._call.budget, id=self._call.id, tokens=tokens))

    def throttled(self, retry_after: float | None) -> None:
        self._close(CallThrottled(budget=self._call.budget, id=self._call.id, retry_after=retry_after))

    def release(self) -> None:
        if not self._confirmed:
            self._close(CallReleased(budget=self._call.budget, id=self._call.id))

    def _close(self, event: BudgetEvent) -> None:
        if not self._closed:
            self._closed = True
            self._member.log.put(event)


@dataclass(slots=True)
class _Waiting:
    """A call that waits. `granted`: None if its request was dropped. `read`: when its request came back."""

    call: CallRequested
    granted: asyncio.Future[GrantedCall | None]
    read: float | None = None


class Member:
    """`limits`: given to this process. `current`: may this run of this job make calls?"""

    def __init__(
        self,
        name: str,
        log: Log,
        live: PubSub,
        limits: Limits,
        current: Callable[[str, str], bool],
        counting: Counting = "request",
        clock: Clock = boot_time,
        wall: Clock = time.time,
    ) -> None:
        self.name = name
        self.log = log
        self.clock = clock
        self._wall = wall
        self._live = live
        self._topic = f"budget.{name}"
        self._hearing: Subscription | None = None
        self._limits = limits
        self._limits_given = -math.inf
        self._current = current
        self._counting = counting
        self._writer = f"{log.writers.own[0]}.{name}"  # its own: each budget numbers its messages
        log.writers.own += (self._writer,)
        self.budget = Budget(name, self._writer, log.writers, current)
        self._waiting: dict[str, _Waiting] = {}
        self._asked = count(1)
        self._sent = 0
        self._open: list[tuple[int, CallsGranted]] = []
        self._changed = asyncio.Event()
        self._began = clock()
        self._chance = random.random()

    # The fold.

    def read(self, offset: int, header: Header, event: BudgetEvent, now: float) -> None:
        """Folds one record of the journal, and hands its grants to those who wait for them."""
        while header.writer == self._writer and self._open and self._open[0][0] <= header.number:
            number, record = self._open.pop(0)
            if number < header.number:
                self.budget.withdraw(record)  # it can come no more: its number is past
        for granted in self.budget.apply(offset, header, event, now):
            if (waiting := self._waiting.get(granted.id)) and not waiting.granted.done():
                waiting.granted.set_result(granted)
        if isinstance(event, CallRequested) and (asked := self._waiting.get(event.id)):
            asked.read = now
        elif isinstance(event, WriterAbsent) and event.writer == self.log.writers.own[0]:
            self._drop_requests()  # this process was taken for dead
        self._changed.set()

    def reset(self) -> None:
        """Begins again without records: the journal was replaced, and all requests in it are lost."""
        self.budget = Budget(self.name, self._writer, self.log.writers, self._current)
        self._open.clear()
        self._drop_requests()

    def _drop_requests(self, *, only_void: bool = False) -> None:
        """Ends the waits for requests that nobody grants; `only_void`: of runs that were replaced."""
        for waiting in self._waiting.values():
            if waiting.read is None or waiting.granted.done():
                continue
            if not only_void or not self._current(waiting.call.job, waiting.call.run):
                waiting.granted.set_result(None)

    # The asker.

    async def acquire(self, request: GrantRequest) -> CallGrant:
        """Waits for a fresh grant: see `ports.Quota`."""
        if self._limits.tokens is not None and request.tokens > self._limits.tokens:
            raise CallTooLarge(
                f"a call of {request.tokens:g} tokens is more than the {self._limits.tokens:g} of a whole "
                "minute: shorten its input or its longest answer, or raise the limit"
            )
        late = 0
        for tries in count(1):
            name = f"{self.log.writers.own[0]}.{next(self._asked)}"
            call = CallRequested(
                budget=self.name,
                id=name,
                job=request.job,
                run=request.run,
                kind=request.kind,
                tokens=request.tokens,
                offset=request.offset,
                started=request.started,
                priority=request.priority,
                owner=request.owner,
                age=max(0.0, request.age),
                max_wait=request.max_wait,
                stage_started=request.stage_started,
            )
            if self.clock() - self._limits_given >= RENEWAL:
                self._give_limits()
            waiting = self._waiting[call.id] = _Waiting(call, asyncio.get_running_loop().create_future())
            asking = self.log.put(call)
            try:
                granted = await waiting.granted
            except BaseException:
                asking.cancel()
                self.log.put(CallReleased(budget=self.name, id=call.id))
                raise
            finally:
                del self._waiting[call.id]
            if granted is not None and self.budget.may_send(granted, call, self.clock()):
                return CallGrant(granted.by, late, call, granted, self)
            self.log.put(CallReleased(budget=self.name, id=call.id))
            if not self._current(call.job, call.run):
                raise StaleRun(f"another run than {call.run} has job {call.job}: stand by")
            late += granted is not None
            await AGAIN.sleep(tries)
        raise AssertionError("counting has no end")

    def update_limits(self, limits: Limits, *, given: bool = False) -> None:
        """Writes limits that the provider's answers name, which count for a minute, or this process's own."""
        requests, tokens = limits.requests, limits.tokens
        self.log.put(LimitsNamed(budget=self.name, requests=requests, tokens=tokens, given=given))

    def _give_limits(self) -> None:
        """Writes this process's limits: a process that starts does not read what is old."""
        self._limits_given = self.clock()
        self.update_limits(self._limits, given=True)

    # The leader, and who would be one.

    def status(self) -> Status | None:
        """Returns how the budget stands; None where another process leads."""
        now, budget = self.clock(), self.budget
        if (used := budget.used(now)) is None:
            return None
        limits, waiting = budget.limits(now, self._limits), len(budget.waiting)
        return Status(str(budget.epoch), limits, *used, waiting, budget.factor(now))

    async def run(self, stop: asyncio.Event) -> None:
        """Grants while it leads, until `stop` is set."""
        self._give_limits()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in (self._lead(), self._send_heartbeats())]
            await stop.wait()
            for task in tasks:
                task.cancel()
        if self._hearing is not None:
            await self._hearing.cancel()

    async def _lead(self) -> None:
        """Writes what is due, one message at a time: a decision never waits for another to be sent."""
        while True:
            now = self.clock()
            if not isinstance(due := self._due(now), float):
                await self._send(due)
                continue
            wait = min(TICK, max(MIN_WAIT, due - now))
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            self._drop_requests(only_void=True)

    async def _send_heartbeats(self) -> None:
        """Shows while calls wait that this process runs; the leader listens."""
        while True:
            if self._waiting or self.budget.leading:
                self._live.broadcast(self._topic, encode_heartbeat(self.log.writers))
            if self.budget.leading and self._hearing is None:
                self._hearing = self._live.subscribe(self._topic, self._on_heartbeat)
            elif self._hearing is not None and not self.budget.leading:
                hearing, self._hearing = self._hearing, None
                await hearing.cancel()
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def _on_heartbeat(self, _: str, body: bytes) -> None:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            writer, seen = msgspec.json.decode(body, type=tuple[str, int])
            self.log.writers.note_heartbeat(writer, seen, self.clock())

    def _due(self, now: float) -> BudgetEvent | float:
        """Returns what this process has to write now, as the leader or to become it, or when next."""
        budget = self.budget
        record = (
            budget.decide(now, self._limits, by_rank, self._counting)
            or next(iter(budget.absent(now, ABSENCE)), None)
            or budget.leads(now)
        )
        if record is not None:
            return record
        read = (waiting.read for waiting in self._waiting.values() if waiting.read is not None)
        due = budget.candidacy_due(min(read, default=math.inf), patience(now - self._began, self._chance))
        if now > due:
            self._chance = random.random()
            return budget.stand(now)
        granting = budget.due(now, by_rank)
        return due if granting is None else min(due, granting)

    async def _send(self, record: BudgetEvent) -> None:
        """Appends the record at once, and never again: what comes late is void, by its number.

        The stages that granted calls start are written with them.
        """
        self._sent += 1
        started: list[Event] = []
        if isinstance(record, CallsGranted):
            self._open.append((self._sent, record))
            requests = [self.budget.waiting[call.id].call for call in record.calls]
            started += [
                replace(request.stage_started, ts=self._wall(), granted=True)
                for request in requests
                if request.stage_started is not None
            ]
        header = Header(self._writer, self._sent, self.clock(), self.log.writers.offset)
        try:
            await self.log.append(header, record, *started)
        except BrokerUnavailable:
            if isinstance(record, CallsGranted):
                self._open.remove((self._sent, record))
                self.budget.withdraw(record)
            await asyncio.sleep(TICK)
        except RetryableError as error:
            log.info("a budget record is not confirmed", why=str(error))


def encode_heartbeat(writers: Writers) -> bytes:
    return msgspec.json.encode((writers.own[0], writers.offset))
