"""What a provider sees: calls that arrive late after their grants, counted in every 60 s that there are."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from eco2.pacer import MINUTE, TRANSIT_GUARD, Counting, Limits, Pacer

Arrival = tuple[float, float]
"""When a call arrived, and what it cost."""

ROUNDING = 1e-6
"""Seconds: sums of floats differ by less; the guard is 0.4 s."""


def fullest(arrivals: Iterable[Arrival]) -> float:
    """The largest sum of any 60 s. A sum can only be largest just after an arrival."""
    most = used = 0.0
    ordered = sorted(arrivals)
    oldest = 0
    for time, cost in ordered:
        used += cost
        while ordered[oldest][0] <= time - MINUTE + ROUNDING:
            used -= ordered[oldest][1]
            oldest += 1
        most = max(most, used)
    return most


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered: calls at random moments. `draw` gives a call's reserved and real tokens."""

    calls_per_minute: float
    draw: Callable[[random.Random], tuple[float, float]]
    seconds: float = 3.0
    """How long a call takes at the provider; then it is settled."""
    refunded: float = 0.02
    """Share of grants that are given back unused, up to the guard later."""


@dataclass
class Run:
    """A simulated quarter of an hour."""

    requests: list[Arrival] = field(default_factory=list)
    tokens: list[Arrival] = field(default_factory=list)

    def share(self, arrivals: list[Arrival], limit: float, start: float, end: float) -> float:
        """What was used of the limit from `start` to `end`."""
        used = sum(cost for time, cost in arrivals if start < time <= end)
        return used / (limit * (end - start) / MINUTE)


def simulate(
    load: Load,
    limits: Limits,
    counting: Counting,
    seed: int,
    minutes: int = 15,
    takeovers: tuple[float, ...] = (),
) -> Run:
    """Calls are granted one after the other, each at the moment that the pacer named, and arrive late."""
    dice, run = random.Random(seed), Run()
    changes = list(takeovers)
    end, now = minutes * MINUTE, 0.0
    pacer = Pacer(limits, now, counting)
    pending: list[tuple[float, int, Callable[[Pacer], None]]] = []

    def settle(name: str, tokens: float | None) -> Callable[[Pacer], None]:
        return lambda pacer: pacer.refund(name) if tokens is None else pacer.settle(name, tokens)

    for number, offered in enumerate(offers(dice, load.calls_per_minute, end)):
        reserved, real = load.draw(dice)
        now = max(now, offered)
        while True:
            moment = pacer.when(now, reserved)
            next_event = min([pending[0][0]] if pending else [moment])
            if moment <= now:
                break
            now = min(moment, max(now, next_event))
            while pending and pending[0][0] <= now:
                heappop(pending)[2](pacer)
            if changes and changes[0] <= now:
                changes.pop(0)
                pacer = Pacer(limits, now, counting)
        if now >= end:
            break
        pacer.grant(now, str(number), reserved)
        late = dice.uniform(0, TRANSIT_GUARD)
        if dice.random() < load.refunded:
            heappush(pending, (now + late, number, settle(str(number), None)))
            continue
        run.requests.append((now + late, 1.0))
        run.tokens.append((now + late, reserved if counting == "request" else real))
        heappush(pending, (now + late + load.seconds, number, settle(str(number), real)))
    return run


def offers(dice: random.Random, per_minute: float, end: float) -> Iterator[float]:
    """Moments of a Poisson process."""
    moment = 0.0
    while (moment := moment + dice.expovariate(per_minute / MINUTE)) < end:
        yield moment
