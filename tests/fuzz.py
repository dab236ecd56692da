"""Runs schemathesis, with all its checks, against a gateway of its own: `python -m tests.fuzz --minutes 5`.

Everything is on the loopback and ends by itself: the broker in memory, one gateway with the scan, and a
stand-in that finishes each job at once. What is sent comes from the gateway's own /openapi.json.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from eco2.consumers.progress import build_result, done_event
from eco2.event import JobEvent, RunStarted, StageChanged
from eco2.gateway.config import Auth, GatewayConfig
from eco2.pipeline import Outputs
from eco2.stages import scan
from eco2.stages.answer import Answer
from eco2.stages.reward import Reward
from eco2.stages.rule import Rules
from eco2.stages.taxonomy import Major, Middle
from eco2.stages.vision import Seen
from tests.support.gateways import cluster

ROOT = Path(__file__).parents[1]
LATE = 120
"""Seconds after its time when schemathesis, which ends the case that it is at, is stopped."""
OWNER = ("-H", "X-User-ID: somebody", "--exclude-checks", "ignored_auth")
"""The check that is left out takes the header for a secret; any value is another user, who finds nothing."""
CONFIGURATION = """
[checks.positive_data_acceptance]
# An id that is well-formed may be of no job, or of one that has ended, or is older than the journal.
expected-statuses = ["2xx", "404", "409", "410"]
"""


@dataclass(frozen=True)
class Outcome:
    """How schemathesis ended (0: without a finding), what it said, and how many jobs came of it."""

    code: int
    output: str
    jobs: int


async def fuzz(seconds: int, auth: Auth = "none", seed: int | None = None) -> Outcome:
    """Runs for about `seconds`; with a `seed`, on the same inputs, as far as the time allows."""
    config = GatewayConfig(
        models=("small", "large"), priced=("small", "large"), cors_origins=("https://app.example",), auth=auth
    )
    async with cluster(pipelines=(scan,), config=config) as world:
        world.worker.at_once, world.worker.life = True, whole_scan
        options: tuple[str, ...] = OWNER if auth == "header" else ()
        if seed is not None:
            options += ("--seed", str(seed))
        code, output = await _schemathesis(world.gateways[0].url, seconds, options)
        return Outcome(code, output, len(world.worker.orders))


def whole_scan(job_id: str) -> list[JobEvent]:
    """The events of a scan of a thing that nobody knows, as the document describes them."""
    outputs = (
        Seen(major=Major.UNKNOWN, middle=Middle.UNKNOWN, model="small", question=""),
        Rules(found=False, language="en"),
        Answer(text="No idea"),
        Reward(won=None),
    )
    events: list[JobEvent] = [RunStarted(ts=1.0, job=job_id, run="r1", attempt=1, worker="w")]
    for place, (stage, output) in enumerate(zip(scan.stages, outputs, strict=True), start=1):
        event = StageChanged(
            ts=1.0, job=job_id, run="r1", stage=stage.name, status="started", seq=10 * place, progress=0
        )
        whole = output.model_dump(mode="json")
        events += [event, replace(event, status="completed", seq=10 * place + 1, output=whole)]
    end = build_result(scan, job_id, Outputs(outputs), {})
    return [*events, done_event(scan, job_id, "r1", end, 1.0)]


async def _schemathesis(url: str, seconds: int, options: tuple[str, ...]) -> tuple[int, str]:
    with tempfile.NamedTemporaryFile("w") as configuration, tempfile.TemporaryDirectory() as folder:
        print(CONFIGURATION, file=configuration, flush=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", configuration.name),
            *("run", f"{url}/openapi.json", "--checks", "all", "--max-time", str(seconds)),
            *("--continue-on-failure", "--request-timeout", "20", *options),
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(seconds + LATE):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    return process.returncode or 0, output.decode()


def main() -> int:
    """Prints what schemathesis said; its exit code."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--auth", choices=("none", "header"), default="none")
    given = arguments.parse_args()
    outcome = asyncio.run(fuzz(round(given.minutes * 60), given.auth))
    print(f"{outcome.output}\n{outcome.jobs} jobs were accepted")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
