"""Whether the promises were kept, from what was seen. Pure: the same evidence, the same verdict.

**Seconds to recover**: from the evidence's `Moment` (the kill, or the end of the fault where it has one)
until the last of the jobs that it touched had its next durable event in the journal; where gateways are the
victims, until the last of its clients was served again. Touched are, of a killed or frozen worker, the jobs
that it held; else all that were accepted and had not ended.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from tests.fault.evidence import Answer, Call, Death, Evidence, Fact, Moment, Trace
from tests.fault.history import History, histories

MOST_CONNECTIONS = {"gateway": 2, "worker": 3}
"""Promise 6."""

ON_THE_WAY = 1.0
"""Seconds that a request, or a record, may take which a process sent right before its death. No other process
takes its jobs over so soon."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row of the table. `seen_wrong`: events missing or doubled at clients. `overpaid`: paid calls beyond
    the promise. `recovered`: seconds, None where no job was touched. `breaches`: what was not kept, in words.
    """

    accepted: int
    done: int
    failed: int
    lost: int
    seen_wrong: int
    overpaid: int
    recovered: float | None
    breaches: tuple[str, ...]
    repeated: int = 0
    """Paid calls that the promise allows to repeat and that were repeated."""


def judge(evidence: Evidence) -> Verdict:
    """The verdict on all of it."""
    jobs = histories(evidence.facts)
    accepted = sorted({answer.job for answer in evidence.answers if answer.job})
    known = [jobs[job] for job in accepted if job in jobs]
    lost = [job for job in accepted if job not in jobs or jobs[job].end is None]
    wrong = {job: count for job, count in seen_wrong(evidence.traces, jobs).items() if count}
    over = overpaid(evidence.calls, jobs, evidence.deaths)
    recovered, stuck = recovery(evidence, jobs)
    failed = [history for history in known if history.status == "failed"]
    unexpected = Counter(history.code for history in failed if history.code not in evidence.failures)
    breaches = [
        *_few(f"{len(lost)} accepted jobs without an end", lost),
        *_few(f"{sum(wrong.values())} events missing or doubled at clients", wrong),
        *_few(f"{sum(over.values())} paid calls beyond the promise", over),
        *(f"{count} jobs failed with {code}" for code, count in unexpected.items()),
        *(f"key {key!r} got {count} ids" for key, count in two_ids(evidence.answers).items()),
        *_refusals(evidence.traces),
        *_connections(evidence.connections),
        *_left(evidence, jobs),
        *_slow(evidence.moment, recovered, stuck),
        *(f"{check.what}: {check.detail or 'no'}" for check in evidence.checks if not check.held),
    ]
    return Verdict(
        accepted=len(accepted),
        done=sum(history.status == "completed" for history in known),
        failed=len(failed),
        lost=len(lost),
        seen_wrong=sum(wrong.values()),
        overpaid=sum(over.values()),
        recovered=recovered,
        breaches=tuple(breaches),
        repeated=sum(surplus(evidence.calls, jobs).values()) - sum(over.values()),
    )


def seen_wrong(traces: Iterable[Trace], jobs: Mapping[str, History]) -> Counter[str]:
    """By job: events that a client lacks, and events that it got twice, out of order or for nothing."""
    wrong = Counter[str]()
    for trace in traces:
        history = jobs.get(trace.job)
        right = history.shown if history else []
        got = [(sight.seq, sight.id) for sight in trace.sights]
        missing = len(set(right) - set(got))
        matched, place = 0, 0
        for event in got:  # in order, each once
            if event in right[place:]:
                place = right.index(event, place) + 1
                matched += 1
        wrong[trace.job] += missing + len(got) - matched
    return wrong


def surplus(calls: Iterable[Call], jobs: Mapping[str, History]) -> Counter[str]:
    """By job: paid calls beyond one of each kind, one per repair, one per fault in a paid call."""
    paid, allowed = Counter[tuple[str, str]](), defaultdict[tuple[str, str], int](lambda: 1)
    for call in calls:
        if call.paid:
            paid[call.job, call.kind] += 1
            allowed[call.job, call.kind] += call.fault is not None
    for job, history in jobs.items():
        allowed[job, "vision"] += history.repairs
    over = Counter[str]()
    for (job, kind), count in paid.items():
        over[job] += max(0, count - allowed[job, kind])
    return over


def overpaid(calls: Iterable[Call], jobs: Mapping[str, History], deaths: Iterable[Death]) -> dict[str, int]:
    """By job: the surplus beyond the calls that were in flight when a worker that held the job died."""
    by_job = defaultdict[str, list[Call]](list)
    for call in calls:
        by_job[call.job].append(call)
    excused = Counter[str]()
    for death in sorted(deaths, key=lambda each: each.at):
        for job, history in jobs.items():
            if history.held_by(death.worker, death.at):
                excused[job] += max(0, in_flight(by_job[job], history, death.at) - excused[job])
    over = {job: count - excused[job] for job, count in surplus(calls, jobs).items()}
    return {job: count for job, count in over.items() if count > 0}


def in_flight(calls: Iterable[Call], history: History, at: float) -> int:
    """Calls of one job that were paid for and not recorded at the time `at`.

    What a frozen or cut off process had written may reach the journal only behind the next run: too late.
    """
    until = at + ON_THE_WAY
    paid = sum(call.paid and call.fault is None and call.at <= until for call in calls)
    known = takewhile(lambda fact: fact.type != "run" or fact.ts <= until, history.facts)
    return paid - sum(fact.type == "call_completed" and fact.ts <= until for fact in known)


def recovery(evidence: Evidence, jobs: Mapping[str, History]) -> tuple[float | None, list[str]]:
    """Seconds to recover, and the touched jobs that never had another event."""
    moment = evidence.moment
    if moment is None:
        return None, []
    if moment.worker is not None:
        touched = [history for history in jobs.values() if history.held_by(moment.worker, moment.at)]
    else:
        accepted = {answer.job for answer in evidence.answers}
        touched = [job for job in jobs.values() if job.job in accepted and job.open_at(moment.at)]
    waits: list[float] = []
    stuck: list[str] = []
    for history in touched:
        wait = _next(moment, history, evidence.traces)
        if wait is None:
            stuck.append(history.job)
        else:
            waits.append(wait)
    return (max(waits) if waits else None), stuck


def _next(moment: Moment, history: History, traces: Iterable[Trace]) -> float | None:
    """Seconds from the moment until the job goes on, or until the last of its clients is served again.

    A client that had seen the job's end has nothing to wait for, even if the suite read that end later.
    """
    if moment.by == "journal":
        return min((fact.at - moment.at for fact in history.facts if _after(fact, moment)), default=None)
    end = history.end.id if history.end is not None else None
    served = [
        0.0
        if any(sight.id == end and sight.at <= moment.at for sight in trace.sights)
        else min((at - moment.at for at in trace.opened if at > moment.at), default=None)
        for trace in traces
        if trace.job == history.job and not trace.late
    ]
    return None if None in served else max((wait for wait in served if wait is not None), default=None)


def _after(fact: Fact, moment: Moment) -> bool:
    """Of a dead worker the last events may arrive a moment after it: only what others wrote counts."""
    return fact.at > moment.at and (moment.worker is None or fact.ts > moment.at)


def two_ids(answers: Iterable[Answer]) -> dict[str, int]:
    """Keys that were answered with more than one id."""
    ids = defaultdict[str, set[str]](set)
    for answer in answers:
        if answer.job:
            ids[answer.key].add(answer.job)
    return {key: len(found) for key, found in ids.items() if len(found) > 1}


def _few(what: str, jobs: Iterable[str]) -> list[str]:
    named = sorted(jobs)
    return [f"{what} ({', '.join(named[:3])}{', …' if len(named) > 3 else ''})"] if named else []


def _refusals(traces: Iterable[Trace]) -> list[str]:
    counted = Counter(status for trace in traces for status in trace.refusals)
    return [f"{count} requests for an event stream got {status}" for status, count in counted.items()]


def _connections(most: Mapping[str, int]) -> list[str]:
    return [
        f"a {role} had {count} connections to the broker, not {MOST_CONNECTIONS[role]}"
        for role, count in most.items()
        if count > MOST_CONNECTIONS[role]
    ]


def dead_letters(evidence: Evidence, jobs: Mapping[str, History]) -> int:
    """How many there must be: of jobs that say so in their end, and of orders that are nobody's."""
    return evidence.dead + sum(history.dead for history in jobs.values())


def _left(evidence: Evidence, jobs: Mapping[str, History]) -> list[str]:
    found = []
    for queue, count in evidence.waiting.items():
        wanted = dead_letters(evidence, jobs) if queue == "dead" else 0
        if count != wanted:
            found.append(f"{count} messages in queue {queue}, not {wanted}")
    return found


def _slow(moment: Moment | None, recovered: float | None, stuck: list[str]) -> list[str]:
    found = _few(f"{len(stuck)} jobs had no event after the fault", stuck)
    if moment is not None and moment.limit is not None and recovered is not None and recovered > moment.limit:
        found.append(f"recovered only after {recovered:.1f} s, not {moment.limit:g} s")
    return found
