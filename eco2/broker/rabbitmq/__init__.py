"""The RabbitMQ adapter: `ports.Broker` on quorum queues, a stream, a topic exchange and reply queues.

aio-pika's robust connection is not used: it re-attaches streams at their original offset and may forget a
channel while the broker is down. Instead each of at most four connections has a loop of its own (`link.py`).
"""

from eco2.broker.rabbitmq.adapter import RabbitMQ
from eco2.broker.rabbitmq.declare import Inspection, apply, check, inspect
from eco2.broker.rabbitmq.letters import Letter, letters

__all__ = ["Inspection", "Letter", "RabbitMQ", "apply", "check", "inspect", "letters"]
