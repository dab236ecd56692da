"""Everything that has to exist at the broker, described once and without I/O.

One description for every declarer: queue arguments that differ between two declarers are a 406 in production.
All names and arguments of queues come from here. Only queues and one exchange are needed: publishers use the
default exchange, subscribers bind queues of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from eco2.job import PRIORITIES, Priority
from eco2.ports import DEAD, DELAYS, delay_queue, jobs_queue, retry_queue

DELIVERY_LIMIT = 1000
"""Failed deliveries after which the broker itself gives a message up; RabbitMQ 4 would stop after 20.

Rejects and lost connections count. A nack counts until RabbitMQ 4.2 and not from 4.3 on, so the engine
bounds the returns itself (`Delivery.delivery_count`)."""

UNLIMITED = 2**31 - 1
"""A delivery limit out of reach, for letters that are looked at any number of times: until RabbitMQ 4.2 each
look counts. Neither none nor -1 means it on all versions: RabbitMQ 4 takes none as 20, and 3.10 drops at -1
what comes back once."""

DISCONNECTED_TIMEOUT = 5000
"""Milliseconds after which a quorum queue hands on what consumers of an unreachable node held. RabbitMQ 4.3
waits 60 s by default; older versions do not wait, and ignore it."""

SEGMENT_BYTES = 64_000_000
"""Size of a stream's segment files: the oldest is dropped only as a whole, so it must not be large."""

SNAPSHOT_BYTES, SNAPSHOT_SEGMENT_BYTES = 128_000_000, 16_000_000
"""Size of the stream of snapshots, which has to hold at least three, and of its segments."""

EVENTS = "events"
INPUTS = "inputs"
SNAPSHOTS = "snapshots"
LIVE = "live"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for \w+ '[^']+' in vhost '[^']*': "
    r"received (?P<expected>.+?) but current is (?P<actual>.+)"
)
_AGE = re.compile(r"(?P<count>\d+)(?P<unit>[YMDhms]?)")
_HOURS = {"Y": 8760, "M": 720, "D": 24, "h": 1, "m": 1 / 60, "s": 1 / 3600, "": 1 / 3_600_000}
"""Hours of RabbitMQ's units of age. From 4.3 on it names an age in milliseconds, without a unit."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and the arguments that it is declared with."""

    name: str
    arguments: Mapping[str, str | int | bool]
    kind: str = "queue"

    @property
    def age(self) -> float:
        """Seconds that a stream keeps a record at least; infinite for any other queue."""
        hours = str(self.arguments.get("x-max-age", "inf")).removesuffix("h")
        return float(hours) * 3600


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange; `type` as AMQP names it."""

    name: str
    type: str
    kind: str = "exchange"


Entity = Queue | Exchange


@dataclass(frozen=True, slots=True)
class Topology:
    """The queues and exchanges of one installation; `prefix` keeps installations on one broker apart.

    `pipelines` get their work queues. `retention_hours`: how long the journal keeps its records;
    `inputs_hours`: how long the copies of orders are kept, at least as long as a job lives. `budgets`: the
    providers whose budgets this process shares; no worker of release 0.1 may share one at the same time.
    Raises ValueError for a name that is not lower-case letters, digits and `-`.
    """

    prefix: str = "eco2"
    pipelines: tuple[str, ...] = ()
    retention_hours: int = 24
    inputs_hours: int = 1
    budgets: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in (*self.prefix.split("."), *self.pipelines):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be part of a queue's name: use a-z, 0-9 and '-'")
        if self.retention_hours < 1:
            raise ValueError("retention_hours must be at least 1")
        object.__setattr__(self, "entities", self._describe())

    def queue(self, logical: str) -> str:
        """The broker's name of a queue that the engine calls `logical`, such as `jobs.scan` or `dead`."""
        return f"{self.prefix}.{logical}"

    @property
    def stream(self) -> str:
        return self.queue(EVENTS)

    @property
    def inputs(self) -> str:
        """The stream that keeps inputs."""
        return self.queue(INPUTS)

    @property
    def snapshots(self) -> str:
        """The stream that keeps snapshots of the view."""
        return self.queue(SNAPSHOTS)

    @property
    def live(self) -> str:
        """The topic exchange of live messages."""
        return self.queue(LIVE)

    @property
    def old_budgets(self) -> tuple[str, ...]:
        """The queues from which workers of release 0.1 serve the budgets; the present release has none."""
        return tuple(self.queue(f"rpc.quota-{name}") for name in self.budgets)

    def _describe(self) -> tuple[Entity, ...]:
        return (
            Queue(self.queue(DEAD), MappingProxyType(_quorum() | {"x-delivery-limit": UNLIMITED})),
            *(queue for name in self.pipelines for each in PRIORITIES for queue in self._work(name, each)),
            Queue(self.stream, MappingProxyType(_stream(self.retention_hours))),
            Queue(self.inputs, MappingProxyType(_stream(self.inputs_hours))),
            Queue(
                self.snapshots,
                MappingProxyType(
                    {
                        "x-queue-type": "stream",
                        "x-max-length-bytes": SNAPSHOT_BYTES,
                        "x-stream-max-segment-size-bytes": SNAPSHOT_SEGMENT_BYTES,
                    }
                ),
            ),
            Exchange(self.live, "topic"),
        )

    def _work(self, pipeline: str, priority: Priority) -> tuple[Queue, ...]:
        """Orders, what goes first, and what waits: it goes first when its time has come."""
        first = self.queue(retry_queue(pipeline, priority))
        work = MappingProxyType(_quorum() | _dead_letters(self.queue(DEAD)))
        return (
            Queue(self.queue(jobs_queue(pipeline, priority)), work),
            Queue(first, work),
            *(
                Queue(
                    self.queue(delay_queue(pipeline, delay, priority)),
                    MappingProxyType(_quorum() | {"x-message-ttl": delay * 1000} | _dead_letters(first)),
                )
                for delay in DELAYS
            ),
        )


def _quorum() -> dict[str, str | int | bool]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-consumer-disconnected-timeout": DISCONNECTED_TIMEOUT,
    }


def _dead_letters(queue: str) -> dict[str, str | int | bool]:
    # At-least-once dead letters need `reject-publish`, though the queue has no maximum length.
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _stream(hours: int) -> dict[str, str | int | bool]:
    return {
        "x-queue-type": "stream",
        "x-max-age": f"{hours}h",
        "x-stream-max-segment-size-bytes": SEGMENT_BYTES,
    }


def difference(entity: Entity, reason: str) -> str:
    """The broker's `reason` for refusing to declare `entity` (a 406), in words that say what to do."""
    advice = "delete it when it is empty, or use another ECO2_PREFIX"
    if entity.name.endswith(f".{INPUTS}"):
        advice = "stop all processes and delete it, since it has only copies of orders (ECO2_MAX_WAIT …)"
    if found := _INEQUIVALENT.search(reason):
        argument = found["argument"]
        actual, expected = (_value(argument, found[side]) for side in ("actual", "expected"))
        reason = f"{argument} is {actual} at the broker, {expected} here"
    return f"{entity.kind} {entity.name}: {reason}; {advice}"


def old_workers(queue: str) -> str:
    """Why a worker must not start while `queue`, one of `old_budgets`, has consumers; and what to do."""
    return (
        f"workers of release 0.1 run: they consume {queue}. Together with this one they would use up to "
        "twice the provider's limits, since neither reads the other's grants. Stop all of them, wait until "
        "the last one has exited, then start this one; docs/operations.md has the steps (From 0.1)"
    )


def missing(entity: Entity) -> str:
    """The difference when `entity` does not exist at all."""
    return f"{entity.kind} {entity.name} does not exist at the broker; run `eco2 topology apply`"


def _value(argument: str, text: str) -> str:
    quoted = re.search(r"'(.*?)'", text)
    value = (quoted[1] or "empty") if quoted else text
    if argument == "x-max-age" and (age := _AGE.fullmatch(value)):
        return f"{int(age['count']) * _HOURS[age['unit']]:g}h"
    return value


def show(topology: Topology) -> str:
    """`topology` as a table for people: kind, name, then each argument on a line of its own."""
    width = max(len(entity.name) for entity in topology.entities)
    lines = []
    for entity in topology.entities:
        if isinstance(entity, Exchange):
            lines.append(f"{entity.kind:<8}  {entity.name:<{width}}  type={entity.type}")
            continue
        arguments = [f"{name}={value}" for name, value in entity.arguments.items()]
        lines.append(f"{entity.kind:<8}  {entity.name:<{width}}  {arguments[0]}")
        lines.extend(f"{'':<8}  {'':<{width}}  {argument}" for argument in arguments[1:])
    return "\n".join(lines)
