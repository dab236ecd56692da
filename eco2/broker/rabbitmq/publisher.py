"""Publishing with confirms.

A publish that returned is safe at the broker. Otherwise the error shows whether it was sent at all: a caller
that gets `PublishUncertain` must assume both outcomes and repeat with the same id.
"""

import asyncio
import re
from collections.abc import Callable

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import spec
from aiormq.abc import AbstractChannel as AmqpChannel

from eco2.broker.rabbitmq.connection_errors import map_connection_errors
from eco2.broker.rabbitmq.link import Link
from eco2.errors import BrokerUnavailable, PublishUncertain, TooLarge, Unroutable
from eco2.log import get_logger

log = get_logger(__name__)

PERSISTENT = 2
MAX_MISSED = 3
"""Rounds of publishes without a confirm, one after the other, after which the connection is given up."""
LIMIT_TTL = 60.0
"""Seconds for which a limit of size that the broker named is believed; an operator may raise it."""
BLOCKED = "the broker takes no publishes (memory or disk alarm)"


def refusal_of_size(error: PublishUncertain, body: bytes) -> TooLarge | None:
    """Returns the permanent error if `error` is the broker's refusal of so large a `body`.

    The refusal closes the channel, and so reaches everything that is in flight there: only what is larger
    than the limit that it names is refused for good.
    """
    found = re.search(r"larger than (?:configured )?max size (\d+)", str(error.__cause__ or ""))
    if found is None or len(body) <= int(found[1]):
        return None
    return TooLarge(
        f"the broker takes at most {found[1]} bytes in a message, and this one has {len(body)}: raise "
        "max_message_size in rabbitmq.conf, or lower ECO2_MAX_UPLOAD_MB"
    )


class Publisher:
    """A confirm channel for messages that must not be lost. It stays open: a channel per publish is slow.

    Publishes with the same id wait for each other, because a returned message is known by its id only.

    A channel may continue to accept publishes and never confirm again: RabbitMQ 4.3 keeps a stream's dead
    writer after a partition. No probe notices that, so missing confirms end the connection. `on_missing` is
    called when there is no queue for a message.
    """

    def __init__(self, link: Link, timeout: float, on_missing: Callable[[], None]) -> None:
        self._link = link
        self._timeout = timeout
        self._on_missing = on_missing
        self._missed = 0
        self._missed_at = 0.0
        self._channel: AbstractChannel | None = None
        self._amqp: AmqpChannel | None = None
        self._refused: tuple[float, PublishUncertain] | None = None
        self._in_flight: dict[str, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        link.add(self)

    def __str__(self) -> str:
        return "publisher"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        channel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        channel.close_callbacks.add(self._link.wake)
        self._channel, self._amqp = channel, await channel.get_underlay_channel()

    def detach(self) -> None:
        self._channel = self._amqp = None
        self._missed = 0

    async def publish(self, queue: str, body: bytes, message_id: str) -> None:
        """Returns once `queue` (the broker's name) holds the message. Errors as `ports.WorkQueue.publish`."""
        while earlier := self._in_flight.get(message_id):
            await earlier.wait()
        if self._amqp is None or self._amqp.is_closed:
            raise BrokerUnavailable("not connected to the broker; nothing was sent, try again later")
        if self._link.blocked:
            raise BrokerUnavailable(f"{BLOCKED}; nothing was sent, try again later")
        amqp = self._amqp
        done = self._in_flight[message_id] = asyncio.Event()
        self._idle.clear()
        try:
            with map_connection_errors(
                PublishUncertain, f"{message_id}: no confirm; publish it again with the same id"
            ):
                await self._send(amqp, queue, body, message_id)
        finally:
            del self._in_flight[message_id]
            done.set()
            if not self._in_flight:
                self._idle.set()

    async def append(self, queue: str, body: bytes, message_id: str) -> None:
        """Publishes. Raises `TooLarge` if the broker refuses a body of that size however often it comes."""
        now = asyncio.get_running_loop().time()
        # A refusal closes the channel or the connection for all who use it: one large body must not do so
        # again and again.
        believed = self._refused[1] if self._refused and now - self._refused[0] < LIMIT_TTL else None
        if believed is not None and (refusal := refusal_of_size(believed, body)) is not None:
            raise refusal
        try:
            await self.publish(queue, body, message_id)
        except PublishUncertain as error:
            if (refusal := refusal_of_size(error, body)) is not None:
                self._refused = now, error
                raise refusal from error
            raise

    async def _send(self, amqp: AmqpChannel, queue: str, body: bytes, message_id: str) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await amqp.basic_publish(
                body,
                routing_key=queue,
                properties=spec.Basic.Properties(message_id=message_id, delivery_mode=PERSISTENT),
                mandatory=True,
                timeout=self._timeout,
            )
        except TimeoutError:
            if amqp is self._amqp:
                self._no_confirm(began)
            raise
        except PublishError:
            self._on_missing()
            raise Unroutable(f"no queue {queue} at the broker; run `eco2 topology apply`") from None
        except DeliveryError as nack:
            # A nack means that the queue could not take it; after a change of its leader it may have.
            raise PublishUncertain(f"{message_id}: {nack}; publish it again with the same id") from nack
        self._missed = 0

    def _no_confirm(self, began: float) -> None:
        """Counts rounds, not publishes: of many at once that miss their confirm only the first counts."""
        if self._link.blocked or began < self._missed_at:
            return  # under an alarm confirms come when it is over
        self._missed += 1
        self._missed_at = asyncio.get_running_loop().time()
        if self._missed >= MAX_MISSED:
            log.warning("connecting again: confirms stay away", link=self._link.name, publishes=self._missed)
            self._link.give_up()

    async def flush(self) -> None:
        """Returns when no publish is in flight; each ends within the time-out."""
        await self._idle.wait()
