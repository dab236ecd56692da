"""Runs cases and judges them: `python -m bench.budget [CASE ...] [--seconds N] [--list]`.

Exit code 0 if every target of every case that was run is kept, 1 if one is not, 2 for wrong usage.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import uvloop

from bench.budget import plot, record, report, run, verdict
from bench.budget.case import CASES, TAIL, UNLOADED, WARM, Case, batches
from bench.budget.run import Measured
from bench.programs import ProgramFailed
from bench.record import FOLDER, Results
from tests.support.rabbitmq import Node


def main() -> int:
    options = _options()
    if options.list:
        for case in CASES:
            say(f"{case.name:10}{case.title}")
        return 0
    if options.report:
        return _written(record.read())
    known = {case.name: case for case in CASES}
    if unknown := [name for name in options.cases if name not in known]:
        say(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    chosen = [case for case in CASES if case.name in options.cases or not options.cases]
    folder = Path(tempfile.mkdtemp(prefix="eco2-budget-"))
    say(f"logs of all processes: {folder}")
    with _broker(folder) as amqp_url:
        results = record.read() if options.cases else {"cases": {}}
        kept = uvloop.run(_all(batches(chosen, options.at_once), options.seconds, amqp_url, folder, results))
    _written(record.read())
    return 0 if kept else 1


async def _all(
    planned: list[list[Case]], seconds: float | None, amqp_url: str, folder: Path, results: Results
) -> bool:
    began, kept = time.monotonic(), True
    for number, batch in enumerate(planned, start=1):
        say(f"\n[{number}/{len(planned)}, {time.monotonic() - began:.0f} s]")
        for case in batch:
            say(f"{case.name}: {case.title}")
        where = await record.surroundings(amqp_url)
        lengths = [seconds or case.seconds for case in batch]
        done = await asyncio.gather(
            *(_measured(case, length, amqp_url, folder) for case, length in zip(batch, lengths, strict=True))
        )
        for measured, length in zip(done, lengths, strict=True):
            kept &= measured is not None and _judged(measured, length, batch, where, results)
    return kept


async def _measured(case: Case, seconds: float, amqp_url: str, folder: Path) -> Measured | None:
    """Measures a case. Returns None if that failed; the reason is printed."""

    def told(line: str) -> None:
        say(f"{case.name:9}{line}")

    warm = _warm(seconds)
    numbers = _numbers(case, seconds, warm)
    try:
        return await run.run(case, seconds, warm, numbers, amqp_url, folder / case.name, told)
    except* ProgramFailed as failed:
        told(f"MISS: it was not measured: {failed.exceptions[0]}")
    return None


def _judged(measured: Measured, seconds: float, batch: list[Case], where: Results, results: Results) -> bool:
    """Writes the case's figures into the results. Returns True if it kept all of its targets."""
    case, unloaded = measured.case, None
    if (before := results["cases"].get(UNLOADED.name)) and case.name != UNLOADED.name:
        unloaded = before["durations"]
    facts = verdict.figures(measured, unloaded, results["cases"].get(case.alone, {}).get("waits"))
    if case.name == UNLOADED.name:
        facts["durations"] = verdict.durations(measured)
    results["cases"][case.name] = {
        "parameters": record.parameters(case, seconds, _warm(seconds)),
        "beside": [other.name for other in batch if other is not case],
        "surroundings": where,
        **facts,
    }
    record.write(results)
    say(f"\n{case.name}\n{report.checks(facts)}")
    return report.kept(facts)


def _warm(seconds: float) -> float:
    return min(WARM, seconds / 2)


def _numbers(case: Case, seconds: float, warm: float) -> Iterable[int]:
    """Returns the jobs' numbers: all, or for unloaded jobs those that every other case began in its steady
    time, so that both cases have the same jobs. Each number serves every pipeline."""
    if case.name != UNLOADED.name:
        return count()
    others = [case.jobs_per_second / case.load for case in CASES if case.calm and case.load > 1]
    tail = min(TAIL, (seconds - warm) / 2)
    least, most = max(others) * warm, min(others) * max(warm + 5, seconds - tail)
    number = case.jobs_per_second * seconds / len(case.pipelines)
    step = max(1.0, (most - least) / number)
    return _each(least, step, len(case.pipelines))


def _each(first: float, step: float, times: int) -> Iterator[int]:
    for place in count():
        yield from [round(first + step * place)] * times


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    """Uses the given RabbitMQ, or starts a node."""
    if given := os.environ.get("ECO2_TEST_AMQP_URL"):
        yield given
        return
    node = Node(folder / "rabbitmq")
    try:
        node.start()
        yield node.url
    finally:
        node.stop()
        node.remove_data()


def _written(results: Results) -> int:
    """Writes the plot and the page from the JSON. Exit code 2 if the JSON has no figures."""
    if not results["cases"]:
        say("nothing was measured yet: run a case first")
        return 2
    plot.draw(results, FOLDER / "budget.png")
    report.write(results)
    say("\n" + report.table(results))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.budget", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="the cases to run (default: all, in order)")
    parser.add_argument(
        "--seconds", type=float, help="seconds of load per case (default: 240; 600 with a batch and without)"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=3,
        help="cases that run concurrently, if seconds are judged (default: %(default)d)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--report", action="store_true", help="only write plot and page from the JSON again")
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
