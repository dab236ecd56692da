"""The verdict on evidence that is made up: each promise can be broken, and the verdict says so."""

from dataclasses import replace

import pytest

from tests.fault.evidence import Answer, Call, Check, Death, Evidence, Fact, Moment, Sight, Trace
from tests.fault.verdict import judge

VICTIM, OTHER = "host-1", "host-12"
SEQS = (10, 11, 20, 21, 30, 31, 40, 41)


class Journal:
    """Facts in log order; one second passes with each."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def add(self, type: str, job: str = "a", **body: object) -> Fact:
        at = 100.0 + len(self.facts)
        fact = Fact(2 * len(self.facts), 0, at, at, type, job, {"job": job, "type": type, **body})
        self.facts.append(fact)
        return fact

    def run(self, attempt: int = 1, worker: str = VICTIM) -> Fact:
        return self.add("run", run=f"run-{attempt}", attempt=attempt, worker=f"{worker}-c0ffee")

    def stages(self, *seqs: int, attempt: int = 1) -> None:
        for seq in seqs:
            self.add("stage", run=f"run-{attempt}", seq=seq, stage=str(seq), status="completed")

    def done(self, attempt: int | None = 1, status: str = "completed", code: str | None = None) -> Fact:
        error = None if code is None else {"code": code}
        run = None if attempt is None else f"run-{attempt}"
        return self.add("done", run=run, seq=51, status=status, result={"error": error})


def right() -> Journal:
    """The journal of one job as it should be."""
    journal = Journal()
    journal.add("queued", pipeline="scan", key="k")
    journal.run()
    journal.stages(*SEQS)
    journal.done()
    return journal


def trace(journal: Journal, late: bool = False) -> Trace:
    """What a client gets of it."""
    shown = [f for f in journal.facts if f.job == "a" and f.type in ("queued", "stage", "done")]
    sights = [Sight(int(str(fact.body.get("seq", 0))), fact.id, fact.at) for fact in shown]
    return Trace("a", tuple(sights), late)


def evidence(journal: Journal) -> Evidence:
    calls = (Call("a", "vision", 101.5, paid=True), Call("a", "answer", 105.5, paid=True))
    answers = (Answer("k", 99.0, 0.1, 202, "a"),)
    return Evidence(tuple(journal.facts), calls, (trace(journal), trace(journal, late=True)), answers)


def test_a_run_without_fault_keeps_everything() -> None:
    verdict = judge(evidence(right()))
    assert verdict.breaches == ()
    assert (verdict.accepted, verdict.done, verdict.failed, verdict.lost) == (1, 1, 0, 0)


def test_a_job_without_an_end_is_lost() -> None:
    journal = right()
    del journal.facts[-1]
    verdict = judge(evidence(journal))
    assert verdict.lost == 1
    assert any("without an end" in breach for breach in verdict.breaches)


def test_a_job_that_the_journal_never_saw_is_lost() -> None:
    seen = evidence(right())
    assert judge(replace(seen, answers=(*seen.answers, Answer("l", 1, 1, 202, "b")))).lost == 1


def test_an_end_by_a_run_that_was_overtaken_does_not_count() -> None:
    journal = Journal()
    journal.add("queued")
    journal.run(1)
    journal.run(2, OTHER)
    journal.done(1)
    assert judge(replace(evidence(journal), traces=())).lost == 1


def test_an_end_by_the_sweep_counts() -> None:
    journal = Journal()
    journal.add("queued")
    journal.done(None, "failed", "TIMEOUT")
    seen = replace(evidence(journal), failures=frozenset({"TIMEOUT"}))
    assert judge(seen).breaches == ()
    assert judge(replace(seen, failures=frozenset())).breaches == ("1 jobs failed with TIMEOUT",)


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (lambda sights: sights[1:], 1),
        (lambda sights: (*sights, sights[-1]), 1),
        (lambda sights: (sights[1], sights[0], *sights[2:]), 1),
        (lambda sights: (*sights[:3], Sight(99, "7.1", 0.0), *sights[3:]), 1),
        (lambda sights: (replace(sights[0], id="77"), *sights[1:]), 2),
        (lambda _: (), 10),
    ],
    ids=["missing", "doubled", "out of order", "of nobody", "another id", "nothing"],
)
def test_what_a_client_got_wrong_is_counted(events, wrong) -> None:  # type: ignore[no-untyped-def]
    seen = evidence(right())
    first, second = seen.traces
    verdict = judge(replace(seen, traces=(replace(first, sights=tuple(events(first.sights))), second)))
    assert verdict.seen_wrong == wrong
    assert "missing or doubled" in verdict.breaches[0]


def test_an_event_that_was_written_twice_is_shown_once() -> None:
    journal = right()
    done = journal.facts.pop()
    repeated = journal.facts[-1]
    journal.facts += [
        replace(repeated, offset=90),
        replace(done, offset=91),
        replace(done, offset=92),
    ]
    right_once = Trace("a", tuple(s for s in trace(journal).sights if s.id not in ("90", "92")))
    assert judge(replace(evidence(journal), traces=(right_once,))).breaches == ()
    assert judge(replace(evidence(journal), traces=(trace(journal),))).seen_wrong == 2


def test_a_call_that_was_paid_twice_is_beyond_the_promise() -> None:
    seen = evidence(right())
    verdict = judge(replace(seen, calls=(*seen.calls, seen.calls[1])))
    assert (verdict.overpaid, verdict.repeated) == (1, 0)
    assert "beyond the promise" in verdict.breaches[0]


def test_a_kind_that_was_not_called_pays_for_no_other() -> None:
    """Two answers and no vision are two calls, and still one too many."""
    seen = evidence(right())
    assert judge(replace(seen, calls=(seen.calls[1], seen.calls[1]))).overpaid == 1


def test_a_call_that_was_refused_costs_nothing() -> None:
    seen = evidence(right())
    assert judge(replace(seen, calls=(*seen.calls, replace(seen.calls[0], paid=False)))).overpaid == 0


def test_a_fault_of_the_provider_excuses_one_call_of_its_kind() -> None:
    seen = evidence(right())
    broken = replace(seen.calls[1], fault="cut")
    assert judge(replace(seen, calls=(*seen.calls, broken))).overpaid == 0
    assert judge(replace(seen, calls=(*seen.calls, broken, seen.calls[1]))).overpaid == 1
    assert judge(replace(seen, calls=(*seen.calls, broken, seen.calls[0]))).overpaid == 1


def test_a_repair_excuses_one_vision_call() -> None:
    journal = right()
    stored = Fact(
        3, 1, 101.9, 101.9, "call_completed", "a", {"run": "run-1", "reply": {"error": {"kind": "UNFIT"}}}
    )
    seen = evidence(journal)
    twice = replace(seen, calls=(*seen.calls, seen.calls[0]))
    assert judge(replace(twice, facts=(*twice.facts, stored))).overpaid == 0
    assert judge(twice).overpaid == 1


def taken_over() -> Journal:
    """Killed at 103.5, behind its first stage; another worker goes on at 110."""
    journal = Journal()
    journal.add("queued", key="k")
    journal.run()
    journal.stages(10, 11)
    for _ in range(6):
        journal.add("marker", "nobody")
    journal.run(2, OTHER)
    journal.stages(*SEQS[2:], attempt=2)
    journal.done(2)
    return journal


@pytest.mark.parametrize(("place", "beyond"), [(4, 1), (12, 0)], ids=["before the next run", "behind it"])
def test_a_reply_counts_as_recorded_from_its_place_in_the_journal_on(place: int, beyond: int) -> None:
    """A frozen process may write before it stops what the journal has only when it goes on."""
    journal = taken_over()
    reply = Fact(
        2 * place - 1, 0, 140.0, 103.4, "call_completed", "a", {"run": "run-1", "key": "vision", "reply": {}}
    )
    journal.facts.append(reply)
    seen = evidence(journal)
    calls = (Call("a", "vision", 101.5, paid=True), Call("a", "vision", 110.5, paid=True), seen.calls[1])
    assert judge(replace(seen, calls=calls, deaths=(Death(VICTIM, 103.5),))).overpaid == beyond


def test_a_kill_excuses_one_call_of_each_job_that_the_victim_held() -> None:
    seen = evidence(taken_over())
    twice = replace(seen, calls=(*seen.calls, seen.calls[1]), deaths=(Death(VICTIM, 103.5),))
    verdict = judge(twice)
    assert (verdict.overpaid, verdict.repeated) == (0, 1)
    assert judge(replace(twice, calls=(*twice.calls, seen.calls[1]))).overpaid == 1
    assert judge(replace(twice, deaths=(Death(OTHER, 103.5),))).overpaid == 1
    assert judge(replace(twice, deaths=(Death(VICTIM, 100.5),))).overpaid == 1  # before it held the job
    assert judge(replace(twice, deaths=(Death(VICTIM, 115.0),))).overpaid == 1  # long after


def test_a_crash_is_noticed_a_moment_after_the_takeover() -> None:
    seen = evidence(taken_over())
    twice = replace(seen, calls=(*seen.calls, seen.calls[1]))
    assert judge(replace(twice, deaths=(Death(VICTIM, 110.2),))).overpaid == 0
    assert judge(replace(twice, deaths=(Death(VICTIM, 111.0),))).overpaid == 1


def test_recovery_of_a_killed_worker_is_the_next_event_of_its_jobs() -> None:
    seen = replace(evidence(taken_over()), moment=Moment(103.5, worker=VICTIM, limit=7.0))
    assert judge(seen).recovered == 6.5
    assert judge(seen).breaches == ()
    assert judge(replace(seen, moment=Moment(103.5, worker=VICTIM, limit=6.0))).breaches == (
        "recovered only after 6.5 s, not 6 s",
    )
    assert judge(replace(seen, moment=Moment(103.5, worker=OTHER))).recovered is None


def test_a_job_that_never_goes_on_is_said() -> None:
    journal = taken_over()
    journal.facts = [fact for fact in journal.facts if fact.at <= 103.5]
    seen = replace(evidence(journal), moment=Moment(103.5, worker=VICTIM))
    assert "1 jobs had no event after the fault (a)" in judge(seen).breaches


def test_recovery_without_a_victim_counts_accepted_jobs_that_had_not_ended() -> None:
    seen = replace(evidence(right()), moment=Moment(104.25))
    assert judge(seen).recovered == 0.75
    assert judge(replace(seen, moment=Moment(150.0))).recovered is None
    assert judge(replace(seen, answers=())).recovered is None


def test_recovery_at_clients_is_when_the_last_of_them_is_served_again() -> None:
    seen = evidence(right())
    first, late = seen.traces
    moment = Moment(104.25, by="clients")
    served = (replace(first, opened=(100.0, 105.25)), replace(first, opened=(100.0, 106.25)), late)
    assert judge(replace(seen, traces=served, moment=moment)).recovered == 2.0
    alone = replace(seen, traces=(*served, replace(first, opened=(100.0,))), moment=moment)
    assert "1 jobs had no event after the fault (a)" in judge(alone).breaches


def test_a_client_that_had_seen_the_end_need_not_be_served_again() -> None:
    seen = evidence(right())
    first, late = seen.traces
    gone = replace(first, sights=tuple(replace(sight, at=104.0) for sight in first.sights))
    again = replace(first, opened=(100.0, 105.25))
    moment = Moment(104.25, by="clients")  # before the suite read the end
    assert judge(replace(seen, traces=(gone, again, late), moment=moment)).recovered == 1.0
    unseen = replace(gone, sights=gone.sights[:-1])
    cut = judge(replace(seen, traces=(unseen, again, late), moment=moment))
    assert "1 jobs had no event after the fault (a)" in cut.breaches


def test_the_loser_of_a_race_is_nobodys_loss() -> None:
    journal = right()
    journal.add("queued", "b", key="k")
    assert judge(evidence(journal)).breaches == ()
    seen = evidence(journal)
    two = replace(seen, answers=(*seen.answers, Answer("k", 99.0, 0.1, 202, "b")))
    assert "key 'k' got 2 ids" in judge(two).breaches


def test_too_many_connections_are_said() -> None:
    most = {"gateway": 2, "worker": 3}
    seen = evidence(right())
    assert judge(replace(seen, connections=most)).breaches == ()
    assert len(judge(replace(seen, connections={"gateway": 3, "worker": 4})).breaches) == 2


def test_what_is_left_in_the_queues_is_said() -> None:
    seen = evidence(right())
    assert judge(replace(seen, waiting={"jobs.scan": 0, "dead": 0})).breaches == ()
    assert judge(replace(seen, waiting={"jobs.scan": 1, "dead": 0})).breaches != ()
    assert judge(replace(seen, waiting={"dead": 2}, dead=2)).breaches == ()
    assert judge(replace(seen, waiting={"dead": 0}, dead=2)).breaches != ()


def test_a_job_that_ended_as_dead_has_a_dead_letter() -> None:
    journal = Journal()
    journal.add("queued")
    journal.add("done", run=None, seq=51, status="failed", result={"error": {"code": "POISON"}}, dead=True)
    seen = replace(evidence(journal), failures=frozenset({"POISON"}))
    assert judge(replace(seen, waiting={"dead": 1})).breaches == ()
    assert judge(replace(seen, waiting={"dead": 0})).breaches == ("0 messages in queue dead, not 1",)


def test_refused_streams_and_checks_that_did_not_hold_are_said() -> None:
    seen = evidence(right())
    refused = (replace(seen.traces[0], refusals=(404,)),)
    assert judge(replace(seen, traces=refused)).breaches == ("1 requests for an event stream got 404",)
    checks = (Check("this holds", held=True), Check("this not", held=False, detail="seen 3"))
    assert judge(replace(seen, checks=checks)).breaches == ("this not: seen 3",)
