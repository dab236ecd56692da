"""A world of processes that share one budget by the real fold, in simulated time; a seed repeats a run.

Each process has a clock of its own (another origin, another speed), a tail that lags and stalls, and an
outbox with one message in flight. It freezes, and dies and starts again with an empty memory. Publishes are
confirmed late or not at all, and then come twice, in any order, up to 90 s apart. The provider counts
arrivals.
"""

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from eco2.event import (
    BudgetEvent,
    CallReleased,
    CallRequested,
    CallsGranted,
    EpochOpened,
    GrantedCall,
    Header,
    WriterAbsent,
)
from eco2.pacer import Limits
from eco2.quota.budget import Budget, patience
from eco2.quota.scheduler import Request
from eco2.writers import Writers

NAME = "openai"
WAY = 0.2
"""Seconds from the look to the provider, at most."""
MINUTE = 60.0
TICK = 0.2
ABSENCE = 15.0
MAX_UNSENT = 0.1
"""Seconds for which a decision may wait to be sent; then it is withdrawn and made again."""
Step = Callable[[], object]


@dataclass(frozen=True)
class Weather:
    """What befalls each process: mean seconds between events (0: never), and how long they last.

    `drift`: by which clocks are faster or slower. `unconfirmed`: share of publishes that are sent again.
    `suspends`: the clock of a frozen process stands still. `same_id`: a released call is asked for again
    under its id.
    """

    limit: int = 20
    processes: int = 3
    slots: int = 4
    seconds: float = 160.0
    drift: float = 2e-4
    stall_every: float = 0.0
    stall: tuple[float, float] = (0.5, 5.0)
    freeze_every: float = 0.0
    freeze: tuple[float, float] = (0.2, 12.0)
    kill_every: float = 0.0
    down: tuple[float, float] = (0.3, 4.0)
    unconfirmed: float = 0.0
    publish: float = 0.0015
    suspends: bool = False
    same_id: bool = False


CALM = Weather()
ROUGH = Weather(stall_every=30.0, freeze_every=45.0, kill_every=75.0, unconfirmed=0.02)


@dataclass
class Outcome:
    """What a run showed. `fullest`: arrivals in the fullest minute. `used`: of the limit, after a minute."""

    fullest: int = 0
    used: float = 0.0
    granted: int = 0
    expired: int = 0
    epochs: int = 0
    void_candidacies: int = 0


def first_come(request: Request) -> tuple[float]:
    return (request.since,)


@dataclass(frozen=True)
class Message:
    offset: int
    header: Header
    records: tuple[BudgetEvent, ...]


class World:
    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.dice = random.Random(seed)
        self.now = 0.0
        self.log: list[Message] = []
        self.arrivals: list[float] = []
        self.outcome = Outcome()
        self.valid: dict[tuple[int, int], tuple[str, ...]] = {}
        """The calls that each record grants, as the first reader found: all must agree."""
        self._heap: list[tuple[float, int, Step, Process | None, int]] = []
        self._count = 0
        self.incarnations = 0
        self.processes = [Process(self) for _ in range(weather.processes)]

    def after(self, seconds: float, step: Step, process: "Process | None" = None) -> None:
        """Does `step` later; a process that is frozen then does it when it wakes, a dead one never."""
        self._count += 1
        life = process.life if process is not None else 0
        heapq.heappush(self._heap, (self.now + seconds, self._count, step, process, life))

    def run(self) -> Outcome:
        while self._heap:
            at, _, step, process, life = heapq.heappop(self._heap)
            if at > self.weather.seconds:
                break
            self.now = at
            if process is not None:
                if life != process.life or not process.alive:
                    continue
                if at < process.frozen_until:
                    self.after(process.frozen_until - at + self.dice.random() * 1e-3, step, process)
                    continue
            step()
        self._judge()
        return self.outcome

    def append(self, header: Header, records: tuple[BudgetEvent, ...]) -> None:
        self.log.append(Message(len(self.log), header, records))
        for process in self.processes:
            if process.alive:
                self.after(self.dice.expovariate(500), process.pump, process)

    def arrive(self) -> None:
        self.arrivals.append(self.now + self.dice.uniform(0.0, WAY))

    def heartbeat(self, writer: str, seen: int) -> None:
        """A live message: some are lost."""
        for process in self.processes:
            if process.alive and self.dice.random() > 0.01:
                take = process.heard(writer, seen)
                self.after(self.dice.expovariate(500), take, process)

    def _judge(self) -> None:
        times = sorted(self.arrivals)
        for at in times:
            inside = bisect_right(times, at) - bisect_right(times, at - MINUTE)
            self.outcome.fullest = max(self.outcome.fullest, inside)
        begin, end = MINUTE, self.weather.seconds - 1.0
        counted = sum(begin <= at < end for at in times)
        self.outcome.used = counted / (self.weather.limit * (end - begin) / MINUTE)


@dataclass
class Slot:
    """One place for a call. `read`: the request came by the own tail. `tries`: late grants in a row."""

    request: CallRequested | None = None
    read: bool = False
    tries: int = 0


class Process:
    def __init__(self, world: World) -> None:
        self.world = world
        self.life = 0
        self.alive = False
        self.frozen_until = 0.0
        self._boot()
        weather = world.weather
        for every, event in (
            (weather.stall_every, self._stall),
            (weather.freeze_every, self._freeze),
            (weather.kill_every, self._kill),
        ):
            if every:
                world.after(world.dice.expovariate(1 / every), event)

    def clock(self) -> float:
        """The monotonic clock of this process."""
        return self._origin + self._speed * self.world.now

    def _boot(self) -> None:
        world, dice = self.world, self.world.dice
        self.life += 1
        world.incarnations += 1
        self.alive = True
        self.frozen_until = self._stalled_until = 0.0
        self._origin = dice.uniform(0.0, 1e5)
        self._speed = 1 + dice.uniform(-world.weather.drift, world.weather.drift)
        self.name = f"w{world.incarnations}"
        self.writers = Writers(self.name)
        self.budget = Budget(NAME, self.name, self.writers, lambda job, run: True)
        self._limits = Limits(requests=float(world.weather.limit))
        self._number = self._asked = 0
        self._box: list[BudgetEvent] = []
        self._sending = False
        self._next = 0
        self._live_from = len(world.log)
        self._live = False
        self._seen = -1
        self._slots = [Slot() for _ in range(world.weather.slots)]
        self._began = self.clock()
        self._chance = dice.random()
        self._stood_after = -1
        self._alarm = float("inf")
        world.after(dice.uniform(0.05, 0.4), self.pump, self)
        world.after(TICK, self._tick, self)
        world.after(dice.random(), self._send_heartbeat, self)

    # The tail.

    def pump(self) -> None:
        world = self.world
        if world.now < self._stalled_until:
            world.after(self._stalled_until - world.now, self.pump, self)
            return
        while self._next < len(world.log):
            message = world.log[self._next]
            self._next += 1
            self._fold(message)
        if not self._live and self._next >= self._live_from:
            self._live = True
            for slot in self._slots:
                self._ask(slot)
        self._lead()

    def _fold(self, message: Message) -> None:
        now, budget = self.clock(), self.budget
        if not self.writers.take(message.offset, message.header, now):
            return
        self._seen = message.offset
        for record in message.records:
            epoch = budget.epoch
            if isinstance(record, CallRequested) and message.header.writer == self.name:
                self._slot(record.id).read = True
            granted = budget.apply(message.offset, message.header, record, now)
            if isinstance(record, EpochOpened) and message.header.writer == self.name:
                if budget.epoch > epoch:
                    self.world.outcome.epochs += 1
                else:
                    self.world.outcome.void_candidacies += 1
            names = tuple(call.id for call in granted)
            assert names == self.world.valid.setdefault((message.offset, id(record)), names)
            for call in granted:
                self._granted(call)
            if isinstance(record, WriterAbsent):
                self._ask_again()

    # The asker.

    def _ask_again(self) -> None:
        """Asks again for calls whose requests were dropped: this process was taken for dead."""
        for slot in self._slots:
            if slot.request is not None and slot.request.id not in self.budget.waiting and slot.read:
                self._ask(slot)

    def _ask(self, slot: Slot, again: CallRequested | None = None) -> None:
        self._asked += 1
        name = again.id if again is not None else f"{self.name}.{self._asked}"
        slot.request = CallRequested(budget=NAME, id=name, job=name, run="1", kind="vision", tokens=1.0)
        slot.read = False
        self._put(slot.request)

    def _slot(self, name: str) -> Slot:
        """Returns the slot that asks for the call; an empty one for a call of another process."""
        return next((each for each in self._slots if each.request and each.request.id == name), Slot())

    def _granted(self, call: GrantedCall) -> None:
        slot = self._slot(call.id)
        if slot.request is None:
            return
        request, slot.request = slot.request, None
        world, dice = self.world, self.world.dice
        world.outcome.granted += 1
        if self.budget.may_send(call, request, self.clock()):
            slot.tries = 0
            world.arrive()
            world.after(dice.uniform(2.0, 8.0), lambda: self._ask(slot), self)
        else:
            world.outcome.expired += 1
            slot.tries += 1
            self._put(CallReleased(budget=NAME, id=request.id))
            again = request if world.weather.same_id else None
            pause = min(2.0, 0.05 * 2**slot.tries) * dice.random()
            world.after(pause, lambda: self._ask(slot, again), self)

    # The leader, and who would be one.

    def _lead(self) -> None:
        if not self._live:
            return
        now, world = self.clock(), self.world
        while record := self.budget.decide(now, self._limits, first_come):
            self._put(record)
        due = self.budget.due(now, first_come)
        if due is not None and not now < self._alarm <= due:
            self._alarm = due
            world.after(max(due - now, 0.001), self._wake, self)

    def _wake(self) -> None:
        self._alarm = float("inf")
        self._lead()

    def _tick(self) -> None:
        self.world.after(TICK * (1 + self.world.dice.random() / 2), self._tick, self)
        if not self._live:
            return
        now = self.clock()
        self._lead()
        if (leads := self.budget.leads(now)) is not None:
            self._put(leads)
        for absent in self.budget.absent(now, ABSENCE):
            self._put(absent)
        waiting = [each.since for each in self.budget.waiting.values() if each.writer == self.name]
        borne = patience(now - self._began, self._chance)
        if waiting and now > self.budget.candidacy_due(min(waiting), borne):
            self._chance = self.world.dice.random()
            self._stood_after = self.budget.led_offset
            self._put(self.budget.stand(now))

    # Presence.

    def _send_heartbeat(self) -> None:
        self.world.after(1.0, self._send_heartbeat, self)
        self.world.heartbeat(self.name, self._seen)

    def heard(self, writer: str, seen: int) -> Step:
        return lambda: self.writers.note_heartbeat(writer, seen, self.clock())

    # The outbox: one message in flight.

    def _put(self, record: BudgetEvent) -> None:
        self._box.append(record)
        if not self._sending:
            self._sending = True
            self.world.after(0.0005, self._send, self)

    def _send(self) -> None:
        now, kept = self.clock(), []
        for record in self._box:
            if isinstance(record, CallsGranted) and self.is_stale(record, now):
                self.budget.withdraw(record)
            elif not isinstance(record, EpochOpened) or self._stood_after == self.budget.led_offset:
                kept.append(record)
        self._box = []
        if not kept:
            self._sending = False
            return
        self._number += 1
        self._publish(Header(self.name, self._number, now, self._seen), tuple(kept))

    def is_stale(self, record: CallsGranted, now: float) -> bool:
        """True for a decision that has waited too long to be sent, or is of an older epoch."""
        return record.epoch != self.budget.epoch or now - record.at > MAX_UNSENT

    def _publish(self, header: Header, records: tuple[BudgetEvent, ...]) -> None:
        world, dice = self.world, self.world.dice
        seconds = dice.expovariate(1 / world.weather.publish)
        late = seconds
        if dice.random() < world.weather.unconfirmed:
            if dice.random() < 0.5:
                late = dice.uniform(0.5, 90.0 if dice.random() < 0.3 else 10.0)
            world.after(dice.uniform(0.05, 2.0), lambda: self._publish(header, records), self)
        else:
            world.after(seconds + dice.expovariate(1000), self._send, self)
        world.after(late, lambda: world.append(header, records))

    # What befalls it.

    def _stall(self) -> None:
        weather, dice = self.world.weather, self.world.dice
        self._stalled_until = self.world.now + dice.uniform(*weather.stall)
        self.world.after(dice.expovariate(1 / weather.stall_every), self._stall)

    def _freeze(self) -> None:
        weather, dice = self.world.weather, self.world.dice
        seconds = dice.uniform(*weather.freeze)
        self.frozen_until = self.world.now + seconds
        if weather.suspends:
            self._origin -= self._speed * seconds
        self.world.after(dice.expovariate(1 / weather.freeze_every), self._freeze)

    def _kill(self) -> None:
        weather, dice = self.world.weather, self.world.dice
        self.alive = False
        self.life += 1

        def back() -> None:
            self._boot()
            self.world.after(dice.expovariate(1 / weather.kill_every), self._kill)

        self.world.after(dice.uniform(*weather.down), back)


def simulate(weather: Weather, seed: int) -> Outcome:
    """Runs one schedule."""
    return World(weather, seed).run()
