"""A delivery of RabbitMQ: how often it was returned, whatever version counts it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from eco2.broker.rabbitmq.consumer import ConsumerChannel
from eco2.broker.rabbitmq.queue import QueueDelivery


def delivery(headers: dict[str, object] | None) -> QueueDelivery:
    properties = SimpleNamespace(headers=headers, message_id="m")
    message = SimpleNamespace(
        body=b"", redelivered=True, delivery_tag=1, header=SimpleNamespace(properties=properties)
    )
    return QueueDelivery(cast(ConsumerChannel, SimpleNamespace(track=lambda: None)), cast(Any, message))


@pytest.mark.parametrize(
    ("headers", "returned"),
    [
        (None, 0),
        ({}, 0),
        ({"x-delivery-count": 3}, 3),  # until RabbitMQ 4.2, and from 4.3 on without a nack
        ({"x-acquired-count": 3}, 3),  # RabbitMQ 4.3: three nacks
        ({"x-delivery-count": 1, "x-acquired-count": 3}, 3),  # RabbitMQ 4.3: two nacks and a lost connection
        ({"x-delivery-count": 3, "x-acquired-count": 1}, 3),
        ({"x-delivery-count": "3", "x-acquired-count": None}, 0),
    ],
)
def test_a_delivery_counts_its_returns_by_every_version(
    headers: dict[str, object] | None, returned: int
) -> None:
    assert delivery(headers).delivery_count == returned
