"""Celery: a quorum queue, acks after the job.

With results: `rpc://`, each persistent and confirmed, to a durable queue.
"""

import sys

from celery import Celery
from kombu import Queue

from bench.core.work import QUEUE, RESULTS, URL, work

app = Celery("core", broker=URL, backend="rpc://" if RESULTS else None)
app.conf.update(
    task_queues=[Queue(QUEUE, durable=True, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_default_exchange="",
    task_default_routing_key=QUEUE,
    task_acks_late=True,
    task_ignore_result=not RESULTS,
    result_persistent=True,
    result_expires=3600,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
)


@app.task(name="core.job")
def job(seconds: float) -> None:
    work(seconds)


if __name__ == "__main__":
    for seconds in sys.argv[1:]:
        job.apply_async((float(seconds),), reply_to=RESULTS or None)
