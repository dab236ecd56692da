"""dramatiq. It declares classic queues and has no option for others: one line makes them quorum queues."""

import sys
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.core.work import QUEUE, URL, work


class QuorumBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=URL, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def job(seconds: float) -> None:
    work(seconds)


if __name__ == "__main__":
    for seconds in sys.argv[1:]:
        job.send(float(seconds))
