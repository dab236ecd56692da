"""Compares the figures of all scenarios that were run with the targets. Pure arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.record import Results
from bench.seed.scenario import IN_FLIGHT

CEILING = 0.98
OF_PREFORK = 0.95
NOISE = 0.01
"""Of a rate: two runs of one system differ by as much."""
CPU_OF_GEVENT = 0.5
FIRST_P50, FIRST_P99 = 0.020, 0.100
"""Seconds."""
LONGER = 1.02
MEMORY_MB = 120.0
CPU_MS = 25.0
PREFORK, GEVENT, LIVE, BELOW, BINDING = "prefork-9", "gevent-100", "gevent-live", "eco2-100", "eco2-150"

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One target and its result. `target`: in words, with its unit. `value`: the measured value, in the
    same unit; nan: there is none."""

    what: str
    value: float
    target: str
    kept: bool


def checks(results: Results) -> list[Check]:
    """Returns all targets that the scenarios can show."""
    ran: dict[str, Facts] = results.get("scenarios", {})
    below, binding = ran.get(BELOW), ran.get(BINDING)
    found: list[Check] = []
    for name in (BELOW, BINDING):
        if name in ran:
            found += _of_itself(name, ran[name])
    if below:
        ratio = _number(below["paired"]["ratio"])
        found.append(
            Check(f"{BELOW}: chain ÷ provider time", ratio, f"≤ {LONGER}", ratio <= LONGER),
        )
    if binding:
        memory = _number(binding["memory_at_in_flight"]["most"])
        found.append(
            Check(
                f"{BINDING}: the worker's PSS, MB, at {IN_FLIGHT} calls in flight",
                memory,
                f"≤ {MEMORY_MB:g}",
                memory <= MEMORY_MB,
            )
        )
    if below and PREFORK in ran:
        found.append(_against_prefork(below, ran[PREFORK]))
    if below and GEVENT in ran:
        found.append(_of_gevents_rate(below, ran[GEVENT]))
    for name in (GEVENT, LIVE):
        if below and name in ran:
            found.append(_of_gevents_cpu(name, below, ran[name]))
    return found


def _of_itself(name: str, facts: Facts) -> Iterator[Check]:
    share, cpu = _number(facts["of_ceiling"]), _number(facts["cpu_ms_per_scan"]["all"])
    yield Check(f"{name}: scans/s ÷ ceiling", share, f"≥ {CEILING}", share >= CEILING)
    yield Check(f"{name}: CPU of gateway and worker, ms a scan", cpu, f"≤ {CPU_MS:g}", cpu <= CPU_MS)
    for quantile, most in (("p50", FIRST_P50), ("p99", FIRST_P99)):
        first = _number(facts["first_event"][quantile])
        yield Check(f"{name}: first event, s, {quantile}", first, f"< {most:g}", first < most)
    lost = float(facts["lost"])
    yield Check(f"{name}: scans that failed", lost, "0", lost == 0)


def _against_prefork(ours: Facts, theirs: Facts) -> Check:
    """Compares with prefork. `ideal`: the ceiling ÷ the rate of that many processes if they never waited."""
    ratio = _number(ours["scans_per_second"]) / _number(theirs["scans_per_second"])
    ideal = _number(ours["ceiling"]) / _number(theirs["slots_ceiling"])
    target = f"≥ {OF_PREFORK:.0%} of ceiling ÷ (9 ÷ provider time), which is {ideal:.2f}"
    return Check(f"{BELOW} ÷ {PREFORK}, scans/s", ratio, target, ratio >= OF_PREFORK * ideal)


def _of_gevents_rate(ours: Facts, theirs: Facts) -> Check:
    """Compares shares of the ceiling, since the provider's mean latency differs a little between two runs."""
    rate = _number(ours["of_ceiling"]) / _number(theirs["of_ceiling"])
    target = f"≥ 1, less {NOISE} of noise"
    return Check(f"{BELOW} ÷ {GEVENT}, share of the ceiling", rate, target, rate >= 1 - NOISE)


def _of_gevents_cpu(name: str, ours: Facts, theirs: Facts) -> Check:
    cpu = _number(ours["cpu_ms_per_scan"]["all"]) / _number(theirs["cpu_ms_per_scan"]["all"])
    return Check(f"{BELOW} ÷ {name}, CPU a scan", cpu, f"≤ {CPU_OF_GEVENT}", cpu <= CPU_OF_GEVENT)


def _number(value: object) -> float:
    """Returns the number; null, an unmeasured value in JSON, is nan and keeps no target."""
    return float(value) if isinstance(value, int | float) else math.nan
