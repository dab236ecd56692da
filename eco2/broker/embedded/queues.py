"""Work queues in memory, with the rules of a quorum queue.

Guarantees: a message leaves a queue only by an acknowledgement, a rejection, its delivery limit or the end of
its time; whatever a consumer held unsettled when its connection went comes again, marked as redelivered.
Callbacks run from the loop, one per turn, never inside `put`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.chaos import Dice
from eco2.errors import DeliveryLost


@dataclass(slots=True, eq=False)
class Message:
    """One message in a queue. `returns` counts how often it came back unsettled.

    Nobody gets it after `expires` (loop time).
    """

    body: bytes
    id: str
    returns: int = 0
    expires: float | None = None


class Queue:
    """Hands its messages to consumers in turn.

    A message that came back more than `limit` times, was rejected, or has been here for `ttl` seconds goes to
    `dead`. `unacknowledged`: messages that consumers hold, cancelled ones too.
    """

    def __init__(
        self,
        name: str,
        dice: Dice,
        *,
        limit: int | None = None,
        ttl: float | None = None,
        dead: Callable[[Message], None] | None = None,
    ) -> None:
        self.name = name
        self.dice = dice
        self.unacknowledged = 0
        self._limit = limit
        self._ttl = ttl
        self._dead = dead
        self._ready: deque[Message] = deque()
        self._consumers: deque[Consumer] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        """Messages that no consumer holds."""
        return len(self._ready)

    def put(self, message: Message) -> None:
        """Adds at the end."""
        self._drop_expired()
        if self._ttl is not None:
            loop = asyncio.get_running_loop()
            message.expires = loop.time() + self._ttl
            loop.call_at(message.expires, self._expire, message)
        self._ready.append(message)
        self.schedule()

    def put_back(self, message: Message) -> None:
        """Takes a message back that was handed out: in front, or to the dead letters at its limit."""
        message.returns += 1
        if self._limit is not None and message.returns > self._limit:
            self.dead_letter(message)
        else:
            self._ready.appendleft(message)
            self._drop_expired()
            self.schedule()

    def dead_letter(self, message: Message) -> None:
        """Sends a message that is no longer in the queue to the dead letters, if the queue has any."""
        if self._dead is not None:
            self._dead(Message(message.body, message.id))

    def delete(self) -> None:
        """The queue is gone, and all that it held: nothing of it goes to the dead letters either."""
        self._dead = None
        self._ready.clear()

    def attach(self, consumer: "Consumer") -> None:
        self._consumers.append(consumer)
        self.schedule()

    def detach(self, consumer: "Consumer") -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            self.schedule()

    @property
    def has_consumers(self) -> bool:
        """True while any consumer is attached."""
        return bool(self._consumers)

    def others(self, consumer: "Consumer") -> bool:
        """True where another consumer could take what `consumer` holds."""
        return any(other is not consumer for other in self._consumers)

    def schedule(self) -> None:
        """Hands out the next message soon, if there is one and a consumer with room for it."""
        if not self._scheduled and self._ready and self._next() is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _next(self) -> "Consumer | None":
        return next((consumer for consumer in self._consumers if consumer.has_room), None)

    def _hand_out(self) -> None:
        self._scheduled = False
        self._drop_expired()
        consumer = self._next()
        if consumer is None or not self._ready:
            return
        self._consumers.remove(consumer)
        self._consumers.append(consumer)
        try:
            consumer.take(self._ready.popleft())
        finally:
            self.schedule()

    def _drop_expired(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._ready and (expires := self._ready[0].expires) is not None and expires <= now:
            self.dead_letter(self._ready.popleft())

    def _expire(self, message: Message) -> None:
        """Removes `message` at the end of its time to live, unless a consumer holds it or it is gone."""
        if message in self._ready:
            self._ready.remove(message)
            self.dead_letter(message)


class Consumer:
    """One consumer at a queue, over one connection."""

    def __init__(
        self, queue: Queue, channel: Channel, prefetch: int, on_delivery: Callable[["QueueDelivery"], None]
    ) -> None:
        self.queue = queue
        self.channel = channel
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._unsettled = 0
        queue.attach(self)

    @property
    def has_room(self) -> bool:
        return self._unsettled < self._prefetch

    def take(self, message: Message) -> None:
        """Hands `message` to the callback."""
        self._unsettled += 1
        self.queue.unacknowledged += 1
        delivery = QueueDelivery(self, message)
        dice = self.queue.dice
        if self.queue.others(self) and dice.happens("redeliver"):
            asyncio.get_running_loop().call_later(dice.delay("redeliver"), delivery.take_away)
        self._on_delivery(delivery)

    def release(self) -> None:
        """One delivery less is unsettled."""
        self._unsettled -= 1
        self.queue.unacknowledged -= 1
        self.queue.schedule()

    def cancel(self) -> None:
        """Takes no further message; what it holds can still be settled."""
        self.queue.detach(self)


class QueueDelivery:
    """`ports.Delivery`: one message in the hands of one consumer."""

    def __init__(self, consumer: Consumer, message: Message) -> None:
        self._consumer = consumer
        self.body = message.body
        self.message_id = message.id
        self.redelivered = message.returns > 0
        self.delivery_count = message.returns
        self._message = message
        self._held = True
        consumer.channel.on_close(self.take_away)

    def release_body(self) -> None:
        """The queue itself holds it until the delivery is settled."""

    async def ack(self) -> None:
        self._settle()
        if self._consumer.queue.dice.happens("lost_ack"):
            self._consumer.queue.put_back(self._message)

    async def requeue(self) -> None:
        self._settle()
        self._consumer.queue.put_back(self._message)

    async def reject(self) -> None:
        self._settle()
        self._consumer.queue.dead_letter(self._message)

    def take_away(self) -> None:
        """The broker takes the message back and delivers it again; settling it fails from now on."""
        if self._held:
            self._release()
            self._consumer.queue.put_back(self._message)

    def _settle(self) -> None:
        if self._held and self._consumer.queue.dice.happens("cut"):
            self._consumer.channel.cut()
        if not self._held:
            raise DeliveryLost(
                f"message {self.message_id} of {self._consumer.queue.name} is no longer held here:"
                " it was settled before, or its connection went and the broker delivers it again"
            )
        self._release()

    def _release(self) -> None:
        self._held = False
        self._consumer.channel.forget(self.take_away)
        self._consumer.release()
