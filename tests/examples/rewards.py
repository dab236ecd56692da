"""Reads rewards from the journal in another service, without Eco²'s code: a RabbitMQ stream and JSON."""

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

Credit = Callable[[str, dict[str, Any]], None]


class Rewards:
    """Calls `credit(job, reward)` for each scan that earned one: at least once, so remember the job's id."""

    def __init__(self, credit: Credit) -> None:
        self._credit = credit
        self._attempts: dict[str, int] = {}
        self._runs: dict[str, str] = {}  # job → id of its current run
        self._worked: dict[str, int] = {}  # job → offset of the last stage or call of its current run

    def take(self, body: bytes, offset: int) -> None:
        """Reads one journal message; messages must come in the order of their offsets."""
        batch = json.loads(body)
        if batch["v"] != 1:
            return  # written by a newer program; alert if it lasts
        for event in batch["events"]:
            if event["type"] == "run":
                self._opened(event)
            elif event["type"] in ("stage", "call_completed", "step_completed"):
                if event["run"] == self._runs.get(event["job"]):
                    self._worked[event["job"]] = offset
            elif event["type"] == "done":
                self._done(event)

    def _opened(self, event: dict[str, Any]) -> None:
        job, over = event["job"], event.get("over")
        if event["attempt"] <= self._attempts.get(job, 0):
            return  # of equal attempts the first stands
        self._attempts[job] = event["attempt"]
        if over is None or self._worked.get(job, -1) <= over:  # else it did not know how far the other was
            self._runs[job] = event["run"]

    def _done(self, event: dict[str, Any]) -> None:
        job = event["job"]
        if event["run"] not in (None, self._runs.get(job)):  # None: no run ended it
            return  # written by a run that another one had replaced
        for known in (self._attempts, self._runs, self._worked):
            known.pop(job, None)
        if reward := event["result"].get("reward"):
            self._credit(job, reward)


async def follow(url: str, stream: str, since: datetime, credit: Credit) -> None:
    """Reads the journal from `since` on, until cancelled or the connection is lost: then call it again."""
    rewards = Rewards(credit)

    async def take(message: AbstractIncomingMessage) -> None:
        rewards.take(message.body, int(str(message.headers["x-stream-offset"])))
        await message.ack()

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        queue = await channel.get_queue(stream, ensure=False)
        await queue.consume(take, arguments={"x-stream-offset": since})
        await connection.closed()


if __name__ == "__main__":
    earlier = datetime.now(UTC) - timedelta(hours=1)  # before the start of the oldest job not yet credited
    asyncio.run(follow(os.environ["ECO2_AMQP_URL"], "eco2.events", earlier, print))
