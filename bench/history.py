"""Measures the view under ten times the load of the first paid tier: `python -m bench.history`.

It folds synthetic scans, 42 a second with nine messages each, and prints how much memory a gateway's view
takes after ten minutes, and how long a start takes from a snapshot that is a minute old: to read that, and
the records of the minute before it and after it. It fails if that is more than a gateway may take.
"""

import argparse
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eco2.event import (
    CallCompleted,
    CallRequested,
    CallsGranted,
    Done,
    Event,
    GrantedCall,
    Header,
    Queued,
    RunStarted,
    StageChanged,
    encode_batch,
    encode_event,
)
from eco2.job import JSON, new_id
from eco2.journal.snapshots import Collector, messages
from eco2.journal.view import MAX_RESULT_BYTES, View
from eco2.ports import Record

SCANS = 42.0
"""Scans a second."""
IN_WORK = 840
"""Scans that run at the same time: 20 s each."""
BEGIN = 1_800_000_000.0
USAGE: JSON = {
    "model": "gpt-5.1",
    "calls": 1,
    "input_tokens": 1210,
    "cached_tokens": 0,
    "output_tokens": 160,
    "cost_usd": "0.0031",
}
IDLE_MB = 60
"""Memory of a gateway that has read no job (`eco2.sizing.GATEWAY_MB` less the jobs that it keeps)."""
MAX_MB, MAX_START = 150, 5.0
"""Bounds: MB of a gateway after ten minutes, and seconds of a start."""
WRITER = "9f2c41d07be85a36"


def text(number: int, length: int) -> str:
    """Returns an answer of some length that differs from all others."""
    words = ("병은", "씻어서", "라벨을", "떼고", "투명", "페트병", "전용", "수거함에", "넣습니다.")
    return " ".join(words[(number * 7 + at * at) % 9] + str((number * at) % 97) for at in range(length))


def scan(number: int) -> list[list[Event]]:
    """Returns the nine messages of one scan."""
    ts = BEGIN + number / SCANS
    job, run = new_id(ts), f"{number:032x}"
    first: JSON = {"middle": "plastic", "name": "bottle", "state": text(number, 20)}
    rule: JSON = {"title": "PET", "steps": [text(number + at, 12) for at in range(3)]}
    answer: JSON = {"answer": text(number, 50)}
    result: JSON = {"classification": first, "rule": rule, **answer, "reward": {"points": 10}}

    def asked(kind: str) -> CallRequested:
        return CallRequested(
            budget="openai", id=f"{WRITER}.{number}{kind}", job=job, run=run, kind=kind, tokens=2210
        )

    def granted(kind: str) -> CallsGranted:
        call = GrantedCall(f"{WRITER}.{number}{kind}", ts, 2210)
        return CallsGranted(budget="openai", epoch=0, at=number / SCANS, calls=(call,))

    def stage(name: str, seq: int, output: JSON | None = None) -> StageChanged:
        return StageChanged(
            ts=ts,
            job=job,
            run=run,
            stage=name,
            status="completed" if output else "started",
            seq=seq,
            progress=seq,
            output=output,
            usage=USAGE if output else None,
        )

    def called(name: str, value: JSON) -> CallCompleted:
        reply: JSON = {"value": value, "model": "gpt-5.1", "usage": USAGE}
        return CallCompleted(ts=ts, job=job, run=run, stage=name, key=run, digest=2 * run, reply=reply)

    return [
        [
            Queued(
                ts=ts, job=job, pipeline="scan", deadline=ts + 180, digest=2 * run, owner="user-17", key=job
            )
        ],
        [RunStarted(ts=ts, job=job, run=run, attempt=1, worker="worker-1")],
        [stage("vision", 10), asked("vision")],
        [granted("vision")],
        [called("vision", first)],
        [stage("vision", 20, first), stage("rule", 30), stage("rule", 40, rule)],
        [stage("answer", 50), asked("answer")],
        [granted("answer")],
        [
            called("answer", answer),
            stage("answer", 60, answer),
            Done(ts=ts, job=job, run=run, status="completed", seq=90, result=result),
        ],
    ]


def mixed(scans: int) -> Iterator[list[Event]]:
    """Returns the messages of so many scans, mixed. The last ones do not end."""
    running: deque[Iterator[list[Event]]] = deque()
    for number in range(scans + IN_WORK):
        running.append(iter(scan(number)))
        for _ in range(10 if len(running) > IN_WORK else 0):
            one = running.popleft()
            if (events := next(one, None)) is not None:
                yield events
                running.append(one)


def records(scans: int) -> Iterator[Record]:
    """Returns the journal's records."""
    for offset, events in enumerate(mixed(scans)):
        header = Header(WRITER, offset + 1, offset / (9 * SCANS), offset - 1)
        yield Record(offset, encode_batch([encode_event(event) for event in events], header))


def memory() -> float:
    """Returns the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Now:
    """The time of the record that is folded."""

    ts = BEGIN

    def fold(self, view: View, record: Record) -> None:
        self.ts = BEGIN + record.offset / (9 * SCANS)
        view.apply(record)

    def view(self, results: int) -> View:
        return View(900.0, lambda: self.ts, results=results, replies=0, monotonic=lambda: self.ts - BEGIN)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. `grown`: MB of memory since the first `settled` minutes; seconds are of CPU.

    `read`: the snapshot; `start`: that, and the `tail` records behind it and before it.
    """

    messages: int
    size: int
    unended: int
    kept: int
    grown: float
    snapshot: float
    write: float
    read: float
    start: float
    tail: int


def measure(minutes: float, settled: float = 0.0, results: int = MAX_RESULT_BYTES) -> Figures:
    """Folds so many minutes, then starts from a snapshot. `results`: bytes of ended jobs that are kept."""
    scans, minute = int(minutes * 60 * SCANS), int(65 * 9 * SCANS)
    now, size, ended, before, grown = Now(), 0, 9 * scans, 0.0, 0.0
    view = now.view(results)
    unended = kept = 0
    write = 0.0
    tail: list[Record] = []
    snapshot: list[bytes] = []
    for record in records(scans + 2 * minute // 9):
        if not before and record.offset >= settled * 60 * 9 * SCANS:
            before = memory()  # with the scans that this program has in work
        now.fold(view, record)
        if record.offset == ended:
            unended, kept, grown = len(view), len(view.ended), memory() - before
        if record.offset <= ended:
            size += len(record.body)
        else:
            tail.append(record)
        if record.offset == ended + minute:
            began = time.process_time()
            snapshot = list(messages(view.save([(now.ts, tail[0].offset)], record.body)))
            write = time.process_time() - began
    began, collector = time.process_time(), Collector()
    for body in snapshot:
        collector.take(body)
    found = collector.newest()
    assert found is not None
    started = now.view(results)
    started.restore(found)
    read = time.process_time() - began
    for record in tail:
        now.fold(started, record)
    start = time.process_time() - began
    assert {job.job for job in started} == {job.job for job in view}
    stored = sum(map(len, snapshot)) / 1e6
    return Figures(ended, size, unended, kept, grown, stored, write, read, start, len(tail))


def main() -> int:
    """Prints the figures; returns 1 if one is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    found = measure(parser.parse_args().minutes)
    print(
        f"{found.messages:,} messages of {found.size // found.messages} bytes; {found.unended:,} unended jobs"
    )
    print(f"{found.kept:,} ended ones kept; {found.grown:.0f} MB; a gateway takes {IDLE_MB} without jobs")
    print(f"snapshot of {found.snapshot:.1f} MB: {found.write:.2f} s of CPU to write")
    print(f"start: {found.read:.2f} s of CPU to read it, {found.start:.2f} s with {found.tail:,} records")
    return int(found.grown + IDLE_MB > MAX_MB or found.start > MAX_START)


if __name__ == "__main__":
    sys.exit(main())
