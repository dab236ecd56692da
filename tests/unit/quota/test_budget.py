"""The fold of one provider's budget: which records are valid, and what a leader grants by them."""

from dataclasses import dataclass, field

import pytest

from eco2.event import (
    BudgetEvent,
    CallCounted,
    CallReleased,
    CallRequested,
    CallsGranted,
    CallThrottled,
    EpochOpened,
    GrantedCall,
    Header,
    Leads,
    WriterAbsent,
)
from eco2.pacer import Limits
from eco2.quota.budget import GRANT_LIFE, MAX_BACKOFF, Budget, Request
from eco2.writers import Writers

NAME = "openai"
LIMITS = Limits(requests=60.0)


def first_come(request: Request) -> tuple[float]:
    return (request.since,)


def requested(name: str, run: str = "1", tokens: float = 100.0) -> CallRequested:
    return CallRequested(budget=NAME, id=name, job=f"job-{name}", run=run, kind="vision", tokens=tokens)


def opened(epoch: int, after: int) -> EpochOpened:
    return EpochOpened(budget=NAME, epoch=epoch, after=after)


def granting(epoch: int, at: float, *names: str) -> CallsGranted:
    calls = tuple(GrantedCall(name, at + GRANT_LIFE, 100.0) for name in names)
    return CallsGranted(budget=NAME, epoch=epoch, at=at, calls=calls)


@dataclass
class Reader:
    """A process that reads a journal; all clocks are equal, and what is sent is read at once."""

    own: str = "me"
    runs: dict[str, str] = field(default_factory=dict)
    offset: int = -1
    known: bool = True
    """It has read the journal of the last minute, in which nothing was granted."""

    def __post_init__(self) -> None:
        self.writers = Writers(self.own)
        self.budget = Budget(NAME, self.own, self.writers, lambda job, run: self.runs.get(job, run) == run)
        self.budget._known_from = -1000.0 if self.known else None
        self._numbers: dict[str, int] = {}

    def read(self, writer: str, record: BudgetEvent, now: float, number: int | None = None) -> list[str]:
        """Reads a message with one record; returns the calls that it grants. `number`: of a copy."""
        self.offset += 1
        if number is None:
            number = self._numbers[writer] = self._numbers.get(writer, 0) + 1
        header = Header(writer, number, now, self.offset - 1)
        if not self.writers.take(self.offset, header, now):
            return []
        return [call.id for call in self.budget.apply(self.offset, header, record, now)]

    def decide(self, now: float, limits: Limits = LIMITS) -> list[str]:
        record = self.budget.decide(now, limits, first_come)
        return [] if record is None else [call.id for call in record.calls]

    def lead(self, now: float) -> None:
        self.read(self.own, opened(self.budget.epoch + 1, self.budget.after), now)


def test_a_request_waits_and_the_leaders_grant_ends_the_wait() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    reader.read("me", requested("a"), 1.0)
    assert list(reader.budget.waiting) == ["a"]
    assert reader.read("leader", granting(1, 1.0, "a"), 1.0) == ["a"]
    assert not reader.budget.waiting


def test_a_grant_is_void_unless_its_writer_leads_in_its_epoch() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.read("other", granting(1, 1.0, "a"), 1.0) == []
    reader.read("other", opened(2, 0), 1.0)
    assert reader.read("leader", granting(1, 1.0, "a"), 1.0) == []  # of the epoch that has ended
    assert reader.read("other", granting(2, 1.0, "a"), 1.0) == ["a"]


def test_an_epoch_opens_only_after_the_last_word_of_the_one_before() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    reader.read("leader", Leads(budget=NAME, epoch=1), 1.0)
    reader.read("other", opened(2, 0), 1.0)  # it has not seen `leads`
    assert (reader.budget.epoch, reader.budget.leader) == (1, "leader")
    reader.read("other", opened(3, 1), 1.0)
    assert reader.budget.epoch == 1
    reader.read("other", opened(2, 1), 1.0)
    reader.read("third", opened(2, 1), 1.0)  # of two at once the first counts
    assert (reader.budget.epoch, reader.budget.leader) == (2, "other")


def test_a_void_candidacy_doubles_the_patience_until_the_leader_speaks() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    for _ in range(5):
        reader.read("me", opened(2, 7), 0.0)
    assert reader.budget.candidacy(1.5 * MAX_BACKOFF, 0.0, 1.5) is None
    assert reader.budget.candidacy(1.6 * MAX_BACKOFF, 0.0, 1.5) == opened(2, 0)
    reader.read("leader", Leads(budget=NAME, epoch=1), 20.0)
    assert reader.budget.candidacy(21.0, 0.0, 1.5) is None
    assert reader.budget.candidacy(21.6, 0.0, 1.5) == opened(2, reader.offset)


def test_nobody_stands_before_the_own_request_has_waited() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    assert reader.budget.candidacy(100.0, 99.0, 1.5) is None
    assert reader.budget.candidacy(101.0, 99.0, 1.5) is not None


@pytest.mark.parametrize("when", ["before the grant", "after the grant"])
def test_a_void_runs_grant_is_not_used(when: str) -> None:
    reader = Reader()
    reader.lead(0.0)
    call = requested("a", run="1")
    reader.read("me", call, 1.0)
    record = reader.budget.decide(1.0, LIMITS, first_come)
    assert record is not None
    if when == "before the grant":
        reader.runs["job-a"] = "2"
        assert reader.read("me", record, 1.0) == []
    else:
        assert reader.read("me", record, 1.0) == ["a"]
        reader.runs["job-a"] = "2"
    assert not reader.budget.may_send(record.calls[0], call, 1.0)
    if when == "before the grant":
        assert reader.budget.spending(1.0) == []  # nobody can send it


def test_a_request_of_a_void_run_does_not_wait_and_is_not_granted() -> None:
    reader = Reader(runs={"job-a": "2"})
    reader.lead(0.0)
    reader.read("other", requested("a", run="1"), 1.0)
    reader.read("other", requested("b", run="1"), 1.0)
    reader.runs["job-b"] = "2"
    assert reader.decide(1.0) == []


def test_a_grant_must_be_used_in_its_time() -> None:
    reader = Reader()
    call, granted = requested("a"), GrantedCall("a", 5.0, 1.0)
    assert reader.budget.may_send(granted, call, 4.9)
    assert not reader.budget.may_send(granted, call, 5.0)


@pytest.mark.parametrize("writer", ["me", "other"])
def test_the_time_of_a_grant_is_the_askers_own_and_never_late(writer: str) -> None:
    reader = Reader()
    reader.lead(1000.0)
    behind = 0.0 if writer == "me" else 990.0
    reader.offset += 1
    header = Header(writer, 9, 1001.0 - behind, reader.offset)
    reader.writers.take(reader.offset, header, 1001.0)
    reader.budget.apply(reader.offset, header, requested("a"), 1001.0)
    record = reader.budget.decide(1001.5, LIMITS, first_come)
    assert record is not None
    assert record.calls[0].by == pytest.approx(1001.5 - behind + GRANT_LIFE, abs=0.002)
    assert record.calls[0].by <= 1001.5 - behind + GRANT_LIFE


def test_copies_change_nothing() -> None:
    reader = Reader()
    reader.read("leader", opened(1, -1), 0.0)
    reader.read("me", requested("a"), 1.0)
    reader.read("leader", granting(1, 1.0, "a"), 1.0)
    reader.read("me", CallReleased(budget=NAME, id="a"), 1.1)
    reader.read("me", requested("a"), 1.2, number=1)
    assert not reader.budget.waiting
    assert reader.read("leader", granting(1, 1.0, "a"), 1.2, number=2) == []
    reader.read("leader", opened(1, -1), 1.3, number=1)
    assert reader.budget.spending(2.0) == []


def test_a_released_call_costs_nothing_and_does_not_wait() -> None:
    reader = Reader()
    reader.lead(0.0)
    limits = Limits(requests=1.0)
    for name in ("a", "b"):
        reader.read("me", requested(name), 1.0)
    assert reader.decide(1.0, limits) == ["a"]
    reader.read("me", granting(1, 1.0, "a"), 1.0)
    assert reader.decide(1.1, limits) == []
    reader.read("me", CallReleased(budget=NAME, id="a"), 1.1)
    assert reader.decide(1.1, limits) == ["b"]


def test_a_new_leader_counts_what_was_granted_before() -> None:
    reader = Reader()
    limits = Limits(requests=2.0)
    reader.read("leader", opened(1, -1), 0.0)
    for name in ("a", "b", "c"):
        reader.read("other", requested(name), 1.0)
    reader.read("leader", granting(1, 1.0, "a", "b"), 1.0)
    reader.lead(3.0)
    assert reader.decide(3.0, limits) == []
    reader.read("other", Leads(budget=NAME, epoch=1), 61.0)  # any message: the tail is current
    assert reader.decide(61.0, limits) == []
    assert reader.decide(61.5, limits) == ["c"]


def test_a_new_leader_that_has_not_read_the_last_minute_takes_it_as_spent() -> None:
    at_once = {}
    for known in (True, False):
        reader = Reader(known=known)
        reader.lead(0.0)
        for number in range(60):
            reader.read("me", requested(str(number)), 0.5)
        at_once[known] = len(reader.decide(0.5, Limits(requests=600.0)))
    assert at_once[True] > 10
    assert at_once[False] == 0


def test_a_new_leader_that_has_not_read_the_last_minute_counts_a_large_call_that_it_has_read() -> None:
    """Evenly spent, the minute before would have no room for it."""
    limits = Limits(tokens=6000.0)
    reader = Reader(known=False)
    reader.read("leader", opened(1, -1), 0.0)
    reader.read("other", requested("large", tokens=1800.0), 0.5)
    reader.read("leader", granting(1, 0.5, "large"), 0.5)
    reader.lead(1.0)
    for number in range(60):
        reader.read("me", requested(str(number)), 1.0)
    calls = 0
    for tenths in range(10, 600):
        reader.read("me", Leads(budget=NAME, epoch=2), tenths / 10)
        while names := reader.decide(tenths / 10, limits):
            reader.read("me", granting(2, tenths / 10, *names), tenths / 10)
            calls += len(names)
    assert 0 < calls * 100 <= 6000 - 1800


@pytest.mark.parametrize("leaders", [1, 2])
@pytest.mark.parametrize(("seconds", "known"), [(59.0, False), (61.0, True)])
def test_a_process_that_starts_knows_by_the_leaders_clocks_whether_it_has_read_a_minute(
    leaders: int, seconds: float, known: bool
) -> None:
    reader = Reader(known=False)
    for epoch in range(1, leaders + 1):
        first: list[tuple[BudgetEvent, float]] = [(opened(epoch, reader.budget.after), 5.0)]
        for record, sent in [*first, (Leads(budget=NAME, epoch=epoch), 5.0 + seconds / leaders)]:
            reader.offset += 1
            header = Header(f"leader {epoch}", 1 if record is first[0][0] else 2, sent, -1)
            assert reader.writers.take(reader.offset, header, 1000.0)  # all of it at its start
            reader.budget.apply(reader.offset, header, record, 1000.0)
    assert reader.budget.is_known(1000.0) == known
    reader.lead(1000.5)
    assert reader.budget.is_known(1000.5) == known


def test_what_the_provider_counted_takes_the_place_of_the_estimate() -> None:
    reader = Reader()
    reader.lead(0.0)
    limits = Limits(tokens=200.0)
    for name in ("a", "b"):
        reader.read("me", requested(name, tokens=150.0), 1.0)
    first = reader.budget.decide(1.0, limits, first_come, "input")
    assert first is not None
    reader.read("me", first, 1.0)
    assert reader.budget.decide(2.0, limits, first_come, "input") is None
    reader.read("me", CallCounted(budget=NAME, id="a", tokens=40.0), 40.0)
    second = reader.budget.decide(40.0, limits, first_come, "input")
    assert second is not None
    assert [call.id for call in second.calls] == ["b"]
    successor = Reader("next")
    records: list[BudgetEvent] = [opened(1, -1), requested("a", tokens=150.0), first]
    for record in records:
        successor.read("me", record, 1.0)
    successor.read("me", CallCounted(budget=NAME, id="a", tokens=40.0), 40.0)
    (spent,) = successor.budget.spending(40.0)
    assert spent[1].counted == 40.0


def test_a_429_stops_all_grants_for_as_long_as_the_provider_says() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    reader.read("me", granting(1, 1.0, "a"), 1.0)
    reader.read("other", requested("b"), 2.0)
    reader.read("me", CallThrottled(budget=NAME, id="a", retry_after=3.0), 2.0)
    assert reader.decide(4.0) == []
    reader.read("other", CallReleased(budget=NAME, id="x"), 5.0)
    assert reader.decide(5.1) == ["b"]


def test_requests_of_an_absent_process_are_dropped() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("other", requested("a"), 1.0)
    reader.read("me", requested("b"), 15.0)
    assert reader.budget.absent(15.0, 15.0) == []
    reader.read("me", Leads(budget=NAME, epoch=1), 16.5)
    (record,) = reader.budget.absent(16.5, 15.0)
    assert record == WriterAbsent(budget=NAME, epoch=1, writer="other")
    reader.read("me", record, 16.5)
    assert list(reader.budget.waiting) == ["b"]


def test_a_leader_gives_a_sign_while_requests_wait_and_only_then() -> None:
    reader = Reader()
    reader.lead(0.0)
    assert reader.budget.heartbeat(1.0) is None
    reader.read("me", requested("a"), 1.0)
    assert reader.budget.heartbeat(1.0) == Leads(budget=NAME, epoch=1)
    assert reader.budget.heartbeat(1.4) is None
    assert reader.budget.heartbeat(1.5) is not None


def test_a_leader_whose_tail_stalls_does_nothing() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.decide(10.0) == []
    assert reader.budget.heartbeat(10.0) is None
    assert reader.budget.absent(100.0, 15.0) == []


def test_a_leader_that_was_replaced_forgets_what_it_had_decided() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.decide(1.0) == ["a"]
    reader.read("other", opened(2, 0), 1.1)
    assert reader.decide(1.2) == []
    reader.lead(2.0)
    assert reader.decide(2.0) == ["a"]


def test_a_decision_that_was_not_sent_is_made_again() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    record = reader.budget.decide(1.0, Limits(requests=1.0), first_come)
    assert record is not None
    reader.budget.withdraw(record)
    assert reader.decide(1.2, Limits(requests=1.0)) == ["a"]


def test_a_call_that_no_minute_holds_waits_and_blocks_nobody() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("large", tokens=1001.0), 0.5)
    reader.read("me", requested("small", tokens=10.0), 1.0)
    assert reader.decide(1.0, Limits(tokens=1000.0)) == ["small"]
    assert reader.budget.due(1.0, first_come) is None
