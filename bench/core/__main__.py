"""Measures all contenders in turn, round after round: `python -m bench.core [CONTENDER …]`.

Exit code 0 if every target is kept, 1 if one is not, 2 for wrong usage.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.core import trial
from bench.core.contender import CONTENDERS, SLEEP, Contender
from tests.rabbitmq import Node


def main() -> int:
    options = _options()
    known = {contender.name: contender for contender in CONTENDERS}
    chosen = [known[name] for name in options.contenders] or list(CONTENDERS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an end from outside ends the workers
    folder = Path(tempfile.mkdtemp(prefix="eco2-core-"))
    with _broker(folder) as (url, node):
        bench = trial.Bench(url, folder, {}, options.profile, node)
        uvloop.run(_quick(bench, chosen, options))
    return 0


async def _quick(bench: trial.Bench, chosen: list[Contender], options: argparse.Namespace) -> None:
    for number in range(options.rounds):
        turn = number % len(chosen)
        for contender in chosen[turn:] + chosen[:turn]:
            for workers in options.workers:
                for seconds in options.seconds:
                    figures = await trial.measure(bench, contender, workers, seconds, 1.0)
                    say(
                        f"{contender.name:20}{workers} x {seconds:g} s: {figures.rate:8.0f} jobs/s "
                        f"({figures.jobs} in {figures.seconds:.2f} s) {figures.cpu:7.3f} CPU-s per 1,000 "
                        f"(broker {figures.broker_cpu:.3f}) {figures.memory:5.0f} MB"
                        + (f"  {figures.seconds / figures.ideal:.3f} x ideal" if figures.ideal else "")
                    )


@contextmanager
def _broker(folder: Path) -> Iterator[tuple[str, int | None]]:
    """The RabbitMQ that was given, else a node of our own."""
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
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.0, SLEEP])
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="profiles by py-spy go there")
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
