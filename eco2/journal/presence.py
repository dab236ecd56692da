"""Presence: every process sends a small message every few seconds: role, pipelines, limits, time.

Transient messages, so nothing is stored and an idle installation writes nothing to the journal. The clocks
are compared here. Guarantee: one wrong clock never moves the time of the others. `now()` is this machine's
clock as long as no majority of all processes is on one side of it, and else the median of all. Two processes
that disagree both keep their own, and warn.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from eco2.log import get_logger
from eco2.pacer import Limits
from eco2.ports import Clock, PubSub, Subscription

TOPIC = "presence"
BEAT = 3.0
"""Seconds between two messages of a process."""
SILENCE = 4 * BEAT
"""Seconds after which a process that sent nothing counts as gone."""
REPLIES = 0.3
"""Seconds for the others to answer the first message of a process that starts."""
SAMPLES = 3
"""Messages of a process that its clock is judged by. The least delayed one counts."""
AGREED = 2.0
"""Seconds by which clocks may differ without consequences; beyond them the process warns."""
UNFIT = 10.0
"""Seconds by which the clock of a process that is ready may differ from the majority's."""

MAX_LEFT = 1000
"""Processes that are known to have stopped; a name is never used again."""
MAX_NAMED = 3
"""Processes that one warning names."""

Role = Literal["gateway", "worker", "serve"]

log = get_logger(__name__)


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Shows one process to the others. `now`: its clock, Unix seconds; `limits`: given to it, by provider.

    `hello`: it has just started, and asks the others for theirs. `leaving`: it stops.
    """

    process: str
    role: Role
    now: float
    pipelines: tuple[str, ...] = ()
    limits: dict[str, Limits] = msgspec.field(default_factory=dict)
    hello: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Another process. `heard`: when last, by our monotonic clock; `epochs`: its clock less that one."""

    beat: Beat
    heard: float
    epochs: tuple[float, ...]

    @property
    def epoch(self) -> float:
        """Its clock (Unix seconds) when this process's monotonic clock stood at 0."""
        return max(self.epochs)


@dataclass(frozen=True, slots=True)
class Bounds:
    """For the own clock, from the clocks of all others: each as Unix seconds at monotonic 0.

    Below `low` or above `high` a majority is on the other side. `earliest`: the only other clock, if there is
    just one: then nothing tells which of the two is right.
    """

    low: float = -math.inf
    high: float = math.inf
    earliest: float = math.inf

    def ahead(self, own: float) -> float:
        """Seconds by which the own clock is ahead of the majority (behind: negative); 0.0 without one."""
        return own - min(max(own, self.low), self.high)

    def held(self, own: float) -> float:
        """The clock to go by: the median of all, or the own one where that is close to it."""
        apart = self.ahead(own)
        return own if abs(apart) <= AGREED else own - apart


def bounds(epochs: Iterable[float]) -> Bounds:
    """Compares the own clock with those of the others. A tie says nothing."""
    ordered = sorted(epochs)
    padded = [-math.inf, *ordered, math.inf]
    low, high = padded[len(ordered) // 2], padded[(len(ordered) + 1) // 2 + 1]
    return Bounds(low, high, ordered[0] if len(ordered) == 1 else math.inf)


class Presence:
    """This process among the others. `limits`: of its providers by name. `alone`: there are no others.

    `clock`: the machine's own, Unix seconds.
    """

    def __init__(
        self,
        live: PubSub,
        process: str,
        role: Role,
        pipelines: tuple[str, ...],
        limits: Mapping[str, Limits] | None = None,
        *,
        alone: bool = False,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._live = live
        self._own = Beat(process=process, role=role, now=0.0, pipelines=pipelines, limits=dict(limits or {}))
        self._clock = clock
        self.steady = monotonic
        self._began = monotonic()
        self._peers: dict[str, Peer] = {}
        self._left: dict[str, None] = {}
        self._bounds = Bounds()
        self._warned = False
        self._differing: set[tuple[str, str]] = set()
        self.met = asyncio.Event()
        """Set once the others had time to answer: from then on `now` goes by their clocks, too."""
        if alone:
            self.met.set()

    def now(self) -> float:
        """Unix seconds to go by. While a majority agrees, a jump of this machine's clock does not show."""
        steady = self.steady()
        return steady + self._bounds.held(self._clock() - steady)

    def earliest(self) -> float:
        """As `now`, but of two processes that disagree the earlier clock: for what was before the start."""
        return min(self.now(), self.steady() + self._bounds.earliest)

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Those of this process."""
        return self._own.pipelines

    @property
    def ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of the majority's; 0.0 without a majority."""
        return self._bounds.ahead(self._clock() - self.steady())

    @property
    def fit(self) -> bool:
        """False if this machine's clock is too wrong for work."""
        return abs(self.ahead) <= UNFIT

    @property
    def settled(self) -> bool:
        """True once a process that lives must have been heard."""
        return self.steady() - self._began >= SILENCE

    def workers(self) -> Counter[str]:
        """Workers that live, this process included, by each pipeline that they serve."""
        beats = [self._own, *(peer.beat for peer in self._peers.values())]
        return Counter(name for beat in beats if beat.role != "gateway" for name in beat.pipelines)

    def gone(self, process: str) -> bool:
        """True for a process that was heard once, and has stopped or fallen silent."""
        return process in self._left

    async def run(self, stop: asyncio.Event) -> None:
        """Listens and sends until `stop` is set, then takes leave."""
        listening = self._live.subscribe(TOPIC, self._hear)
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat(listening))
            await stop.wait()
            beating.cancel()
        self._send(leaving=True)
        await listening.cancel()

    async def _beat(self, listening: Subscription) -> None:
        while not self.met.is_set():
            attached = listening.attached
            self._send(hello=True)
            await asyncio.sleep(REPLIES)
            if attached:
                self.met.set()
        while True:
            self._send()
            await asyncio.sleep(BEAT * (0.9 + 0.2 * random.random()))
            self._forget()
            self._warn()

    def _send(self, *, hello: bool = False, leaving: bool = False) -> None:
        beat = replace(self._own, now=self._clock(), hello=hello, leaving=leaving)
        self._live.broadcast(TOPIC, msgspec.json.encode(beat))

    def _hear(self, _: str, body: bytes) -> None:
        try:
            beat = msgspec.json.decode(body, type=Beat)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # of another version: without it the process is judged as one that sends nothing
        if beat.process == self._own.process:
            return
        if beat.leaving:
            self._lose(beat.process)
        else:
            self._know(beat)
        if beat.hello:
            self._send()
        self._compare()

    def _know(self, beat: Beat) -> None:
        now, before = self.steady(), self._peers.get(beat.process)
        epochs = (*(before.epochs if before else ()), beat.now - now)[-SAMPLES:]
        self._peers[beat.process] = Peer(beat, now, epochs)
        self._left.pop(beat.process, None)
        for provider, limits in beat.limits.items():
            self._compare_limits(beat.process, provider, limits)

    def _lose(self, process: str) -> None:
        if self._peers.pop(process, None) is not None:
            self._left[process] = None
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]

    def _forget(self) -> None:
        silent = self.steady() - SILENCE
        for process in [name for name, peer in self._peers.items() if peer.heard < silent]:
            self._lose(process)
        self._compare()

    def _compare(self) -> None:
        self._bounds = bounds(peer.epoch for peer in self._peers.values())

    def _warn(self) -> None:
        apart = self.ahead
        if len(self._peers) == 1:
            apart = self._clock() - self.steady() - self._bounds.earliest
        if abs(apart) >= AGREED and not self._warned:
            log.warning(
                "this machine's clock differs from those of the other processes: look at its time service",
                ahead_seconds=round(apart, 1),
                others=sorted(self._peers)[:MAX_NAMED],
            )
        self._warned = abs(apart) >= AGREED

    def _compare_limits(self, process: str, provider: str, limits: Limits) -> None:
        own = self._own.limits.get(provider)
        if own in (None, limits) or (process, provider) in self._differing:
            return
        self._differing.add((process, provider))
        log.warning(
            "another worker was given other limits of this provider; the lowest hold while it runs: "
            "give all workers the same",
            provider=provider,
            other=process,
            its_requests=limits.requests,
            its_tokens=limits.tokens,
            requests=own.requests,
            tokens=own.tokens,
        )
