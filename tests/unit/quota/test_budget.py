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
from eco2.quota.budget import GRANT_LIFE, MAX_BACKOFF, PATIENCE, Budget, patience
from eco2.quota.scheduler import Request
from eco2.writers import Writers

NAME = "openai"
LIMITS = Limits(requests=60.0)


def first_come(request: Request) -> tuple[float]:
    return (request.since,)


def requested(name: str, run: str = "1", tokens: float = 100.0) -> CallRequested:
    return CallRequested(budget=NAME, id=name, job=f"job-{name}", run=run, kind="vision", tokens=tokens)


OPENED = EpochOpened(budget=NAME)
"""Names its epoch by its offset: 0, where it is the first record."""


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

    def read(
        self, writer: str, record: BudgetEvent, now: float, number: int | None = None, seen: int | None = None
    ) -> list[str]:
        """Reads a message with one record; returns the calls that it grants. `number`: of a copy. `seen`: the
        last offset that its writer had read; all without."""
        self.offset += 1
        if number is None:
            number = self._numbers[writer] = self._numbers.get(writer, 0) + 1
        header = Header(writer, number, now, self.offset - 1 if seen is None else seen)
        if not self.writers.take(self.offset, header, now):
            return []
        return [call.id for call in self.budget.apply(self.offset, header, record, now)]

    def decide(self, now: float, limits: Limits = LIMITS) -> list[str]:
        record = self.budget.decide(now, limits, first_come)
        return [] if record is None else [call.id for call in record.calls]

    def lead(self, now: float) -> None:
        self.read(self.own, OPENED, now)


def test_a_request_waits_and_the_leaders_grant_ends_the_wait() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    reader.read("me", requested("a"), 1.0)
    assert list(reader.budget.waiting) == ["a"]
    assert reader.read("leader", granting(0, 1.0, "a"), 1.0) == ["a"]
    assert not reader.budget.waiting


def test_a_grant_is_void_unless_its_writer_leads_in_its_epoch() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.read("other", granting(0, 1.0, "a"), 1.0) == []
    reader.read("other", OPENED, 1.0)
    epoch = reader.offset
    assert reader.read("leader", granting(0, 1.0, "a"), 1.0) == []  # of the epoch that has ended
    assert reader.read("other", granting(epoch, 1.0, "a"), 1.0) == ["a"]


def test_an_epoch_opens_only_if_its_writer_has_read_the_last_word_of_the_leader() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    reader.read("leader", Leads(budget=NAME, epoch=0), 1.0)
    reader.read("other", OPENED, 1.0, seen=0)  # it has not read `leads`
    assert (reader.budget.epoch, reader.budget.leader) == (0, "leader")
    reader.read("other", OPENED, 1.0, seen=1)
    reader.read("third", OPENED, 1.0, seen=1)  # of two at once the first counts
    assert (reader.budget.epoch, reader.budget.leader) == (3, "other")


@pytest.mark.parametrize("grants_first", [False, True])
def test_processes_that_read_from_different_places_agree_on_who_leads(grants_first: bool) -> None:
    """A newcomer opens an epoch, since what the leader wrote has left its view; the leader knows better."""
    old, new = Reader("old"), Reader("new")
    old.lead(0.0)
    for number in range(9):
        old.read("somebody", requested(f"earlier {number}"), 1.0)
    new.offset = old.offset
    both = (old, new)
    for reader in both:
        reader.read("new", requested("a"), 1000.0)
    read_by_both = old.offset
    late = granting(0, 1000.0, "a")
    records: list[tuple[str, BudgetEvent]] = [("new", OPENED), ("old", late)]
    for writer, record in records[:: -1 if grants_first else 1]:
        granted = [reader.read(writer, record, 1000.0, seen=read_by_both) for reader in both]
        assert granted[0] == granted[1] == (["a"] if grants_first and record is late else [])
    assert {reader.budget.leader for reader in both} == {"old" if grants_first else "new"}
    assert old.budget.epoch == new.budget.epoch


def test_a_leaders_record_of_another_journal_counts_for_nothing() -> None:
    """After a stream was replaced: its offsets begin again, and the old ones are far ahead."""
    reader = Reader()
    reader.read("leader", Leads(budget=NAME, epoch=88_190), 0.0)
    assert reader.budget.leader is None


def test_a_void_candidacy_doubles_the_patience_until_the_leader_speaks() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    for _ in range(5):
        reader.read("me", OPENED, 0.0, seen=-1)
    assert reader.budget.candidacy_due(0.0, 1.5) == 1.5 * MAX_BACKOFF
    assert reader.budget.stand(1.6 * MAX_BACKOFF) == EpochOpened(budget=NAME, silence=1.6 * MAX_BACKOFF)
    reader.read("leader", Leads(budget=NAME, epoch=0), 20.0)
    assert reader.budget.candidacy_due(0.0, 1.5) == 21.5


def test_nobody_stands_before_the_own_request_has_waited() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    assert reader.budget.candidacy_due(99.0, 1.5) == 100.5


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
    reader.read("leader", OPENED, 0.0)
    reader.read("me", requested("a"), 1.0)
    reader.read("leader", granting(0, 1.0, "a"), 1.0)
    reader.read("me", CallReleased(budget=NAME, id="a"), 1.1)
    reader.read("me", requested("a"), 1.2, number=1)
    assert not reader.budget.waiting
    assert reader.read("leader", granting(0, 1.0, "a"), 1.2, number=2) == []
    reader.read("leader", OPENED, 1.3, number=1)
    assert reader.budget.epoch == 0
    assert reader.budget.spending(2.0) == []


def test_a_released_call_costs_nothing_and_does_not_wait() -> None:
    reader = Reader()
    reader.lead(0.0)
    limits = Limits(requests=1.0)
    for name in ("a", "b"):
        reader.read("me", requested(name), 1.0)
    assert reader.decide(1.0, limits) == ["a"]
    reader.read("me", granting(0, 1.0, "a"), 1.0)
    assert reader.decide(1.1, limits) == []
    reader.read("me", CallReleased(budget=NAME, id="a"), 1.1)
    assert reader.decide(1.1, limits) == ["b"]


def test_a_new_leader_counts_what_was_granted_before() -> None:
    reader = Reader()
    limits = Limits(requests=2.0)
    reader.read("leader", OPENED, 0.0)
    for name in ("a", "b", "c"):
        reader.read("other", requested(name), 1.0)
    reader.read("leader", granting(0, 1.0, "a", "b"), 1.0)
    reader.lead(3.0)
    assert reader.decide(3.0, limits) == []
    reader.read("other", Leads(budget=NAME, epoch=0), 61.0)  # any message: the tail is current
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
    reader.read("leader", OPENED, 0.0)
    reader.read("other", requested("large", tokens=1800.0), 0.5)
    reader.read("leader", granting(0, 0.5, "large"), 0.5)
    reader.lead(1.0)
    epoch = reader.budget.epoch
    for number in range(60):
        reader.read("me", requested(str(number)), 1.0)
    calls = 0
    for tenths in range(10, 600):
        reader.read("me", Leads(budget=NAME, epoch=epoch), tenths / 10)
        while names := reader.decide(tenths / 10, limits):
            reader.read("me", granting(epoch, tenths / 10, *names), tenths / 10)
            calls += len(names)
    assert 0 < calls * 100 <= 6000 - 1800


@pytest.mark.parametrize("leaders", [1, 2])
@pytest.mark.parametrize(("seconds", "known"), [(59.0, False), (61.0, True)])
def test_a_process_that_starts_knows_by_the_leaders_clocks_whether_it_has_read_a_minute(
    leaders: int, seconds: float, known: bool
) -> None:
    reader = Reader(known=False)
    for leader in range(leaders):
        epoch = reader.offset + 1
        records: tuple[BudgetEvent, ...] = (OPENED, Leads(budget=NAME, epoch=epoch))
        for number, (record, sent) in enumerate(zip(records, (5.0, 5.0 + seconds / leaders), strict=True), 1):
            reader.offset += 1
            header = Header(f"leader {leader}", number, sent, reader.offset - 1)
            assert reader.writers.take(reader.offset, header, 1000.0)  # all of it at its start
            reader.budget.apply(reader.offset, header, record, 1000.0)
    assert reader.budget.is_known(1000.0) == known
    reader.lead(1000.5)
    assert reader.budget.is_known(1000.5) == known


@pytest.mark.parametrize(("silence", "granted_at"), [(0.0, 1000.0), (1.5, 998.5)])
def test_the_next_leader_says_how_old_an_epoch_is(silence: float, granted_at: float) -> None:
    reader = Reader()
    messages: list[tuple[str, float, BudgetEvent]] = [
        ("leader", 0.0, OPENED),
        ("asker", 0.0, requested("a")),
        ("leader", 5.0, granting(0, 5.0, "a")),
        ("next", 6.5, EpochOpened(budget=NAME, silence=silence)),
    ]
    for number, (writer, sent, record) in enumerate(messages):
        reader.offset += 1
        header = Header(writer, number + 1, sent, reader.offset - 1)
        assert reader.writers.take(reader.offset, header, 1000.0)  # all of it at its start
        reader.budget.apply(reader.offset, header, record, 1000.0)
    ((at, call),) = reader.budget.spending(1000.0)
    assert (call.request.id, at) == ("a", granted_at)


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
    records: list[BudgetEvent] = [OPENED, requested("a", tokens=150.0), first]
    for record in records:
        successor.read("me", record, 1.0)
    successor.read("me", CallCounted(budget=NAME, id="a", tokens=40.0), 40.0)
    (spent,) = successor.budget.spending(40.0)
    assert spent[1].counted == 40.0


def test_a_429_stops_all_grants_for_as_long_as_the_provider_says() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    reader.read("me", granting(0, 1.0, "a"), 1.0)
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
    reader.read("me", Leads(budget=NAME, epoch=0), 16.5)
    (record,) = reader.budget.absent(16.5, 15.0)
    assert record == WriterAbsent(budget=NAME, epoch=0, writer="other")
    reader.read("me", record, 16.5)
    assert list(reader.budget.waiting) == ["b"]


def test_a_leader_gives_a_sign_while_requests_wait_and_only_then() -> None:
    reader = Reader()
    reader.lead(0.0)
    assert reader.budget.leads(1.0) is None
    reader.read("me", requested("a"), 1.0)
    assert reader.budget.leads(1.0) == Leads(budget=NAME, epoch=0)
    assert reader.budget.leads(1.4) is None
    assert reader.budget.leads(1.5) is not None


def test_a_leader_whose_tail_stalls_does_nothing() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.decide(10.0) == []
    assert reader.budget.leads(10.0) is None
    assert reader.budget.absent(100.0, 15.0) == []


def test_a_leader_that_was_replaced_forgets_what_it_had_decided() -> None:
    reader = Reader()
    reader.lead(0.0)
    reader.read("me", requested("a"), 1.0)
    assert reader.decide(1.0) == ["a"]
    reader.read("other", OPENED, 1.1)
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


def test_a_process_that_has_read_for_longer_tries_first() -> None:
    assert patience(0.0, 0.0) > patience(20.0, 1.0) > patience(60.0, 1.0)
    assert patience(1000.0, 0.0) == PATIENCE
    assert patience(0.0, 1.0) <= 2.0


def test_a_new_leader_grants_nothing_to_the_silent_one_before_it() -> None:
    reader = Reader()
    reader.read("leader", OPENED, 0.0)
    reader.read("leader", requested("a"), 1.0)
    reader.read("other", requested("b"), 1.0)
    reader.lead(2.0)
    assert reader.decide(2.0) == ["b"]
    reader.writers.note_heartbeat("leader", reader.offset, 2.1)  # it lives, and its tail moves
    assert reader.decide(2.2) == ["a"]
