"""The engine's ports, as Protocols, which `broker/` and `llm/` implement.

A broker gives five things: work queues, a stream (the journal lives on it), stores of orders and of
snapshots, and transient messages. Names of queues are logical (`jobs.scan`); the adapter adds its prefix.
Every adapter passes the one suite in `tests/conformance`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from eco2.call import Call, Reply
from eco2.event import StageChanged
from eco2.job import Priority
from eco2.pacer import Limits

Answer = TypeVar("Answer")

Clock = Callable[[], float]
"""Returns the time in Unix seconds."""

DEAD = "dead"
"""The queue of dead letters, of all pipelines."""

DELAYS = (5, 30, 120)
"""Seconds by which a retry can be delayed. One queue for each, since a quorum queue with a time per message
would hold up expired messages that are queued after one that waits longer."""


def jobs_queue(pipeline: str, priority: Priority = "interactive") -> str:
    """The queue to which the orders of `pipeline` are published, one for each priority.

    That of interactive jobs has the name that release 0.1 gave to the only one.
    """
    return f"jobs.{pipeline}" if priority == "interactive" else f"jobs.{pipeline}.{priority}"


def retry_queue(pipeline: str, priority: Priority = "interactive") -> str:
    """The queue of orders that have waited before. Consumed beside the jobs, not after their backlog."""
    return f"{jobs_queue(pipeline, priority)}.first"


def delay_queue(pipeline: str, delay: int, priority: Priority = "interactive") -> str:
    """A message put here moves to the `retry_queue` after `delay` seconds, one of `DELAYS`."""
    return f"{jobs_queue(pipeline, priority)}.wait-{delay}s"


@dataclass(frozen=True, slots=True)
class Record:
    """One message of the stream. Offsets grow and are sparse: compare them, never count with them."""

    offset: int
    body: bytes


@dataclass(frozen=True, slots=True)
class FromStart:
    """Read the stream from its oldest record."""


@dataclass(frozen=True, slots=True)
class FromOffset:
    """Read the stream from the first record whose offset is `offset` or greater."""

    offset: int


@dataclass(frozen=True, slots=True)
class FromTime:
    """Read from about `ts` (Unix seconds): never later, perhaps thousands of records earlier; filter.

    While the stream holds nothing as new as `ts`, records that are being appended may be missed.
    """

    ts: float


@dataclass(frozen=True, slots=True)
class FromLast:
    """Read the stream from near its end: at least its newest record, if it has one, and what follows."""


Start = FromStart | FromOffset | FromTime | FromLast


class Delivery(Protocol):
    """One message handed to us by a work queue. It is settled once; unsettled it keeps its prefetch slot.

    Settling raises `DeliveryLost` when the connection that brought it is gone: the broker redelivers it.
    """

    @property
    def body(self) -> bytes: ...
    def release_body(self) -> None:
        """Frees the body before the delivery is settled; it is not read again."""

    @property
    def message_id(self) -> str: ...
    @property
    def redelivered(self) -> bool:
        """True if it may have been handed out before. False promises nothing."""

    @property
    def delivery_count(self) -> int:
        """How often it was given back or taken back before; 0 if the broker does not report it.

        Not the broker's own count towards its delivery limit: RabbitMQ counts `requeue` there until 4.2 only.
        """

    async def ack(self) -> None:
        """Settles it: the broker deletes it."""

    async def requeue(self) -> None:
        """Gives it back: the broker delivers it again, to any consumer."""

    async def reject(self) -> None:
        """Sends it to the dead letters (queue `DEAD`)."""


class Subscription(Protocol):
    """A subscription to messages; the broker's `run` attaches it again after every lost connection."""

    @property
    def attached(self) -> bool:
        """True while the broker has this consumer."""

    async def cancel(self) -> None:
        """Ends it: no message after this returns. Deliveries already handed out can still be settled."""


class Tail(Subscription, Protocol):
    """A reader that follows the stream over lost connections.

    `attached` holds from the record on that proves the stream to be the one that was read: after each
    attachment the last record is read again and compared.
    """

    async def reattach(self) -> None:
        """Continues over a new connection, for a tail that shows nothing: no record is lost or repeated."""


def ignore() -> None:
    """Does nothing; the callback of a reader that need not notice an event."""


class WorkQueue(Protocol):
    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        """Returns once the broker holds the message safely in `queue`.

        Raises `BrokerUnavailable` (not sent), `PublishUncertain` (not confirmed in time: it may arrive
        yet; publish again with the same `message_id`), `Unroutable` (no such queue).
        """

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Subscription:
        """Calls `on_delivery` for each message, with at most `prefetch` unsettled. It must not block."""

    async def depth(self, queue: str) -> int:
        """Returns the messages of `queue` that no consumer holds.

        Raises `BrokerUnavailable`, also if it does not exist.
        """


class Appender(Protocol):
    async def append(self, body: bytes, message_id: str) -> None:
        """Returns once the stream holds `body`. Raises like `WorkQueue.publish`, and `TooLarge` for a body
        that the broker never takes."""


class Stream(Appender, Protocol):
    def tail(
        self,
        start: Start,
        on_record: Callable[[Record], None],
        on_replaced: Callable[[], None] = ignore,
    ) -> Tail:
        """Calls `on_record` for every record from `start` on: in order, none lost or repeated,
        over any number of lost connections. `on_record` must neither block nor raise.

        `on_replaced` is called when the stream has another record, or none, where the last one was read: it
        was deleted and created again, or its end was lost. No record follows then: cancel, open another.
        A stream that ends before that place is silent instead.
        """

    def read(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Opens an independent reader: in order, and at the end it waits for more.

        The iteration raises `BrokerUnavailable` if the connection goes.
        """


class OrderStore(Protocol):
    """A second stream, for orders: their pictures are too large for the journal.

    It keeps each order for at least an hour. It has readers, but no tails.
    """

    async def append_order(self, body: bytes, message_id: str) -> None:
        """Returns once the store holds `body`. Raises like `WorkQueue.publish`, and `TooLarge` for a body
        that the broker never takes."""

    def read_orders(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Opens a reader of the store, like `Stream.read`. Its offsets are not the journal's."""


class SnapshotStore(Protocol):
    """A third stream, for snapshots of the view. It is bounded by its size, and keeps the newest."""

    async def append_snapshot(self, body: bytes, message_id: str) -> None:
        """Returns once the store holds `body`. Raises as `OrderStore.append_order`."""

    def read_snapshots(self, start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Opens a reader of the store, like `Stream.read`. Its offsets are not the journal's."""


class PubSub(Protocol):
    def broadcast(self, topic: str, body: bytes) -> None:
        """Sends to every current subscriber: no confirm, no error; dropped when not connected."""

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> Subscription:
        """Calls `on_message(topic, body)`; `*` in the pattern is one word, `#` any number of words.

        Of a slow subscriber the oldest messages are dropped. `on_message` must neither block nor raise.
        """


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A connection to the broker that is in use. `reconnects`: times that it was opened again."""

    name: str
    up: bool
    reconnects: int


class Broker(WorkQueue, Stream, OrderStore, SnapshotStore, PubSub, Protocol):
    """All five, over connections whose number never depends on jobs or clients."""

    @property
    def blocked(self) -> str | None:
        """Why the broker accepts no publishes now (memory or disk alarm), or None."""

    @property
    def ready(self) -> bool:
        """True while every wanted connection is up and every subscription attached."""

    @property
    def links(self) -> tuple[LinkStatus, ...]:
        """The connections, for dashboards."""

    async def run(self, stop: asyncio.Event) -> None:
        """Connects, attaches every subscription and repairs both until `stop` is set; then it closes.

        Raises `ConfigurationError` if the topology at the broker is not the one that this program needs.
        """


async def no_gate() -> None:
    """Opens at once: for a call that waits for nothing before it is sent."""


class Model(Protocol):
    """A language model's provider, or a local one."""

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        """Answers `call` once, without retries; `on_text` gets the pieces of a streamed text as they come.

        A call with `texts` is answered by their vectors. `gate` is awaited right before the first byte leaves
        for the provider; what it raises ends the call unsent. `job_id` goes along so that the provider's log
        can be matched. Raises `ProviderError` (may pass), `ProviderRefused` (will not) or `InvalidAnswer`
        (paid for, not what the schema or the tools ask for).
        """


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A call that needs a share of the minute's budget.

    `job`, `run`: the call is made for them. `offset`, `started`: its rank. Of one owner's calls those of jobs
    that have `started` go first, and among equals the job whose `queued` event has the lower offset. `kind`:
    the call's. `tokens`: the most that the provider may count it as. `stage_started`: shows clients that the
    call's stage started; written with the grant. `priority`, `owner`, `max_wait`: of the job. `age`: seconds
    from the acceptance of the job until its run opened.
    """

    job: str
    run: str
    offset: int
    started: bool
    kind: str
    tokens: float
    stage_started: StageChanged | None = None
    priority: Priority = "interactive"
    owner: str = ""
    age: float = 0.0
    max_wait: float = 0.0


class Grant(Protocol):
    """Permission to send one call, for a fraction of a second.

    Of `settle`, `throttled` and an effective `release` only the first counts; later ones change nothing.
    """

    @property
    def expires_at(self) -> float:
        """The time from which the call may not be sent: seconds of the caller's own monotonic clock."""

    @property
    def late(self) -> int:
        """How many grants came before this one, and had expired when they were read."""

    def confirm(self) -> None:
        """Marks the call as sent; called right before its first byte leaves.

        Raises `GrantExpired` from `expires_at` on: release the grant and acquire another.
        """

    def settle(self, tokens: float) -> None:
        """Reports the tokens that the provider counted, in the place of the estimate, lower or higher."""

    def throttled(self, retry_after: float | None) -> None:
        """Reports that the provider refused the call as too fast (429), and for how many seconds, if it said.

        Until then no process is granted a call, and afterwards fewer for a while. The call stays counted.
        """

    def release(self) -> None:
        """Returns the budget at once if the call was not confirmed; otherwise changes nothing.

        Call it in any case when the call is over, for example in a `finally` block.
        """


class Quota(Protocol):
    """The budget of one provider, shared by all processes of the installation.

    Guarantees: confirmed calls that arrive within the transit time exceed the limits in no 60 s, whichever
    process asks, dies or loses its connection; requests of all processes wait in one order, and a smaller
    call does not overtake a larger one. The budget is spread: about two seconds' worth is granted at once.
    Every implementation passes `tests/conformance/test_quota_port.py`.
    """

    async def acquire(self, request: GrantRequest) -> Grant:
        """Waits until the call may be sent, however long: bound it by the job's deadline.

        It may be cancelled at any time; then nothing waits and nothing is held. Await it in the task that
        releases the grant: a task of its own (`asyncio.wait_for`) may lose a grant that has just arrived.
        Raises `CallTooLarge` for a call that no minute holds, `StaleRun` where another run has the job.
        """

    def update_limits(self, limits: Limits) -> None:
        """Applies the limits that the provider's answers name; the lowest of all processes' limits hold."""
