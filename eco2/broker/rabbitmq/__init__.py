"""The RabbitMQ adapter: `ports.Broker` on quorum queues, streams and a topic exchange.

aio-pika's robust connection is not used: it re-attaches streams at their original offset and may forget a
channel while the broker is down. Instead each of at most three connections has a loop of its own (`link.py`).
"""

from eco2.broker.rabbitmq.adapter import RabbitMQ
from eco2.broker.rabbitmq.dead_letters import DeadLetterMessage, open_dead_letters
from eco2.broker.rabbitmq.declare import Inspection, apply, check, inspect

__all__ = ["DeadLetterMessage", "Inspection", "RabbitMQ", "apply", "check", "inspect", "open_dead_letters"]
