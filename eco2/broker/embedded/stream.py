"""The stream in memory: one ordered log with sparse offsets, read from any place by any number of readers.

Guarantees: offsets only grow; a reader sees every record from its start on, in order and once, as long as
retention keeps it; the log forgets by number, size and age, so that a process that runs for months does not
grow.
"""

import asyncio
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.chaos import Dice
from eco2.errors import BrokerUnavailable
from eco2.ports import FromLast, FromOffset, FromStart, FromTime, Record, Start

BATCH = 64
"""Records handed to one reader per turn of the loop."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of the log: about so many `records`, `size` bytes, and `age` seconds.

    Like a real stream, the log drops records in steps, when one is added: up to an eighth more may be there,
    and a batch that is older.
    """

    records: int = 100_000
    size: int = 128 * 2**20
    age: float = math.inf


class Log:
    """The records, and who waits for more. `clock` gives Unix seconds."""

    def __init__(self, retention: Retention, clock: Callable[[], float], dice: Dice) -> None:
        self._retention = retention
        self._clock = clock
        self.dice = dice
        self._records: list[Record] = []
        self._times: list[float] = []
        self._size = 0
        self._next = 0
        self._watchers: dict[Callable[[], object], None] = {}

    def __len__(self) -> int:
        return len(self._records)

    def append(self, body: bytes) -> None:
        """Adds a record and wakes the readers."""
        offset = self._next + self.dice.gap()
        now = max(self._clock(), self._times[-1] if self._times else 0.0)
        self._records.append(Record(offset, body))
        self._times.append(now)
        self._size += len(body)
        self._next = offset + 1
        self._forget_old(now)
        for watcher in list(self._watchers):
            watcher()

    def resolve(self, start: Start) -> int:
        """The offset at which a reader that asks for `start` begins."""
        match start:
            case FromStart():
                return 0
            case FromOffset(offset):
                return offset
            case FromLast():
                return self._records[-1].offset if self._records else self._next
            case FromTime(ts):
                index = max(0, bisect_left(self._times, ts) - self.dice.early())
                return self._records[index].offset if index < len(self._records) else self._next

    def after(self, position: int) -> list[Record]:
        """The next records whose offset is `position` or greater; at most a batch."""
        index = bisect_left(self._records, position, key=lambda record: record.offset)
        return self._records[index : index + BATCH]

    def watch(self, watcher: Callable[[], object]) -> None:
        """Calls `watcher` after each append."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Callable[[], object]) -> None:
        self._watchers.pop(watcher, None)

    def _forget_old(self, now: float) -> None:
        keep, count = self._retention, len(self._records)
        if count > keep.records * 9 / 8:
            self._drop(count - keep.records)
        if self._size > keep.size * 9 / 8:
            sizes = accumulate(len(record.body) for record in self._records)
            surplus = self._size - keep.size
            self._drop(next(index for index, size in enumerate(sizes) if size >= surplus))
        if self._times[min(BATCH, len(self._times)) - 1] < now - keep.age:
            self._drop(bisect_left(self._times, now - keep.age))

    def _drop(self, count: int) -> None:
        self._size -= sum(len(record.body) for record in self._records[:count])
        del self._records[:count]
        del self._times[:count]


class Tail:
    """Calls back for every record from `position` on, over one connection; under chaos it may fall silent."""

    def __init__(self, log: Log, position: int, on_record: Callable[[Record], None]) -> None:
        self._log = log
        self._position = position
        self._on_record = on_record
        self._scheduled = False
        self._silent = False
        self._attached = True
        log.watch(self._schedule)
        self._schedule()

    def cancel(self) -> None:
        """No callback after this."""
        self._attached = False
        self._log.unwatch(self._schedule)

    def _schedule(self) -> None:
        if not self._scheduled and self._attached:
            self._scheduled = True
            loop = asyncio.get_running_loop()
            if lag := self._log.dice.lag():
                loop.call_later(lag, self._hand_out)
            else:
                loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._scheduled = False
        self._silent = self._silent or self._log.dice.happens("silent")
        records = [] if self._silent else self._log.after(self._position)
        try:
            for record in records:
                if not self._attached:
                    return
                self._position = record.offset + 1
                self._on_record(record)
        finally:  # a callback that raises, against the port's rule, must not end the tail
            if records:
                self._schedule()


class Reader:
    """An independent reader: iterate it; it waits at the end for more."""

    def __init__(self, log: Log, position: int, channel: Channel) -> None:
        self._log = log
        self._position = position
        self._channel = channel
        self._batch: list[Record] = []
        self._arrived = asyncio.Event()
        log.watch(self._arrived.set)
        channel.on_close(self._arrived.set)

    def close(self) -> None:
        self._log.unwatch(self._arrived.set)
        self._channel.forget(self._arrived.set)

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Record:
        while self._channel.open:
            if self._batch:
                record = self._batch.pop()
                self._position = record.offset + 1
                return record
            self._arrived.clear()
            self._batch = self._log.after(self._position)[::-1]  # youngest first
            if self._batch:
                await asyncio.sleep(0)  # a long history must not block the loop
            else:
                await self._arrived.wait()
        raise BrokerUnavailable("the connection went while reading the stream: open it again")
