"""Measures the view under ten times the load of the first paid tier: `python -m bench.history`.

It folds synthetic scans, 42 a second with nine messages each, and prints how much memory a gateway's view
takes after ten minutes.
"""

import argparse
import resource
import time
from collections import deque
from collections.abc import Iterator
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
from eco2.journal.view import View
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
WRITER = "9f2c41d07be85a36"


def text(number: int, length: int) -> str:
    """Returns an answer of some length that differs from all others."""
    words = ("병은", "씻어서", "라벨을", "떼고", "투명", "페트병", "전용", "수거함에", "넣습니다.")
    return " ".join(words[(number * 7 + at * at) % 9] + str((number * at) % 97) for at in range(length))


def scan(number: int) -> list[list[Event]]:
    """Returns the nine messages of one scan."""
    ts = BEGIN + number / SCANS
    job, run, offset = new_id(ts), f"{number:032x}", 9 * number
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


def messages(scans: int) -> Iterator[list[Event]]:
    """Returns the messages of so many scans, mixed. The last ones do not end."""
    running: deque[Iterator[list[Event]]] = deque()
    for number in range(scans + IN_WORK):
        running.append(iter(scan(number)))
        for _ in range(10 if len(running) > IN_WORK else 0):
            one = running.popleft()
            if (events := next(one, None)) is not None:
                yield events
                running.append(one)


def records(scans: int, first: int = 0) -> Iterator[Record]:
    """Returns the journal's records."""
    for offset, events in enumerate(messages(scans)):
        header = Header(WRITER, offset + 1, offset / (9 * SCANS), offset - 1)
        if offset >= first:
            yield Record(offset, encode_batch([encode_event(event) for event in events], header))


def memory() -> float:
    """Returns the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    scans = int(parser.parse_args().minutes * 60 * SCANS)
    now = BEGIN
    view = View(900.0, lambda: now, monotonic=lambda: now - BEGIN)
    before, began, count, size = memory(), time.process_time(), 0, 0
    for record in records(scans):
        now = BEGIN + record.offset / (9 * SCANS)
        view.apply(record)
        count, size = count + 1, size + len(record.body)
    print(f"{count:,} messages, {size / count:,.0f} bytes each, of {scans:,} scans")
    print(
        f"unended {len(view):,}, kept {len(view.ended):,}; {memory() - before:.0f} MB more than {before:.0f}"
    )
    print(f"{1e6 * (time.process_time() - began) / count:.0f} µs of CPU for each to make and fold")


if __name__ == "__main__":
    main()
