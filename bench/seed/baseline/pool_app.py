"""An asynchronous task for pools that claim to support it, and its sender.

python -m bench.seed.baseline.pool_app    sends TASKS of them
"""

import asyncio
import os
import time
from pathlib import Path

from celery import Celery

TASKS, SECONDS = 20, 1.0
app = Celery("pool", broker=os.environ["BENCH_AMQP_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(name="pool.rest")
async def rest(folder: str, number: int) -> None:
    """Waits as long as a model call, and leaves a mark when it has ended."""
    await asyncio.sleep(SECONDS)
    Path(folder, f"ended-{number}").write_text(str(time.monotonic()))  # noqa: ASYNC240  # once, at the end


if __name__ == "__main__":
    for place in range(TASKS):
        app.send_task("pool.rest", (os.environ["BENCH_FOLDER"], place))
