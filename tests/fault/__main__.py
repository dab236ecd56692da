"""Makes faults and judges what came of them: `python -m tests.fault [NAME ...]`.

Exit codes: 0 all promises kept · 1 a promise broken, or a run that came to nothing · 2 wrong usage.
"""

import argparse
import asyncio
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.fault.fault import Fault
from tests.fault.lab import Lab, open_lab
from tests.fault.registry import FAULTS, named
from tests.fault.report import Result, as_json, markdown, row, table
from tests.fault.size import FULL
from tests.fault.verdict import judge

LONGEST = 480.0
"""Seconds after which a fault is given up."""


async def make(lab: Lab, fault: Fault) -> Result:
    """One fault. Whatever goes wrong is part of the result."""
    began = time.monotonic()
    verdict, problem = None, ""
    try:
        async with asyncio.timeout(LONGEST):
            evidence = await fault.run(lab, FULL)
        verdict = judge(evidence)
        if verdict.breaches:
            (lab.folder / f"{fault.name}.json").write_bytes(msgspec.json.encode(evidence))
    except Exception as error:  # noqa: BLE001 - the others are made nevertheless
        problem = "; ".join(f"{type(one).__name__}: {one}" for one in _leaves(error))
        (lab.folder / f"{fault.name}.txt").write_text(traceback.format_exc())
    return Result(fault, verdict, time.monotonic() - began, problem)


def _leaves(error: BaseException) -> list[BaseException]:
    """What really happened, out of its groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


async def make_all(faults: tuple[Fault, ...], folder: Path) -> list[Result]:
    """All of them, one after the other."""
    began, current = time.monotonic(), ""

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {current}: {text}", flush=True)

    results = []
    _cancel_on_sigterm()
    async with open_lab(folder, say) as lab:
        for number, fault in enumerate(faults, 1):
            current = f"{number}/{len(faults)} {fault.name}"
            say(fault.how)
            result = await make(lab, fault)
            results.append(result)
            say("   ".join(row(result)))
            for what in result.complaints:
                say(f"✗ {what}")
    return results


def _cancel_on_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def about(seconds: float) -> dict[str, str]:
    """Where and with what it ran."""

    def output(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    dirty = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no") else ""
    return {
        "commit": output("git", "rev-parse", "--short=12", "HEAD") + dirty,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "RabbitMQ": output("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"),
        "Python": platform.python_version(),
        "aio-pika": version("aio-pika"),
        "Machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "Duration": f"{seconds / 60:.0f} min",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to make; all if none is named")
    parser.add_argument("--list", action="store_true", help="name all faults and how they are made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there")
    asked = parser.parse_args()
    if asked.list:
        for fault in FAULTS:
            print(f"{fault.name:<24}{fault.how}")
        return 0
    try:
        faults = named(asked.names)
    except KeyError as unknown:
        parser.error(f"there is no fault {unknown}; --list names them")
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # lost connections are what this is about
    folder = Path(tempfile.mkdtemp(prefix="eco2-fault-"))
    began = time.monotonic()
    results = asyncio.run(make_all(faults, folder))
    facts = about(time.monotonic() - began)
    print(f"\n{table(results)}")
    if asked.json:
        asked.json.write_text(as_json(results, facts))
    if asked.markdown:
        asked.markdown.write_text(markdown(results, facts))
    if all(result.kept for result in results):
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"\nThe processes' logs, and the evidence of what was not kept, are in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
