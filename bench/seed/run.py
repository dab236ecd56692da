"""Runs one scenario: starts its processes, runs the load, and samples them."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import processes, programs
from bench.programs import CELERY, ProgramFailed
from bench.record import Results, surroundings, versions
from bench.seed.scenario import RAMP, Scenario
from bench.seed.systems import Call, Installation, installation

STEP = 5.0
"""Seconds between two samples."""
SHOWN = ("celery", "kombu", "gevent", "locust")

Say = Callable[[str], None]
Scan = dict[str, Any]
"""A line of `load`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample at `time` (monotonic): by role, MB (PSS), seconds of CPU so far, and the number of
    processes; and the broker's connections."""

    time: float
    memory: dict[str, float]
    cpu: dict[str, float]
    processes: dict[str, int]
    connections: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one scenario. All times are monotonic. `begin`: of the load; the judged time is
    from `steady` to `end`, and a sample is taken at each of these two."""

    scenario: Scenario
    scale: float
    begin: float
    steady: float
    end: float
    scans: list[Scan]
    calls: list[Call]
    samples: list[Sample]
    where: Results


async def run(
    scenario: Scenario, seconds: float, warm: float, scale: float, folder: Path, say: Say
) -> Measured:
    """Runs a scenario with `seconds` of load, of which the first `warm` are not judged."""
    async with installation(scenario, scale, folder) as here:
        where = await surroundings(here.node.url, "bench/seed", versions(CELERY, SHOWN))
        scans = folder / "scans.jsonl"
        locust = await _locust(scenario, here, seconds, folder, scans)
        try:
            begin = time.monotonic()
            samples = await _watch(here, begin + warm, begin + seconds, scans, say)
        finally:
            await locust.kill()
        calls = await here.calls()
        lines = [json.loads(line) for line in scans.read_text().splitlines()]  # the end
    return Measured(scenario, scale, begin, begin + warm, begin + seconds, lines, calls, samples, where)


async def _locust(
    scenario: Scenario, here: Installation, seconds: float, folder: Path, scans: Path
) -> programs.Program:
    """Starts the load."""
    options = f"--headless --users {scenario.users} --spawn-rate {RAMP:g} --host {here.front.url}"
    forever = f"--run-time {round(seconds) + 60} --stop-timeout 0 --only-summary"
    command = f"locust -f bench/seed/load.py {options} {forever}".split()
    locust = await programs.start("locust", command, folder, {"BENCH_SCANS": str(scans)}, CELERY)
    for _ in range(200):
        if scans.exists() and "Ramping" in locust.log.read_text():  # noqa: ASYNC240  # small
            return locust
        await asyncio.sleep(0.05)
    await locust.kill()
    raise ProgramFailed(f"locust does not begin: see {locust.log}")


async def _watch(here: Installation, steady: float, end: float, scans: Path, say: Say) -> list[Sample]:
    """Takes samples, two of them exactly at the beginning and the end of the judged time."""
    began, samples = time.monotonic(), [_sample(here)]
    moments = [steady - STEP * number for number in range(int((steady - began) / STEP), 0, -1)]
    moments += [steady + STEP * number for number in range(int((end - steady) / STEP))]
    for number, moment in enumerate([*moments, end]):
        await asyncio.sleep(moment - time.monotonic())
        samples.append(sample := _sample(here))
        if number % 6 == 5:
            memory = " ".join(f"{role} {size:.0f}" for role, size in sample.memory.items())
            at, number_of_scans = moment - began, _lines(scans)
            say(f"{at:5.0f} s  {number_of_scans} scans  MB: {memory}  {sample.connections} connections")
    return samples


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _sample(here: Installation) -> Sample:
    families = {role: processes.family(pid) for role, pid in here.roles.items()}
    return Sample(
        time.monotonic(),
        {role: processes.pss(pids) for role, pids in families.items()},
        {role: processes.cpu(pids) for role, pids in families.items()},
        {role: len(pids) for role, pids in families.items()},
        processes.connections(here.node.port),
    )
