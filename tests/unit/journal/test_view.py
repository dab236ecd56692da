"""The time that a job has left, whatever the clocks of processes show: it may end late, but not early."""

import asyncio

import pytest

from eco2.event import JobEvent, Marker, Queued, Released, RunStarted, StageChanged, encode_events
from eco2.journal.state import JobState, cancelled
from eco2.journal.view import View
from eco2.ports import Record

ACCEPTED = 1_000_000.0
MAX_WAIT, TIMEOUT = 20.0, 100.0


class Reader:
    """A process that reads the journal. `wall`, `monotonic`: its clocks; after a marker it is live."""

    def __init__(self, wall: float = ACCEPTED) -> None:
        self.wall = wall
        self.monotonic = 5.0
        self.view = View(900.0, lambda: self.wall, monotonic=lambda: self.monotonic)
        self._offset = 0

    def read(self, event: JobEvent | Marker) -> None:
        self._offset += 1
        self.view.apply(Record(self._offset, encode_events([event])))

    def go_live(self) -> None:
        self.view.expect("m")
        self.read(Marker(ts=ACCEPTED, id="m"))

    @property
    def left(self) -> float:
        return self.view.remaining(self.job)

    @property
    def job(self) -> JobState:
        state = self.view.get("j")
        assert state is not None
        return state


def accepted(ts: float = ACCEPTED) -> Queued:
    return Queued(ts=ts, job="j", pipeline="p", max_wait=MAX_WAIT, timeout=TIMEOUT, digest="")


def run(ts: float, attempt: int = 1) -> RunStarted:
    return RunStarted(ts=ts, job="j", run=f"r{attempt}", attempt=attempt, worker="w")


def stage(ts: float, granted: bool = True) -> StageChanged:
    return StageChanged(
        ts=ts, job="j", run="r1", stage="s", status="started", seq=10, progress=0, granted=granted
    )


@pytest.mark.parametrize("wrong", [-1000.0, 0.0, 1000.0])
def test_who_saw_the_start_measures_from_there_by_its_own_clock(wrong: float) -> None:
    reader = Reader()
    reader.go_live()
    reader.read(accepted())
    assert (reader.left, reader.view.remaining_wait(reader.job)) == (MAX_WAIT, MAX_WAIT)
    reader.monotonic += 15
    reader.read(run(ACCEPTED + 15 + wrong))
    assert (reader.left, reader.view.remaining_wait(reader.job)) == (MAX_WAIT + TIMEOUT - 15, MAX_WAIT - 15)
    reader.read(stage(ACCEPTED + 15 + wrong))
    assert reader.left == TIMEOUT
    reader.monotonic += 30
    reader.wall += 5000  # set by an operator
    assert reader.left == TIMEOUT - 30


def test_work_that_shows_before_a_grant_counts_from_the_first_run() -> None:
    reader = Reader()
    reader.go_live()
    reader.read(accepted())
    reader.read(run(ACCEPTED + 2))
    reader.monotonic += 42
    reader.read(stage(ACCEPTED + 42, granted=False))
    assert reader.left == TIMEOUT - 40


def test_who_starts_later_takes_the_times_of_the_events_and_at_most_the_job_s_age() -> None:
    reader = Reader(ACCEPTED + 60)
    for event in (accepted(), run(ACCEPTED + 10), stage(ACCEPTED + 10)):
        reader.read(event)
    assert reader.left == TIMEOUT - 50
    slow = Reader(ACCEPTED + 60)
    for event in (accepted(), run(ACCEPTED - 500), stage(ACCEPTED - 500)):
        slow.read(event)
    assert slow.left == TIMEOUT - 60


def test_while_it_is_put_off_its_clock_stands_still() -> None:
    reader = Reader()
    reader.go_live()
    reader.read(accepted())
    for event in (run(ACCEPTED + 1), stage(ACCEPTED + 1)):
        reader.read(event)
    reader.monotonic += 30
    reader.read(Released(ts=ACCEPTED + 31, job="j", run="r1", reason="503", retry=True))
    assert reader.left == TIMEOUT - 30 + 5 + MAX_WAIT
    reader.monotonic += 8
    reader.read(run(ACCEPTED + 39, attempt=2))
    assert reader.left == TIMEOUT - 30


async def test_who_waits_for_a_change_gets_the_last_of_several_in_one_moment() -> None:
    """Else a worker would run a job that was cancelled behind its run, in the same message."""
    reader = Reader()
    reader.read(accepted())
    waiting = asyncio.create_task(reader.view.change("j", reader.job))
    await asyncio.sleep(0)
    reader.read(run(ACCEPTED))
    reader.read(cancelled(reader.job, ACCEPTED))
    assert (await waiting).status == "cancelled"
