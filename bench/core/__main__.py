"""Measures all contenders in turn, round after round: `python -m bench.core [CONTENDER …]`.

Exit code 0 if every target is kept, 1 if one is not or could not be measured, 2 for wrong usage. Only a whole
run (no names, no options) is written to the results; any other run judges the targets that it can.
"""

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import uvloop

from bench import record
from bench.core import plot, quick, report
from bench.core.contender import CONTENDERS
from bench.core.rounds import Plan
from bench.core.trial import Bench
from bench.core.verdict import Row, checks
from bench.programs import PEERS, ProgramFailed
from tests.support.rabbitmq import Node

SHOWN = ("celery", "kombu", "gevent", "taskiq", "taskiq-aio-pika", "faststream", "dramatiq", "pika")


def main() -> int:
    options = _options()
    committed = record.read(report.RESULTS)
    if (options.quick or options.report) and not committed:
        say(f"{report.RESULTS} is not there: run `make bench-core` first")
        return 2
    if options.report:
        return _written(committed)
    plan = _plan(options)
    if not plan.contenders:
        say(f"no such contender; there are {', '.join(each.name for each in CONTENDERS)}")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an end from outside ends the workers
    folder = Path(tempfile.mkdtemp(prefix="eco2-core-"))
    with _broker(folder) as (url, broker):
        results = uvloop.run(_measured(plan, Bench(url, folder, broker, options.profile)))
    whole = plan == Plan() and options.profile is None
    missing = len(plan) - len(results["trials"])
    if options.quick:
        return _compared(results["trials"], committed["trials"]) if not missing else 1
    if not whole:
        return _judged(results["trials"], partial=True) or (1 if missing else 0)
    record.write(results, report.RESULTS)
    return _written(results) or (1 if missing else 0)


async def _measured(plan: Plan, bench: Bench) -> record.Results:
    rows: list[Row] = []
    peers, began = record.versions(PEERS, SHOWN), time.monotonic()
    where = await record.surroundings(bench.url, "bench/core", peers)
    shown = -1
    for number, trial in plan:
        if number != shown:
            say(f"round {number + 1}, {time.monotonic() - began:.0f} s")
            shown = number
        try:
            figures = await bench.measure(trial)
        except ProgramFailed as failed:
            say(f"  MISSED {trial.contender.name} was not measured: {failed}")
            continue
        say(report.line(trial, figures))
        which = {"round": number, "contender": trial.contender.name, "workers": trial.workers}
        rows.append({**which, "sleep": trial.seconds, "rate": figures.rate, **asdict(figures)})
    where["minutes"] = (time.monotonic() - began) / 60
    say(f"{len(rows)} of {len(plan)} trials in {where['minutes']:.1f} minutes")
    return {"surroundings": where, "trials": rows}


def _written(results: record.Results) -> int:
    """Writes the plot and the page from the JSON. Returns 1 if a target is missed."""
    plot.draw(results["trials"], report.PICTURE)
    report.write(results)
    return _judged(results["trials"])


def _judged(rows: list[Row], partial: bool = False) -> int:
    """Judges the targets. `partial`: targets without measurements are skipped."""
    found = [check for check in checks(rows) if not (partial and math.isnan(check.value))]
    if found:
        say(report.verdict(found))
    return 0 if all(check.kept for check in found) else 1


def _compared(now: list[Row], before: list[Row]) -> int:
    found = quick.compare(now, before)
    for each in found:
        say(
            f"  {'ok   ' if each.fits else 'WORSE'} {each.what}: {each.now:.3g}, was {each.before:.3g} "
            f"(bound {each.bound:.3g})"
        )
    return 0 if all(each.fits for each in found) else 1


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        return quick.PLAN
    chosen = tuple(each for each in CONTENDERS if each.name in options.contenders or not options.contenders)
    plan = Plan(chosen if {*options.contenders} <= {each.name for each in CONTENDERS} else ())
    if options.rounds is not None:
        plan = replace(plan, idle=options.rounds, sleeping=options.rounds)
    if options.workers:
        plan = replace(plan, workers=tuple(options.workers))
    if options.only == "no-op":
        plan = replace(plan, sleeping=0)
    elif options.only == "sleep":
        plan = replace(plan, idle=0)
    return plan


@contextmanager
def _broker(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Uses the given RabbitMQ, or starts a node and returns its process as well."""
    if given := os.environ.get("ECO2_TEST_AMQP_URL"):
        yield given, None
        return
    node = Node(folder / "rabbitmq")
    try:
        node.start()
        yield node.url, node.pid
    finally:
        node.stop()
        node.remove_data()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.core", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "contenders", nargs="*", metavar="CONTENDER", help="the contenders to run (default: all)"
    )
    parser.add_argument(
        "--rounds", type=int, help="the number of rounds (default: 5 of no-op jobs, 3 of others)"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", metavar="N", help="workers for no-op jobs (default: 1 2)"
    )
    parser.add_argument("--only", choices=("no-op", "sleep"), help="run jobs of one kind")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write py-spy profiles there")
    parser.add_argument(
        "--quick", action="store_true", help="run for a minute and compare with the committed figures"
    )
    parser.add_argument("--report", action="store_true", help="only write plot and page from the JSON again")
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
