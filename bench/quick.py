"""Compares short forms of the benchmarks with the committed figures: `python -m bench.quick`.

It shows if a change made something clearly worse. The seed's 100 users on eco2, in real time and so with the
same load, but for three minutes: the compared figures do not depend on the length of the run, and the
tolerances are wide. Exit code 1 if something is worse, 2 if there is nothing to compare with.
"""

import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import record
from bench.seed.figures import figures
from bench.seed.report import RESULTS
from bench.seed.run import run
from bench.seed.scenario import SCENARIOS, WARM

NAME = "eco2-100"
SECONDS = 180.0
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A compared figure. `most`: its allowed maximum, as a function of the committed value."""

    what: str
    of: Callable[[Facts], float]
    limit: Callable[[float], float]
    less_is_better: bool = True

    def fits(self, now: float, before: float) -> bool:
        return now <= self.limit(before) if self.less_is_better else now >= self.limit(before)


FIGURES = (
    Figure("scans/s ÷ ceiling", lambda facts: facts["of_ceiling"], lambda was: was - 0.02, False),
    Figure("chain ÷ provider time", lambda facts: facts["paired"]["ratio"], lambda was: was + 0.02),
    Figure("CPU, ms a scan", lambda facts: facts["cpu_ms_per_scan"]["all"], lambda was: 1.25 * was),
    Figure("worker, MB", lambda facts: facts["memory_mb"]["worker"]["most"], lambda was: 1.1 * was + 3),
    Figure("gateway, MB", lambda facts: facts["memory_mb"]["front"]["most"], lambda was: 1.1 * was + 3),
    Figure("first event, ms, p50", lambda facts: 1000 * facts["first_event"]["p50"], lambda was: was + 10),
    Figure("first event, ms, p99", lambda facts: 1000 * facts["first_event"]["p99"], lambda was: was + 80),
    Figure("scans that failed", lambda facts: facts["lost"], lambda was: was),
)


def main() -> int:
    committed = record.read(RESULTS).get("scenarios", {}).get(NAME)
    if committed is None:
        say(f"{RESULTS} has no {NAME}: there is nothing to compare with; run `make bench-seed` first")
        return 2
    where = committed["surroundings"]
    length = f"{SECONDS:g} s, {WARM:g} of them not judged, against {committed['parameters']['seconds']:g} s"
    say(f"{NAME}: {length} in {RESULTS.name} of {where['date']}, commit {where['commit'][:10]}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end from outside, too, ends all of it
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == NAME)
    folder = Path(tempfile.mkdtemp(prefix="eco2-quick-"))
    now = figures(uvloop.run(run(scenario, SECONDS, WARM, 1.0, folder, say)))
    fits = [compared(figure, now, committed) for figure in FIGURES]
    return 0 if all(fits) else 1


def compared(figure: Figure, now: Facts, committed: Facts) -> bool:
    """Describes the change of one figure. A figure that cannot be measured now counts as worse."""
    before, value = figure.of(committed), figure.of(now)
    fits = figure.fits(value, before)
    bound = "at most" if figure.less_is_better else "at least"
    say(
        f"  {'ok   ' if fits else 'WORSE'} {figure.what}: {value:.4g}, was {before:.4g} "
        f"({bound} {figure.limit(before):.4g})"
    )
    return fits


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
