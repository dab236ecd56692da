"""Compares this process's monotonic clock with those of the journal's writers, by the headers they write.

A message that was encoded at `sent` on its writer's clock is read later, so the difference of the two clocks
is at most `now - sent`. The least difference seen is kept and grows by `DRIFT`, since clocks run apart. No
wall clock is used, and a message that is read late, during a catch-up, gives a bound that is true as well.
"""

import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial

from eco2.event import Header

DRIFT = 0.001
"""Seconds by which two monotonic clocks run apart in a second, at most. Quartz does a tenth of it."""
FRESH = 1.0
"""Seconds: a message that was read so late does not show what the journal holds now."""
MAX_STALL = 2.5
"""Seconds without a fresh message after which this process's tail counts as stalled."""
PRESENCE = 2.0
"""Seconds for which a message or a heartbeat shows that its writer runs; a tail may be as far behind."""
MAX_NUMBERS = 5_000
"""Writers whose numbers a snapshot has: those of months. A copy of a message comes within minutes."""
STEP = 0.25
"""Seconds between two offsets that are remembered, to judge how far tails are behind."""


boot_time = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic
"""Reads a monotonic clock that goes on while the machine is suspended, where the system has one."""


@dataclass(frozen=True, slots=True)
class _Writer:
    number: int
    bound: float
    heard: float


class Writers:
    """The writers of one journal, as one process reads them; `now` is its monotonic clock.

    `own`: its own writers; heartbeats name the first, and `shown` is the number of its last message that was
    read. `offset`: the last that was read.
    """

    def __init__(self, *own: str) -> None:
        self.own = own
        self.offset, self.shown = -1, 0
        self._fresh = -math.inf
        self._writers: dict[str, _Writer] = {}
        self._heartbeats: dict[str, tuple[float, int]] = {}
        self._read: deque[tuple[float, int]] = deque(maxlen=2 * int(PRESENCE / STEP))
        self._restored: tuple[int, dict[str, int]] = (-1, {})

    def take(self, offset: int, header: Header, now: float) -> bool:
        """Reads the header of a message; returns False for a copy, which is to be skipped whole."""
        self.offset = offset
        writer, (restored_at, restored) = self._writers.get(header.writer), self._restored
        last = writer.number if writer is not None else 0
        if header.number <= (last if offset <= restored_at else max(last, restored.get(header.writer, 0))):
            return False
        late = now - header.sent
        bound = late if writer is None else min(late, writer.bound + DRIFT * (now - writer.heard))
        self._writers[header.writer] = _Writer(header.number, bound, now)
        if late - self.ahead(header.writer, now) <= FRESH:
            self._fresh = now
        if not self._read or now - self._read[-1][0] >= STEP:
            self._read.append((now, offset))
        if header.writer == self.own[0]:
            self.shown = header.number
        elif not self.is_own(header.writer):
            self.note_heartbeat(header.writer, header.seen, now)
        return True

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each writer's last message, for the writers that began last."""
        found = dict(self._restored[1])
        for name, writer in self._writers.items():
            found[name] = max(writer.number, found.pop(name, 0))
        return dict([*found.items()][-MAX_NUMBERS:])

    def clear(self) -> None:
        """Forgets the messages, since the fold begins elsewhere: none of them is a copy there."""
        self.offset, self.shown, self._restored = -1, 0, (-1, {})
        self._writers.clear()

    def restore(self, offset: int, numbers: dict[str, int]) -> None:
        """Takes over `numbers` as they were after the record at `offset`: they count for later records."""
        self._restored = (offset, numbers)

    def note_heartbeat(self, writer: str, seen: int, now: float) -> None:
        """Notes a sign of life: its writer runs, and has read the journal up to `seen`."""
        _, before = self._heartbeats.get(writer, (now, -1))
        self._heartbeats[writer] = (now, max(before, seen))

    def ahead(self, writer: str, now: float) -> float:
        """Returns the most by which this process's clock is ahead of the writer's, in seconds.

        A moment `x` of the writer's clock was here at `x + ahead` at the latest.
        """
        if self.is_own(writer):
            return 0.0
        known = self._writers[writer]
        return known.bound + DRIFT * (now - known.heard)

    def is_own(self, writer: str) -> bool:
        """Returns True for a writer of this process: it has the same clock."""
        return writer in self.own

    def heard(self, writer: str) -> float:
        """Returns when the writer was heard of last; minus infinity if never."""
        return self._heartbeats.get(writer, (-math.inf, -1))[0]

    def is_current(self, now: float) -> bool:
        """Returns True while this process's tail shows what the journal holds."""
        return now - self._fresh <= MAX_STALL

    def is_present(self, writer: str, now: float) -> bool:
        """Returns True if the writer was heard of lately, and its tail is not behind this one's.

        True for all while this process's own heartbeats do not come back: then none would.
        """
        if self.is_own(writer) or now - self.heard(self.own[0]) > PRESENCE:
            return True
        heard, seen = self._heartbeats.get(writer, (-math.inf, -1))
        while len(self._read) > 1 and self._read[1][0] <= now - PRESENCE:
            self._read.popleft()
        needed = self._read[0][1] if self._read and self._read[0][0] <= now - PRESENCE else -1
        return now - heard <= PRESENCE and seen >= needed
