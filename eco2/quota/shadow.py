"""A candidate's copy of what the leader has granted lately, so that a successor need not assume the worst.

Each candidate keeps a pacer. One that joins or detects a gap assumes that the last minute was fully spent,
and requests a snapshot. From then on it enters every grant that the leader announces. Notes are numbered
across all leaders, so that a gap is noticed.
"""

from collections import deque
from collections.abc import Callable

from eco2.pacer import Pacer
from eco2.quota.message import Entry, Note, Settled, Told

MOST_MISSED = 10_000
"""Notes that are kept until the leader tells; it answers within a second or two."""


class Shadow:
    """`fresh(now)`: a pacer that knows nothing, and so takes the last minute for fully spent."""

    def __init__(self, fresh: Callable[[float], Pacer], now: float) -> None:
        self._fresh = fresh
        self.pacer = fresh(now)
        self._epoch = ""
        self._seq = -1
        self._mine: dict[str, int] = {}
        """Epochs in which this process led, and their first notes."""
        self._leading = False
        self._missed: deque[Note] | None = deque(maxlen=MOST_MISSED)
        """Notes that came since something was missed; None while nothing is."""

    @property
    def complete(self) -> bool:
        """True if this is what the leader knows."""
        return self._missed is None

    def hear(self, now: float, note: Note) -> None:
        """Another process leads, and says what it has granted; later than it did so, which is safe.

        It may be the last leader, while this one leads already.
        """
        if note.epoch in self._mine:
            return  # our own words
        goes_on = note.seq == (self._seq + 1 if note.epoch == self._epoch else note.first)
        if not self._leading and self._missed is None and not (goes_on and note.first <= self._seq + 1):
            self.lost(now)
        if not self._leading:
            self._epoch, self._seq = note.epoch, note.seq
        if self._missed is not None:
            self._missed.append(note)
        for entry in note.granted:
            self.pacer.grant(now, entry.id, entry.tokens, entry.call)
        for settled in note.settled:
            self.pacer.settle(settled.id, settled.tokens)
        for name in note.unsent:
            self.pacer.refund(name)

    def lost(self, now: float) -> None:
        """Something was missed, or may have been: the worst is assumed until the leader tells."""
        self._missed = deque(maxlen=MOST_MISSED)
        self.pacer = self._fresh(now)

    def told(self, now: float, told: Told) -> None:
        """The leader's answer to who missed something: from now on nothing is missing."""
        if self._missed is None:
            return
        missed, self._missed = self._missed, None
        self.pacer = self._fresh(now)
        self.pacer.restore(told.past, now)
        self._epoch, self._seq = told.epoch, told.seq
        for note in missed:
            if note.epoch == told.epoch and note.seq > told.seq:
                self.hear(now, note)

    def lead(self, now: float, epoch: str) -> Pacer:
        """The pacer for a term that begins here; what it grants from now on is told by `note`."""
        if self._missed is not None:
            self.pacer = self._fresh(now)  # who knows what was said that we have not heard
        self._missed, self._epoch, self._leading = None, epoch, True
        self._mine[epoch] = self._seq + 1
        return self.pacer

    def resign(self) -> None:
        """The term is over: whoever leads next goes on from its last note, and says so."""
        self._leading = False

    def note(self, granted: tuple[Entry, ...], settled: tuple[Settled, ...], unsent: tuple[str, ...]) -> Note:
        """The next thing that the leader has to say."""
        self._seq += 1
        first = self._mine[self._epoch]
        return Note(
            epoch=self._epoch, first=first, seq=self._seq, granted=granted, settled=settled, unsent=unsent
        )

    def tell(self, now: float) -> Told:
        """The leader's answer to who missed something."""
        return Told(epoch=self._epoch, seq=self._seq, past=self.pacer.snapshot(now))
