"""Consuming a work queue: deliveries are handed over at once and settled one by one."""

from collections.abc import Callable

from aiormq.abc import DeliveredMessage

from eco2.broker.rabbitmq.connection_errors import call
from eco2.broker.rabbitmq.consumer import Consumer, ConsumerChannel
from eco2.broker.rabbitmq.link import Link
from eco2.errors import DeliveryLost
from eco2.log import get_logger
from eco2.ports import Delivery

log = get_logger(__name__)


class QueueDelivery:
    """One message of a work queue (`ports.Delivery`)."""

    __slots__ = ("_feed", "_properties", "_tag", "body", "redelivered")

    def __init__(self, feed: ConsumerChannel, message: DeliveredMessage) -> None:
        self.body: bytes = message.body
        self.redelivered = bool(message.redelivered)
        self._feed = feed
        self._tag = message.delivery_tag or 0
        self._properties = message.header.properties
        feed.track()

    def release_body(self) -> None:
        self.body = b""

    @property
    def message_id(self) -> str:
        return self._properties.message_id or ""

    @property
    def delivery_count(self) -> int:
        # From RabbitMQ 4.3 a nack raises only the second; versions before have only the first.
        headers = self._properties.headers or {}
        counts = (headers.get("x-delivery-count"), headers.get("x-acquired-count"))
        return max((count for count in counts if isinstance(count, int)), default=0)

    async def ack(self) -> None:
        await self._feed.ack(self._tag)

    async def requeue(self) -> None:
        await self._feed.nack(self._tag)

    async def reject(self) -> None:
        await self._feed.reject(self._tag)


def consume(link: Link, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Consumer:
    """A consumer of `queue` (the broker's name) on `link`."""

    async def start(consumer: Consumer, feed: ConsumerChannel) -> None:
        async def on_message(message: DeliveredMessage) -> None:
            delivery = QueueDelivery(feed, message)
            if consumer.cancelled:  # it was on its way when the consumer was cancelled
                try:
                    await delivery.requeue()
                except DeliveryLost as error:
                    log.debug("not settled", why=str(error))
            else:
                call(on_delivery, delivery)

        await feed.consume(queue, on_message, prefetch)

    return Consumer(link, queue, start)
