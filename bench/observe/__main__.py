"""Watches a loaded run as operators would: `python -m bench.observe`.

Real processes, a real RabbitMQ, a real Prometheus with the shipped rules. Fails if a panel or an alert has no
data, if an alert of the staged outage does not fire and end, or if a histogram does not fit.

Exit codes: 0 everything passed · 1 a check failed · 2 wrong usage.
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.observe.alerts import FILE as ALERTS_FILE
from bench.observe.prometheus import PromtoolFailed, promtool
from bench.observe.report import page, table
from bench.observe.run import Outcome, watch
from tests.support.rabbitmq import Node

PAGE = Path(__file__).parents[2] / "docs/observability.md"
TESTS = Path(__file__).parent / "alerts.test.yaml"
LONGEST = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.observe", description=__doc__)
    parser.add_argument("--page", action="store_true", help=f"write the figures into {PAGE.name}")
    asked = parser.parse_args()
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # the run cuts connections
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="eco2-observe-"))
    say(f"logs in {folder}")
    try:
        promtool("check", "rules", str(ALERTS_FILE))
        promtool("test", "rules", str(TESTS))
        say("promtool: the rules are well-formed, and fire when they should")
        outcome = asyncio.run(_observe(folder, say))
    except PromtoolFailed as failed:
        print(failed)
        return 1
    print(f"\n{table(outcome)}")
    if asked.page:
        PAGE.write_text(page(PAGE.read_text(), outcome, time.monotonic() - began))
    if outcome.complaints:
        print("\n".join(f"✗ {what}" for what in outcome.complaints))
        print(f"The processes' logs are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _observe(folder: Path, say: Callable[[str], None]) -> Outcome:
    node = Node(folder / "rabbitmq")
    say("starting RabbitMQ")
    await asyncio.to_thread(node.start)
    try:
        async with asyncio.timeout(LONGEST):
            return await watch(folder, node.url, say)
    finally:
        await asyncio.to_thread(node.stop)


if __name__ == "__main__":
    sys.exit(main())
