"""Computes a case's figures and compares them with its targets. Pure arithmetic over the measurements of
`run`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.budget.case import TAIL, Case
from bench.budget.jobs import JobStory
from bench.budget.run import Measured
from bench.budget.windows import Amount, Arrival, fullest, per_second, sliding, total

SLOWER = 1.2
"""From the first grant to the end of a job, at the 95th percentile: so many times as long as unloaded."""
GRANT_P50, GRANT_P99 = 0.025, 0.150
"""Seconds."""
BATCH_SLOWER, BATCH_WAIT = 1.05, 0.5
"""People beside a batch: their jobs take at most so many times as long, and wait so many seconds more."""
LEAST_OFFERED = 1.1
"""Of the binding limit; less would not show that all of it is used."""

Durations = dict[str, float]
"""Seconds from a job's first grant to its end, by the key of its submission."""
JSON = dict[str, object]


@dataclass(frozen=True, slots=True)
class Check:
    """One target and its result. `target`: in words, with its unit. `value`: the measured value, in the
    same unit."""

    what: str
    value: float
    target: str
    kept: bool


def arrivals(calls: Sequence[Mapping[str, object]]) -> list[Arrival]:
    """Returns the calls that the provider's windows counted, in order."""
    return [
        Arrival(float(str(call["arrived_at"])), int(str(call["charged_tokens"])))
        for call in calls
        if call["counted"]
    ]


def durations(measured: Measured) -> Durations:
    """Returns the durations of jobs that began in the judged time and stayed at one worker. A job that has
    not ended counts with its time so far: too little, never too much."""
    start, end = _wall(measured, measured.steady), _wall(measured, measured.end)
    if measured.case.load >= 1:
        end_of_beginning = end - min(TAIL, (end - start) / 2)
    else:
        start, end_of_beginning = 0.0, end  # there was time for all of them
    return {
        key: (job.ended or end) - job.began
        for key, job in measured.stories.items()
        if job.began is not None and not moves(measured, job) and start <= job.began <= end_of_beginning
    }


def moves(measured: Measured, job: JobStory) -> bool:
    """Returns True if the job changed workers, or its worker died and no other has it yet."""
    return job.runs > 1 or (job.ended is None and job.pid in measured.killed)


def waits(measured: Measured) -> dict[str, float]:
    """Returns the 95th percentiles of people's jobs that were accepted in the judged time: seconds until the
    first grant, and until the end. A job without one counts with its time so far."""
    start, end = _wall(measured, measured.steady), _wall(measured, measured.end)
    judged = [
        job
        for job in measured.stories.values()
        if not job.key.startswith("note-") and start <= job.queued <= end - min(TAIL, (end - start) / 2)
    ]
    return {
        "grant_p95": percentile([(job.began or end) - job.queued for job in judged], 0.95),
        "done_p95": percentile([(job.ended or end) - job.queued for job in judged], 0.95),
    }


def _wall(measured: Measured, moment: float) -> float:
    """Converts a monotonic moment into Unix seconds, by the provider's two clocks."""
    call = measured.calls[0]
    return moment + float(call["wall"]) - float(call["arrived_at"])


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that a share of all do not exceed; nan without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def figures(measured: Measured, unloaded: Durations | None, alone: Mapping[str, float] | None = None) -> JSON:
    """Returns all figures of the case as JSON, `checks` included. `alone`: `waits` without the batch."""
    case, calls = measured.case, measured.calls
    counted = [one for one in arrivals(calls) if one.time <= measured.end]
    minute, steady = fullest(counted), total(counted, measured.steady, measured.end)
    minutes = (measured.end - measured.steady) / 60
    use = {"requests": steady.requests / (case.rpm * minutes), "tokens": steady.tokens / (case.tpm * minutes)}
    own = durations(measured)
    paired = sorted(own.keys() & (unloaded or {}).keys())
    jobs = measured.stories.values()
    series = per_second(counted, measured.first, measured.end)
    facts: JSON = {
        "fullest": {"requests": minute.requests / case.rpm, "tokens": minute.tokens / case.tpm},
        "utilisation": use,
        "rejected": sum(call["status"] == 429 for call in calls),
        "offered": _offered(measured),
        "waits": waits(measured),
        "calls": len(calls),
        "repeated_calls": _repeated(calls),
        "jobs": {
            "accepted": measured.offered.accepted,
            "completed": sum(job.status == "completed" for job in jobs),
            "failed": sum(job.status == "failed" for job in jobs),
            "not_done": sum(job.ended is None for job in jobs),
            "changed_hands": sum(moves(measured, job) for job in jobs),
        },
        "seconds": {
            "p50": percentile(list(own.values()), 0.5),
            "p95": percentile(list(own.values()), 0.95),
            "paired": len(paired),
            "paired_p95": percentile([own[key] for key in paired], 0.95),
            "unloaded_p95": percentile([(unloaded or {})[key] for key in paired], 0.95),
            "ratio_p95": percentile([own[key] / (unloaded or {})[key] for key in paired], 0.95),
        },
        "incidents": [{"at": note.at - measured.first, "what": note.what} for note in measured.notes],
        "per_second": _series(series),
        "sliding": _series(sliding(series)),
    }
    if case.grants:
        facts["grants"] = {
            "asked": measured.grants.get(math.inf, 0.0),
            "p50_up_to": _bound(measured.grants, 0.5),
            "p99_up_to": _bound(measured.grants, 0.99),
            "up_to": {f"{bound:g}": made for bound, made in sorted(measured.grants.items())},
        }
    checks = _checks(case, facts, paired_p95=_slower(own, unloaded or {}, paired))
    if case.alone:
        checks += _beside_a_batch(waits(measured), alone or {"grant_p95": math.nan, "done_p95": math.nan})
    facts["checks"] = [
        {"what": check.what, "value": check.value, "target": check.target, "kept": check.kept}
        for check in checks
    ]
    return facts


def _checks(case: Case, facts: JSON, paired_p95: float) -> list[Check]:
    def of(group: str, name: str) -> float:
        inner = facts[group]
        assert isinstance(inner, dict)
        return float(inner[name])

    rejected = float(str(facts["rejected"]))
    checks = [
        Check("fullest minute, requests", of("fullest", "requests"), "≤ 1", of("fullest", "requests") <= 1),
        Check("fullest minute, tokens", of("fullest", "tokens"), "≤ 1", of("fullest", "tokens") <= 1),
        Check("429 answers", rejected, "0", rejected == 0),
        Check("failed jobs", of("jobs", "failed"), "0", of("jobs", "failed") == 0),
    ]
    if case.utilisation is not None:
        offered, used = float(str(facts["offered"])), of("utilisation", case.binding)
        target = f"≥ {case.utilisation:g}"
        checks += [
            Check(f"used of the {case.binding}", used, target, used >= case.utilisation),
            Check("offered", offered, f"≥ {LEAST_OFFERED:g}", offered >= LEAST_OFFERED),
        ]
    if case.calm:
        kept = paired_p95 <= SLOWER  # not of nan: then there was nothing to compare
        checks.append(Check("p95 of first grant to done ÷ unloaded", paired_p95, f"≤ {SLOWER:g}", kept))
    if case.grants:
        p50, p99 = of("grants", "p50_up_to"), of("grants", "p99_up_to")
        checks += [
            Check("grant, p50 up to (s)", p50, f"≤ {GRANT_P50:g}", p50 <= GRANT_P50),
            Check("grant, p99 up to (s)", p99, f"≤ {GRANT_P99:g}", p99 <= GRANT_P99),
        ]
    return checks


def _beside_a_batch(beside: Mapping[str, float], alone: Mapping[str, float]) -> list[Check]:
    slower = beside["done_p95"] / alone["done_p95"]
    more = beside["grant_p95"] - alone["grant_p95"]
    return [
        Check("people's p95 to done ÷ alone", slower, f"≤ {BATCH_SLOWER:g}", slower <= BATCH_SLOWER),
        Check("people's p95 to a grant, more (s)", more, f"≤ {BATCH_WAIT:g}", more <= BATCH_WAIT),
    ]


def _slower(own: Durations, unloaded: Durations, paired: Sequence[str]) -> float:
    """Compares percentiles over the same jobs, and so over the same latencies of the provider."""
    loaded = percentile([own[key] for key in paired], 0.95)
    return loaded / percentile([unloaded[key] for key in paired], 0.95)


def _offered(measured: Measured) -> float:
    """Returns the share of the binding limit that the offered jobs needed, at the mean cost of ended jobs."""
    case, seconds = measured.case, measured.end - measured.first
    ended = [job for job in measured.stories.values() if job.ended is not None]
    done = {job.key.rpartition("-")[2] for job in ended}  # as the provider names them
    cost = sum(
        1 if case.binding == "requests" else int(str(call["charged_tokens"]))
        for call in measured.calls
        if call["counted"] and call["job"] in done
    )
    offered = sum(sent <= measured.end for sent in measured.offered.sent)
    return offered * (cost / len(ended) if ended else 0.0) / (case.limit * seconds / 60)


def _repeated(calls: Sequence[Mapping[str, object]]) -> int:
    """Returns the repeated calls: the same kind for the same job."""
    return len(calls) - len({(call["job"], call["kind"]) for call in calls})


def _bound(grants: Mapping[float, float], share: float) -> float:
    """Returns the first bound of the histogram that covers that share; nan for an empty histogram."""
    wanted = share * grants.get(math.inf, 0.0)
    return next((bound for bound in sorted(grants) if wanted and grants[bound] >= wanted), math.nan)


def _series(amounts: Sequence[Amount]) -> JSON:
    return {
        "requests": [amount.requests for amount in amounts],
        "tokens": [amount.tokens for amount in amounts],
    }
