"""Jobs that have ended: a packed index of all, and the last states of some in a bounded cache.

The index finds a job by its id, or by the idempotency key that it holds, in about 80 bytes and without an
object per job. With the offset that it names, the journal gives what the cache has dropped.
"""

import struct
import zlib
from array import array
from collections import deque
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from eco2.journal.state import JobState

INDEX_SIZE = 200_000
"""Jobs that are remembered, beside those whose keys count: about a day at 140 a minute, 16 MB at the most."""
SEGMENT_ROWS = 8_192
SLOTS = 4 * SEGMENT_ROWS
"""Places of a segment's hash table; each row has at most two names."""

_ROW = struct.Struct("<36s16sqd?")
_decoder = msgspec.json.Decoder(JobState)


class Ended(NamedTuple):
    """A job that has ended. `key`: digest of the owner and the key that it holds, or zeros.

    `queued_at`: offset of its `queued`. `dead`: its order is among the dead letters.
    """

    job: bytes
    key: bytes
    queued_at: int
    accepted: float
    dead: bool

    @property
    def id(self) -> str:
        return self.job.rstrip(b"\0").decode()


class Segment:
    """Rows in the order of the jobs' ends, with a hash table of their names that needs no objects."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.newest = 0.0
        self._slots = array("H", bytes(2 * SLOTS))

    def __len__(self) -> int:
        return len(self.rows) // _ROW.size

    def add(self, ended: Ended) -> None:
        """Appends a row."""
        self.rows += _ROW.pack(*ended)
        self.newest = max(self.newest, ended.accepted)
        for name in filter(any, (ended.job, ended.key)):
            at = hash(name) % SLOTS
            while self._slots[at]:
                at = (at + 1) % SLOTS
            self._slots[at] = len(self)

    def find(self, name: bytes) -> Ended | None:
        """Returns the last row of this name."""
        at, found = hash(name) % SLOTS, None
        while number := self._slots[at]:
            ended = Ended._make(_ROW.unpack_from(self.rows, (number - 1) * _ROW.size))
            if name in (ended.job, ended.key):
                found = ended
            at = (at + 1) % SLOTS
        return found


class EndedJobs:
    """`max_bytes`: of the states that are kept; the newest is kept in any case."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        self._states: dict[str, bytes] = {}
        self._segments = deque([Segment()])

    def __len__(self) -> int:
        """Returns the number of states that are kept."""
        return len(self._states)

    def add(self, state: JobState, *, holds_key: bool, keys_since: float) -> float:
        """Takes over a job that has ended; `keys_since`: when jobs were accepted whose keys count (Unix s).

        Returns the time from whose acceptance on all jobs are in the index, 0.0 as long as it dropped none.
        """
        key = key_digest(state.owner, state.key) if holds_key and state.key is not None else bytes(16)
        name, dropped = job_name(state.job), 0.0
        if len(name) == 36:
            self._add(Ended(name, key, state.queued_at, state.accepted, state.dead))
            oldest = self._segments[0]
            if (len(self._segments) - 1) * SEGMENT_ROWS >= INDEX_SIZE and oldest.newest < keys_since:
                dropped = self._segments.popleft().newest
        packed = self._states[state.job] = zlib.compress(msgspec.json.encode(state), 1)
        self._bytes += len(packed)
        while self._bytes > self.max_bytes and len(self._states) > 1:
            self._bytes -= len(self._states.pop(next(iter(self._states))))
        return dropped

    def _add(self, ended: Ended) -> None:
        if len(self._segments[-1]) == SEGMENT_ROWS:
            self._segments.append(Segment())
        self._segments[-1].add(ended)

    def save(self, since: float) -> bytes:
        """Returns the rows of the jobs that were accepted since then (Unix seconds)."""
        rows = (_ROW.iter_unpack(one.rows) for one in self._segments if one.newest >= since)
        return b"".join(_ROW.pack(*row) for each in rows for row in each if row[3] >= since)

    def restore(self, rows: bytes) -> None:
        """Takes over what `save` returned, without the states."""
        for row in _ROW.iter_unpack(rows):
            self._add(Ended._make(row))

    def get(self, job_id: str) -> JobState | None:
        """Returns the job's last state, if it is kept."""
        packed = self._states.get(job_id)
        return None if packed is None else _decoder.decode(zlib.decompress(packed))

    def find(self, job_id: str) -> Ended | None:
        """Returns what the index has of the job."""
        return self._find(job_name(job_id))

    def holder(self, owner: str, key: str) -> Ended | None:
        """Returns the job that was the last to hold the key."""
        return self._find(key_digest(owner, key))

    def _find(self, name: bytes) -> Ended | None:
        for segment in reversed(self._segments):
            if (row := segment.find(name)) is not None:
                return row
        return None

    def states(self) -> list[JobState]:
        """Returns all states that are kept: slow, for operators."""
        return [_decoder.decode(zlib.decompress(packed)) for packed in self._states.values()]

    def clear(self) -> None:
        """Forgets all."""
        self._states.clear()
        self._segments = deque([Segment()])
        self._bytes = 0


def job_name(job_id: str) -> bytes:
    """Returns the id as the index has it. One that is longer than ours, and so foreign, is not indexed."""
    return job_id.encode(errors="replace").ljust(36, b"\0")


def key_digest(owner: str, key: str) -> bytes:
    """Returns a digest of both."""
    return blake2b(msgspec.json.encode((owner, key)), digest_size=16).digest()
