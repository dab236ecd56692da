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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from eco2.log import get_logger
from eco2.pacer import Limits
from eco2.ports import Clock, PubSub, Subscription
from eco2.writers import boot_time

TOPIC = "presence"
HEARTBEAT_INTERVAL = 3.0
"""Seconds between two messages of a process."""
HEARTBEAT_TIMEOUT = 4 * HEARTBEAT_INTERVAL
"""Seconds after which a process that sent nothing counts as stopped."""
HELLO_REPLY_TIME = 0.3
"""Seconds for the others to answer the first message of a process that starts."""
ATTACH_POLL_INTERVAL = 0.02
"""Seconds between two looks whether a process that starts can be answered."""
SAMPLES = 3
"""Messages of a process that its clock is judged by. The least delayed one counts."""
MAX_CLOCK_DIFFERENCE = 2.0
"""Seconds by which clocks may differ without consequences; beyond them the process warns."""
MAX_CLOCK_ERROR = 10.0
"""Seconds by which the clock of a process that is ready may differ from the majority's."""

MAX_NAMED = 3
"""Processes that one warning names."""

Role = Literal["gateway", "worker", "serve"]

log = get_logger(__name__)


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a process to all others. `now`: its clock, Unix seconds.

    `limits`: given to it, by provider. `hello`: it has just started, and asks the others for theirs.
    `leaving`: it stops. `can_sweep`: it may lead the sweep; a process of a version that has another way of
    choosing the leader does not send it, and is passed over.
    """

    process: str
    role: Role
    now: float
    pipelines: tuple[str, ...] = ()
    limits: dict[str, Limits] = msgspec.field(default_factory=dict)
    hello: bool = False
    leaving: bool = False
    can_sweep: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Another process. `received_at`: of its last message, by our monotonic clock.

    `epochs`: its clock less ours, by each of its last messages.
    """

    heartbeat: Heartbeat
    received_at: float
    epochs: tuple[float, ...]

    @property
    def epoch(self) -> float:
        """Its clock (Unix seconds) when this process's monotonic clock stood at 0."""
        return max(self.epochs)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds for the own clock, from the clocks of all others: each as Unix seconds at monotonic 0.

    Below `low` or above `high` a majority is on the other side. `earliest`: the only other clock, if there is
    just one, since then neither of the two can be called right.
    """

    low: float = -math.inf
    high: float = math.inf
    earliest: float = math.inf

    def ahead(self, own: float) -> float:
        """Seconds by which the own clock is ahead of the majority (behind: negative); 0.0 without one."""
        return own - min(max(own, self.low), self.high)


def bounds(epochs: Iterable[float]) -> Bounds:
    """Computes the bounds from the clocks of the others. A tie bounds nothing."""
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
        monotonic: Clock = boot_time,
    ) -> None:
        self._live = live
        self._own = Heartbeat(
            process=process, role=role, now=0.0, pipelines=pipelines, limits=dict(limits or {})
        )
        self._clock = clock
        self.steady = monotonic
        self._began = monotonic()
        self._peers: dict[str, Peer] = {}
        self._bounds = Bounds()
        self._warned = False
        self._differing: set[tuple[str, str]] = set()
        self.can_sweep = False
        """Whether this process may lead the sweep; the next message says so."""
        self.hello_answered = asyncio.Event()
        """Set once the others had time to answer the first message: then `now` uses their clocks, too."""
        if alone:
            self.hello_answered.set()

    def now(self) -> float:
        """Returns the Unix seconds. While a majority agrees, a jump of this machine's clock does not show.

        A clock that is close to the median is left alone.
        """
        own = self._clock()
        ahead = self._bounds.ahead(own - self.steady())
        return own - ahead if abs(ahead) > MAX_CLOCK_DIFFERENCE else own

    def earliest(self) -> float:
        """As `now`, but of two processes that disagree the earlier clock: for times before the start."""
        return min(self.now(), self.steady() + self._bounds.earliest)

    @property
    def process(self) -> str:
        """The name of this process."""
        return self._own.process

    @property
    def peers(self) -> Collection[Peer]:
        """The other processes that are heard of."""
        return self._peers.values()

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The pipelines of this process."""
        return self._own.pipelines

    @property
    def ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of the majority's; 0.0 without a majority."""
        return self._bounds.ahead(self._clock() - self.steady())

    @property
    def clock_is_usable(self) -> bool:
        """False if this machine's clock is too wrong for work."""
        return abs(self.ahead) <= MAX_CLOCK_ERROR

    @property
    def is_complete(self) -> bool:
        """True once every living process must have sent a message."""
        return self.steady() - self._began >= HEARTBEAT_TIMEOUT

    def workers(self) -> Counter[str]:
        """Counts the living workers, this process included, by each pipeline that they serve."""
        heartbeats = [self._own, *(peer.heartbeat for peer in self._peers.values())]
        return Counter(
            name for heartbeat in heartbeats if heartbeat.role != "gateway" for name in heartbeat.pipelines
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Receives and sends until `stop` is set, then sends that this process leaves."""
        subscription = self._live.subscribe(TOPIC, self._on_heartbeat)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send_heartbeats(subscription))
            await stop.wait()
            sending.cancel()
        self._send(leaving=True)
        await subscription.cancel()

    async def _send_heartbeats(self, subscription: Subscription) -> None:
        while not self.hello_answered.is_set():
            while not subscription.attached:  # noqa: ASYNC110  # the port offers no event for it
                await asyncio.sleep(ATTACH_POLL_INTERVAL)
            self._send(hello=True)
            await asyncio.sleep(HELLO_REPLY_TIME)
            if subscription.attached:
                self.hello_answered.set()
        while True:
            self._send()
            await asyncio.sleep(HEARTBEAT_INTERVAL * (0.9 + 0.2 * random.random()))
            self._remove_silent()
            self._warn()

    def _send(self, *, hello: bool = False, leaving: bool = False) -> None:
        heartbeat = replace(
            self._own, now=self._clock(), hello=hello, leaving=leaving, can_sweep=self.can_sweep
        )
        self._live.broadcast(TOPIC, msgspec.json.encode(heartbeat))

    def _on_heartbeat(self, _: str, body: bytes) -> None:
        try:
            heartbeat = msgspec.json.decode(body, type=Heartbeat)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # of another version: without it the process is judged as one that sends nothing
        if heartbeat.process == self._own.process:
            return
        if heartbeat.leaving:
            self._peers.pop(heartbeat.process, None)
        else:
            self._update_peer(heartbeat)
        if heartbeat.hello:
            self._send()
        self._compare()

    def _update_peer(self, heartbeat: Heartbeat) -> None:
        now, before = self.steady(), self._peers.get(heartbeat.process)
        epochs = (*(before.epochs if before else ()), heartbeat.now - now)[-SAMPLES:]
        self._peers[heartbeat.process] = Peer(heartbeat, now, epochs)
        for provider, limits in heartbeat.limits.items():
            self._compare_limits(heartbeat.process, provider, limits)

    def _remove_silent(self) -> None:
        silent = self.steady() - HEARTBEAT_TIMEOUT
        for process in [name for name, peer in self._peers.items() if peer.received_at < silent]:
            del self._peers[process]
        self._compare()

    def _compare(self) -> None:
        self._bounds = bounds(peer.epoch for peer in self._peers.values())

    def _warn(self) -> None:
        difference = self.ahead
        if len(self._peers) == 1:
            difference = self._clock() - self.steady() - self._bounds.earliest
        if abs(difference) >= MAX_CLOCK_DIFFERENCE and not self._warned:
            log.warning(
                "this machine's clock differs from those of the other processes: look at its time service",
                ahead_seconds=round(difference, 1),
                others=sorted(self._peers)[:MAX_NAMED],
            )
        self._warned = abs(difference) >= MAX_CLOCK_DIFFERENCE

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
