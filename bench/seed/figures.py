"""Computes a scenario's figures from the users' scans, the provider's log and samples of /proc.

All figures are about the judged time, from the end of the ramp to the end of the load. The provider's seconds
of a scan are all seconds of calls in that time ÷ the scans that ended in it; so the ceiling is exact,
whatever is in flight at its two edges.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from bench.record import Results
from bench.seed.run import Measured, Sample, Scan
from bench.seed.scenario import IN_FLIGHT, RPM, TPM
from bench.seed.systems import Call

JUDGED_ROLES = ("front", "worker")
QUANTILES = 200


def figures(measured: Measured) -> Results:
    """Returns all figures of one scenario, as JSON."""
    scenario, window = measured.scenario, measured.end - measured.steady
    ended = [
        scan for scan in measured.scans if "done" in scan and measured.steady <= scan["done"] < measured.end
    ]
    good = [scan for scan in ended if scan.get("status") == "completed"]
    lost = len(ended) - len(good) + sum("error" in scan for scan in measured.scans)
    number = max(1, len(good))
    here = [call for call in measured.calls if _inside(call, measured)]
    counted = [call for call in here if call["counted"]]
    busy = sum(_overlap(call, measured) for call in measured.calls) / number
    calls = len(counted) / number
    tokens = sum(call["charged_tokens"] for call in counted) / number
    limits = {
        "requests": RPM / measured.scale / 60 / (calls or math.nan),
        "requests_at_two_calls": RPM / measured.scale / 120,
        "tokens": TPM / measured.scale / 60 / (tokens or math.nan),
        "users": scenario.users / (busy or math.nan),
    }
    rate = number / window
    ceiling = min(limits["requests"], limits["tokens"], limits["users"])
    chains = sorted(scan["done"] - scan["accepted"] for scan in good)
    return {
        "scans": len(good),
        "lost": lost,
        "success": len(good) / (len(good) + lost) if good or lost else None,
        "scans_per_second": rate,
        "limits": limits,
        "ceiling": ceiling,
        "of_ceiling": rate / ceiling,
        "slots_ceiling": scenario.slots / busy if scenario.slots and busy else None,
        "calls_per_scan": calls,
        "tokens_per_scan": tokens,
        "provider_seconds": busy,
        "rejected": sum(call["status"] == 429 for call in measured.calls),
        "chain": _spread(chains) | {"quantiles": _quantiles(chains)},
        "from_sending": _spread([scan["done"] - scan["sent"] for scan in good]),
        "paired": _paired(good, measured.calls),
        "first_event": _spread([scan["first"] - scan["accepted"] for scan in good]),
        "first_event_from_opening": _spread([max(0.0, scan["first"] - scan["opened"]) for scan in good]),
        "first_stage": _spread([scan["started"] - scan["accepted"] for scan in good if "started" in scan]),
        "post": _spread([scan["accepted"] - scan["sent"] for scan in good]),
        "pieces": fmean(scan.get("pieces", 0) for scan in good) if good else 0,
        **_resources(measured, number),
    }


def _inside(call: Call, measured: Measured) -> bool:
    return measured.steady <= float(call["arrived_at"]) < measured.end


def _overlap(call: Call, measured: Measured) -> float:
    """Returns the call's seconds within the judged time."""
    until = measured.end if call["ended_at"] is None else float(call["ended_at"])
    return max(0.0, min(until, measured.end) - max(float(call["arrived_at"]), measured.steady))


def _paired(good: Sequence[Scan], calls: Sequence[Call]) -> Results:
    """Returns, of the same scans, the seconds of their calls, and the excess of the chain."""
    by_scan = defaultdict[str, float](float)
    for call in calls:
        if call["ended_at"] is not None:
            by_scan[call["job"]] += float(call["ended_at"]) - float(call["arrived_at"])
    known = [scan for scan in good if str(scan["number"]) in by_scan]
    if not known:
        return {"provider": None, "chain": None, "ratio": None}
    provider = fmean(by_scan[str(scan["number"])] for scan in known)
    chain = fmean(scan["done"] - scan["accepted"] for scan in known)
    return {"provider": provider, "chain": chain, "ratio": chain / provider}


def _resources(measured: Measured, scans: int) -> Results:
    first = min(measured.samples, key=lambda sample: abs(sample.time - measured.steady))
    judged = [sample for sample in measured.samples if sample.time >= first.time]
    last = judged[-1]
    per_scan = {role: 1000 * (last.cpu[role] - first.cpu[role]) / scans for role in last.cpu}
    held = {sample.time: in_flight(measured.calls, sample.time) for sample in measured.samples}
    loaded = [sample for sample in judged if held[sample.time] >= 0.95 * IN_FLIGHT]
    return {
        "cpu_ms_per_scan": per_scan | {"all": sum(per_scan[role] for role in JUDGED_ROLES)},
        "memory_mb": {
            role: {"mean": fmean(s.memory[role] for s in judged), "most": max(s.memory[role] for s in judged)}
            for role in last.memory
        },
        "memory_all_mb": max(sum(sample.memory[role] for role in JUDGED_ROLES) for sample in judged),
        "memory_at_in_flight": {
            "samples": len(loaded),
            "most": max((sample.memory["worker"] for sample in loaded), default=None),
        },
        "processes": last.processes,
        "connections": max(sample.connections for sample in judged),
        "in_flight": fmean(held[sample.time] for sample in judged),
        "samples": [_shown(sample, held[sample.time], measured) for sample in measured.samples],
        "done_per_step": _steps(measured),
    }


def in_flight(calls: Sequence[Call], moment: float) -> int:
    """Returns the provider's calls in flight."""
    return sum(
        call["arrived_at"] <= moment and (call["ended_at"] is None or call["ended_at"] > moment)
        for call in calls
        if call["status"] in (200, None)
    )


def _shown(sample: Sample, held: int, measured: Measured) -> list[float]:
    """Returns seconds since the start of the load, calls in flight, and MB of the workers and the servers
    in front."""
    return [
        round(sample.time - measured.begin, 1),
        held,
        round(sample.memory["worker"], 1),
        round(sample.memory["front"], 1),
    ]


def _steps(measured: Measured, step: float = 30.0) -> list[float]:
    """Returns scans a second in each half minute of the load."""
    counts = [0] * math.ceil((measured.end - measured.begin) / step)
    for scan in measured.scans:
        if "done" in scan and measured.begin <= scan["done"] < measured.end:
            counts[int((scan["done"] - measured.begin) / step)] += 1
    return [count / step for count in counts]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Returns the spread, in seconds."""
    ordered = sorted(values)
    shares: Mapping[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "mean": fmean(ordered) if ordered else None,
        **{name: quantile(ordered, share) for name, share in shares.items()},
        "most": ordered[-1] if ordered else None,
    }


def _quantiles(ordered: Sequence[float]) -> list[float]:
    """Returns evenly spaced quantiles, from the least to the most."""
    if not ordered:
        return []
    return [
        round(ordered[round(place * (len(ordered) - 1) / QUANTILES)], 2) for place in range(QUANTILES + 1)
    ]


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that a share of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
