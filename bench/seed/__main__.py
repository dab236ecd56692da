"""Runs scenarios and judges them: `python -m bench.seed [SCENARIO ...] [--seconds N] [--list]`.

Exit code 0 if every target that was judged is kept, 1 if one is not, 2 for wrong usage.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench import record
from bench.programs import CELERY, ProgramFailed
from bench.record import FOLDER, Results
from bench.seed import plot, report, seen, verdict
from bench.seed.figures import figures
from bench.seed.report import RESULTS
from bench.seed.run import Measured, run
from bench.seed.scenario import RPM, SCENARIOS, SECONDS, SEED, TPM, WARM, Scenario


def main() -> int:
    options = _options()
    if options.list:
        for scenario in SCENARIOS:
            say(f"{scenario.name:12}{scenario.users:4} users  {scenario.title}")
        return 0
    if options.report:
        return _written(record.read(options.results), options.results)
    if options.again:
        for folder in sorted(path for path in options.again.iterdir() if (path / seen.FILE).exists()):
            _keep(seen.read(folder), options.results)
        return _written(record.read(options.results), options.results)
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := [name for name in options.scenarios if name not in known]:
        say(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    if not CELERY.exists():
        say(f"{CELERY} is missing: run scripts/setup-bench seed")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end from outside, too, ends all of it
    chosen = [one for one in SCENARIOS if one.name in options.scenarios or not options.scenarios]
    whole = _all(chosen, options)
    return max(_written(record.read(options.results), options.results), 0 if whole else 1)


def _all(chosen: list[Scenario], options: argparse.Namespace) -> bool:
    """Measures all scenarios and writes each to the JSON. Returns True if all could be measured."""
    folder, began, whole = Path(tempfile.mkdtemp(prefix="eco2-seed-")), time.monotonic(), True
    say(f"logs of all processes: {folder}")
    for number, scenario in enumerate(chosen, start=1):
        passed = time.monotonic() - began
        say(f"\n[{number}/{len(chosen)}, {passed:.0f} s] {scenario.name}: {scenario.title}")
        try:
            seconds = options.seconds * scenario.share
            warm = min(WARM, seconds / 2)
            measured = uvloop.run(run(scenario, seconds, warm, options.scale, folder / scenario.name, say))
            seen.write(measured, folder / scenario.name)
            _keep(measured, options.results)
        except Exception as failed:  # noqa: BLE001  # one broken scenario must not cost the others' hour
            say(f"  MISSED {scenario.name} was not measured: {failed!r}")
            say("".join(traceback.format_exception(failed)))
            whole = False
    return whole


def _keep(measured: Measured, path: Path) -> None:
    """Writes the scenario's figures to the JSON."""
    scenario = measured.scenario
    facts = {
        "parameters": {
            **asdict(scenario),
            "seconds": measured.end - measured.begin,
            "warm": measured.steady - measured.begin,
            "scale": measured.scale,
            "rpm": RPM,
            "tpm": TPM,
            "seed": SEED,
        },
        "surroundings": measured.where,
        **figures(measured),
    }
    if not facts["scans"]:
        raise ProgramFailed("not one scan was completed")
    results = record.read(path)
    known = {**results.get("scenarios", {}), scenario.name: facts}
    ordered = {one.name: known[one.name] for one in SCENARIOS if one.name in known}
    record.write({**results, "scenarios": ordered}, path)


def _written(results: Results, path: Path) -> int:
    """Writes plots and page from the JSON. Returns exit code 1 if a target is missed, 2 if nothing was
    measured. A JSON elsewhere, of a trial, changes neither page nor plots."""
    if not results.get("scenarios"):
        say("nothing was measured yet: run a scenario first")
        return 2
    if path == RESULTS:
        plot.draw(results, FOLDER)
        report.write(results)
    else:
        say(report.figures(results))
    found = verdict.checks(results)
    say("\n" + report.verdict(found))
    return 0 if all(check.kept for check in found) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.seed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="the scenarios to run (default: all, in order)"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="seconds of load per scenario (default: %(default)g)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the provider's latencies, for trials (default: 1)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the JSON file; the page changes only with the default"
    )
    parser.add_argument(
        "--again", type=Path, metavar="FOLDER", help="compute figures again from the logs of a run"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--report", action="store_true", help="only write plots and page from the JSON again")
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
