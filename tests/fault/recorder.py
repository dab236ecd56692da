"""Reads the journal as another service would: a consumer of its own at the broker, none of the engine's code.

It remembers when each event reached it, and goes on behind the last one after every loss of its connection.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from aiormq.exceptions import AMQPError as TransportError

from tests.fault.evidence import Fact

RETRY = 0.3
"""Seconds between attempts to connect."""
PREFETCH = 200
LOSSES = (AMQPError, TransportError, OSError, RuntimeError, asyncio.TimeoutError)
"""What a broker that is being maltreated does to its clients."""


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """A record of a budget: of grants, of a leader, of what a call cost. `at`: when it reached us.

    `epoch`: that it belongs to, -1 without one. `calls`: the ids that it names.
    """

    at: float
    type: str
    epoch: int
    calls: tuple[str, ...]

    @classmethod
    def read(cls, at: float, event: Mapping[str, Any]) -> "BudgetRecord":
        """Reads an event of the journal. An `epoch` record counts only once its leader has written more."""
        calls = [str(call["id"]) for call in event.get("calls", ())]
        named = [str(event["id"])] if "id" in event else []
        return cls(at, event["type"], event.get("epoch", -1), (*calls, *named))


class Recorder:
    """`url()`: a living node, asked before each connection. `stream`: the journal's name at the broker."""

    def __init__(self, url: Callable[[], str], stream: str) -> None:
        self._url = url
        self._stream = stream
        self._last = -1
        self._news = asyncio.Event()
        self.facts: list[Fact] = []
        self.budget: list[BudgetRecord] = []
        self.markers: set[str] = set()

    async def run(self) -> None:
        """Reads until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(10):
                    connection = await aio_pika.connect(self._url(), heartbeat="5", timeout=5)
                async with connection:
                    await self._read(connection)
            except LOSSES:
                await asyncio.sleep(RETRY)

    async def _read(self, connection: aio_pika.abc.AbstractConnection) -> None:
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        channel = await connection.channel()
        channel.close_callbacks.add(lambda *_: closed.set())
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(self._stream, passive=True)
        start = "first" if self._last < 0 else self._last + 1
        await queue.consume(self._on_message, arguments={"x-stream-offset": start})
        await closed.wait()

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        offset = message.headers["x-stream-offset"]
        assert isinstance(offset, int)
        if offset > self._last:
            self._last = offset
            self._take(offset, message.body)
        await message.ack()

    def _take(self, offset: int, body: bytes) -> None:
        now = time.time()
        for place, event in enumerate(json.loads(body)["events"]):
            if event["type"] == "marker":
                self.markers.add(event["id"])
            elif "budget" in event:
                self.budget.append(BudgetRecord.read(now, event))
            elif "job" in event:
                self.facts.append(Fact(offset, place, now, event["ts"], event["type"], event["job"], event))
        self._news.set()

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Waits until `wanted()`, which is asked after each message."""
        while not wanted():
            self._news.clear()
            await self._news.wait()

    async def complete(self) -> None:
        """Waits until all that is in the journal now was read."""
        marker = uuid.uuid4().hex
        await append(self._url(), self._stream, {"type": "marker", "ts": time.time(), "id": marker})
        await self.until(lambda: marker in self.markers)


async def append(url: str, stream: str, *events: dict[str, object]) -> None:
    """Writes a batch into the journal, confirmed."""
    await publish(url, stream, json.dumps({"v": 1, "events": list(events)}).encode())


async def publish(url: str, queue: str, *bodies: bytes) -> None:
    """Puts messages into a queue or stream, confirmed."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for body in bodies:
            message = aio_pika.Message(body, message_id=uuid.uuid4().hex, delivery_mode=2)
            await channel.default_exchange.publish(message, queue, mandatory=True)
