"""The outbox: one process's events on their way to the journal, in order, until the broker confirmed them.

It commits in groups: while one message is on its way, everything that is put meanwhile gathers into the
next, and so does what the next turns of the event loop bring. So order is total with a single message in
flight, and many events cost few messages. A message whose confirm did not come is sent again with the same
id; readers ignore what they have seen.

A message that the broker refuses for its size is split until each put is alone; a put that is refused alone
fails, and those after it are sent. The price: messages stay as small as that until the process restarts.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from eco2.errors import BrokerUnavailable, PublishUncertain, RetryableError, TooLarge
from eco2.event import Event, Header, encode_batch, encode_event
from eco2.log import get_logger
from eco2.ports import Appender, Clock
from eco2.retry import Backoff
from eco2.writers import Writers, boot_time

BATCH_BYTES = 1_000_000
"""Size of one message, unless a single put is larger."""
MAX_PUT_BYTES = 8_000_000
"""Size of a single put. RabbitMQ 4 refuses messages above 16 MiB, and one that is refused would be sent again
again and again, and block all events that are put after it."""
MAX_TURNS = 10
"""Turns of the event loop, microseconds each while little happens, for which a message waits for more."""
RESEND = Backoff(0.05, 2.0)

log = get_logger(__name__)


class _Entry(NamedTuple):
    events: Sequence[bytes]
    size: int
    confirmed: asyncio.Future[None]
    since: float


class Outbox:
    """`writers`: of the journal; the first own one is this outbox. `clock`: monotonic, of this process."""

    def __init__(self, stream: Appender, writers: Writers, clock: Clock = boot_time) -> None:
        self._stream = stream
        self._writers = writers
        self._clock = clock
        self._sent = 0
        self._awaited = (0, 0.0)
        self._entries: deque[_Entry] = deque()
        self._sending: list[_Entry] = []
        self._arrived = asyncio.Event()
        self._batch_bytes = BATCH_BYTES

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def oldest(self) -> float:
        """Seconds for which the oldest events have waited for their confirm; 0.0 if none do."""
        waiting = self._sending or self._entries
        return time.monotonic() - waiting[0].since if waiting else 0.0

    @property
    def behind(self) -> float:
        """Seconds since the oldest confirmed message that the own tail has not shown; 0.0 without one.

        That is the only proof that a tail is alive: it may fall silent on a healthy connection, or the stream
        may be another one that ends before the tail's position. One message at a time is awaited.
        """
        number, confirmed_at = self._awaited
        if self._writers.shown >= number:
            return 0.0
        return asyncio.get_running_loop().time() - confirmed_at

    def forget(self) -> None:
        """Awaits no message: another log follows, or another connection to it."""
        self._awaited = (0, 0.0)

    def put(self, *events: Event) -> asyncio.Future[None]:
        """Queues the events after all earlier ones; the future is done once they are confirmed.

        Cancelling the future withdraws events that have not been sent yet; those on their way stay.
        Raises TypeError or ValueError at once for an event that JSON cannot hold, and `TooLarge`. The future
        raises `TooLarge` if the broker's limit is lower still.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        encoded = [encode_event(event) for event in events]
        size = sum(map(len, encoded))
        if size > MAX_PUT_BYTES:
            raise TooLarge(
                f"{size:,} bytes are too much for the journal, which takes {MAX_PUT_BYTES:,} at once: "
                "keep what is large in a store of its own, and let the stage return where it is"
            )
        self._entries.append(_Entry(encoded, size, confirmed, time.monotonic()))
        self._arrived.set()
        return confirmed

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until `stop` is set and everything is confirmed."""
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(stop.wait())
            stopping.add_done_callback(lambda _: self._arrived.set())
            while not (stop.is_set() and not self._entries):
                await self._arrived.wait()
                self._arrived.clear()
                while self._entries:
                    await self._gather()
                    batch = self._sending = [self._entries.popleft()]
                    size = batch[0].size
                    while self._entries and size + self._entries[0].size <= self._batch_bytes:
                        batch.append(self._entries.popleft())
                        size += batch[-1].size
                    for entry in await self._send(batch):
                        if not entry.confirmed.done():
                            entry.confirmed.set_result(None)
                    self._sending = []
            stopping.cancel()

    async def _gather(self) -> None:
        """Returns after the first turn of the loop that brings nothing more to send, or after some turns."""
        for _ in range(MAX_TURNS):
            before = len(self._entries)
            await asyncio.sleep(0)
            if len(self._entries) == before:
                return

    async def _send(self, batch: list[_Entry]) -> list[_Entry]:
        """Sends until the broker confirms, and returns the entries that the journal holds now.

        Without those that were withdrawn before anything was sent; none if the broker refuses the size.
        """
        body, message_id, sent = b"", uuid.uuid4().hex, False
        for attempt in count(1):
            if not sent:
                batch = [entry for entry in batch if not entry.confirmed.cancelled()]
                header = Header(self._writers.own[0], self._sent + 1, self._clock(), self._writers.offset)
                body = encode_batch([event for entry in batch for event in entry.events], header)
            try:
                if batch:
                    await self._stream.append(body, message_id)
                    self._sent += 1
                    if not self.behind:
                        self._awaited = (self._sent, asyncio.get_running_loop().time())
                break
            except TooLarge as error:
                self._refused(batch, error)
                return []
            except RetryableError as error:
                sent |= isinstance(error, PublishUncertain)  # from now on exactly this body, under this id
                if attempt == 1 and isinstance(error, BrokerUnavailable):
                    log.info(
                        "events wait for the broker", why=str(error)
                    )  # at each start, until the link is up
                elif attempt in (1, 10) or attempt % 100 == 0:
                    log.warning(
                        "the journal did not confirm; sending again", attempt=attempt, error=str(error)
                    )
            await RESEND.sleep(attempt)
        return batch

    def _refused(self, batch: list[_Entry], error: TooLarge) -> None:
        """Splits a batch that the broker never takes; fails a single put."""
        if len(batch) > 1:
            self._batch_bytes = sum(entry.size for entry in batch) // 2
            self._entries.extendleft(reversed(batch))
            log.info("the broker refuses messages of this size; smaller ones follow", why=str(error))
            return
        log.error("the broker never takes a record of this size: it is lost", why=str(error))
        confirmed = batch[0].confirmed
        if not confirmed.done():
            confirmed.set_exception(error)
            confirmed.exception()  # perhaps nothing waits for it
