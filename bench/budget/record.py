"""Reads and writes bench/results/budget.json: all cases, written again after each case."""

from collections.abc import Mapping
from dataclasses import asdict

from bench import record
from bench.budget.case import Case
from bench.budget.fleet import DEADLINE, SCALE, SEED
from bench.record import FOLDER, Results

RESULTS = FOLDER / "budget.json"


def read() -> Results:
    """Returns the figures measured so far."""
    return record.read(RESULTS) or {"cases": {}}


def write(results: Results) -> None:
    record.write(results, RESULTS)


async def surroundings(amqp_url: str) -> Results:
    return await record.surroundings(amqp_url, "bench/budget")


def parameters(case: Case, seconds: float, warm: float) -> Mapping[str, object]:
    """Returns the parameters of one case."""
    return {
        **asdict(case),
        "binding": case.binding,
        "jobs_per_second": case.jobs_per_second,
        "load_seconds": seconds,
        "warm_seconds": warm,
        "latency_scale": SCALE,
        "seed": SEED,
        "job_deadline": DEADLINE,
    }
