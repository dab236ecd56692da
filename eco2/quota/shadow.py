"""What the leader has granted lately, as every candidate knows it: so a successor need not assume the worst.

Each candidate keeps a pacer of its own. Who joins, or missed something, takes the last minute for fully
spent, and asks the leader what it really was; from then on it enters what the leader says it grants. Notes
are numbered, on from one leader to the next, so that nobody misses one without noticing.
"""

from collections.abc import Callable

from eco2.pacer import Pacer
from eco2.quota.message import Entry, Note, Settled, Told


class Shadow:
    """`fresh(now)`: a pacer that knows nothing, and so takes the last minute for fully spent."""

    def __init__(self, fresh: Callable[[float], Pacer], now: float) -> None:
        self._fresh = fresh
        self._pacer = fresh(now)
        self._epoch = ""
        self._seq = -1
        self._missed: list[Note] | None = []
        """Notes that came since something was missed; None while nothing is."""

    @property
    def complete(self) -> bool:
        """True if this is what the leader knows."""
        return self._missed is None

    def hear(self, now: float, note: Note) -> None:
        """Another process leads, and says what it has granted; later than it did so, which is safe."""
        succeeds = note.epoch != self._epoch and note.seq <= self._seq + 1
        if self._missed is None and not (succeeds or note.seq == self._seq + 1):
            self._missed = []
            self._pacer = self._fresh(now)
        self._epoch, self._seq = note.epoch, note.seq
        if self._missed is not None:
            self._missed.append(note)
        self._enter(now, note)

    def told(self, now: float, told: Told) -> None:
        """The leader's answer to who missed something: from now on nothing is missing."""
        if self._missed is None:
            return
        missed, self._missed = self._missed, None
        self._pacer = self._fresh(now)
        self._pacer.remember(told.past, now)
        self._epoch, self._seq = told.epoch, told.seq
        for note in missed:
            if note.epoch == told.epoch and note.seq > told.seq:
                self.hear(now, note)

    def lead(self, now: float, epoch: str) -> Pacer:
        """The pacer for a term that begins here; what it grants from now on is told by `note`."""
        if self._missed == []:
            self._pacer = self._fresh(now)  # nothing was heard: who knows what was said before we listened
        self._missed, self._epoch = None, epoch
        return self._pacer

    def note(self, granted: tuple[Entry, ...], settled: tuple[Settled, ...], unsent: tuple[str, ...]) -> Note:
        """The next thing that the leader has to say."""
        self._seq += 1
        return Note(epoch=self._epoch, seq=self._seq, granted=granted, settled=settled, unsent=unsent)

    def tell(self, now: float) -> Told:
        """The leader's answer to who missed something."""
        return Told(epoch=self._epoch, seq=self._seq, past=self._pacer.past(now))

    def _enter(self, now: float, note: Note) -> None:
        for entry in note.granted:
            self._pacer.grant(now, entry.id, entry.tokens, entry.call)
        for settled in note.settled:
            self._pacer.settle(settled.id, settled.tokens)
        for name in note.unsent:
            self._pacer.refund(name)
