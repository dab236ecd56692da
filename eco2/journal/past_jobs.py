"""Looks up jobs that the view does not have: reads a few messages of the journal again."""

import asyncio

from eco2.errors import DecodeError, JobForgotten
from eco2.event import BudgetEvent, CallCompleted, JobEvent, StepCompleted, decode_events
from eco2.job import id_time
from eco2.journal.state import EventId, JobState, apply, truncated_state
from eco2.journal.view import View
from eco2.ports import FromOffset, FromTime, Record, Start, Stream

SEEK_BEFORE = 5.0
"""Seconds before the id's own time at which a search starts: clocks of gateways differ a little."""
GIVE_UP_AFTER = 10.0
"""Seconds of event time after the id's own time by which `queued` must have come."""
MAX_REST = 300.0
"""Seconds after the id's own time in which the rest of a job must come whose beginning is dropped."""
READERS = 2
"""Look-ups at once; each is a reader at the broker."""


class PastJobs:
    def __init__(self, stream: Stream, view: View) -> None:
        self._stream = stream
        self._view = view
        self._readers = asyncio.Semaphore(READERS)

    async def find(self, job_id: str) -> JobState | None:
        """Returns the job's last state, or None if unknown. The view takes over a job that has not ended.

        Raises `JobForgotten`, `BrokerUnavailable`.
        """
        start: Start
        accepted, ended = id_time(job_id), self._view.ended.find(job_id)
        if ended is not None:
            accepted, start = ended.accepted, FromOffset(ended.queued_at)
        elif accepted is None or accepted > self._view.since + SEEK_BEFORE:
            return None  # no id of ours, or so young that the view would have it
        else:
            start = FromTime(accepted - SEEK_BEFORE)
        async with self._readers:
            if self._view.offset < 0:
                return None
            search = JobSearch(job_id, accepted, known=ended is not None)
            async with self._stream.read(start) as records:
                async for record in records:
                    # The view shows what is behind its offset; folding that twice would not be the same.
                    beyond = record.offset > self._view.offset
                    if beyond or search.take(record) or record.offset == self._view.offset:
                        break
                state = search.result()
                if state is not None and not (state.ended or state.is_truncated):
                    self._view.adopt(state)
            return state

    async def value_at(self, at: EventId) -> object:
        """Reads the value of the call or step recorded at `at`; None if the journal has dropped it."""
        async with self._readers, self._stream.read(FromOffset(at.offset)) as records:
            async for record in records:
                if record.offset == at.offset:
                    match decode_events(record.body)[at.place]:
                        case CallCompleted(reply=value) | StepCompleted(value=value):
                            return value
                break
        return None


class JobSearch:
    """Folds one job out of a run of records, and detects when no more of it can follow."""

    def __init__(self, job_id: str, accepted: float, known: bool) -> None:
        self._job_id = job_id
        self._accepted = accepted
        self._known = known
        self._state: JobState | None = None
        self._oldest: float | None = None

    def take(self, record: Record) -> bool:
        """Folds a record. True once nothing more about the job can follow."""
        try:
            events = decode_events(record.body)
        except DecodeError:
            return False  # the view has counted and logged it
        for index, event in enumerate(events):
            if event is None or isinstance(event, BudgetEvent):
                continue
            if self._oldest is None:
                self._oldest = event.ts
            if isinstance(event, JobEvent) and event.job == self._job_id:
                at = EventId(record.offset, index)
                if self._state is None and self.is_truncated:
                    self._state = truncated_state(self._job_id, self._accepted, at, event)
                self._state = apply(self._state, at, event, keep=None)
                if self._state is not None and self._state.ended:
                    return True
            elif self._state is None and event.ts > self._accepted + (
                MAX_REST if self.is_truncated else GIVE_UP_AFTER
            ):
                return True
        return False

    @property
    def is_truncated(self) -> bool:
        """True if the journal has dropped the time in which the job was accepted."""
        return (self._oldest or 0.0) > self._accepted

    def result(self) -> JobState | None:
        """Returns the job's state. Raises `JobForgotten` if the journal has dropped it."""
        if self._state is None and (self._known or self.is_truncated):
            raise JobForgotten("the journal no longer holds this job; submit it again")
        return self._state
