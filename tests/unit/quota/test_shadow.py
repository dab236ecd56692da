"""What candidates know of the leader's grants: as much as it does, or the worst."""

import pytest

from eco2.pacer import BURST_SECONDS, SPAN, Limits, Pacer
from eco2.quota.message import Entry, Note, Settled, Told, decode_note, encode_note
from eco2.quota.shadow import Shadow

LIMITS = Limits(60.4, 6040.0)


def fresh(now: float) -> Pacer:
    return Pacer(LIMITS, now, "input")


def note(seq: int, *names: str, epoch: str = "a", first: int = 0, settled: tuple[Settled, ...] = ()) -> Note:
    granted = tuple(Entry(name, 100.0, "vision") for name in names)
    return Note(epoch=epoch, first=first, seq=seq, granted=granted, settled=settled)


def listening(now: float) -> Shadow:
    """A shadow that has been told by a leader that has spent nothing."""
    leader, follower = Shadow(fresh, now - 2 * SPAN), Shadow(fresh, now)
    leader.hear(now - 2 * SPAN, note(0))
    leader.lead(now - 2 * SPAN, "a")
    follower.told(now, leader.tell(now))
    return follower


def knows(shadow: Shadow) -> bool:
    return shadow.complete


def spent(shadow: Shadow, now: float) -> tuple[float | None, float | None]:
    used = shadow.lead(now, "mine").used(now)
    return used.requests, used.tokens


def test_who_was_told_and_heard_the_rest_knows_what_the_leader_knows() -> None:
    shadow = listening(100.0)
    shadow.hear(101.0, note(1, "x", "y"))
    shadow.hear(102.0, note(2, "z", settled=(Settled("x", 40.0),)))
    assert knows(shadow)
    assert spent(shadow, 103.0) == pytest.approx((3.0, 240.0))


def test_who_missed_a_note_takes_the_last_minute_for_spent_until_it_is_told() -> None:
    shadow, leader = listening(100.0), listening(100.0)
    pacer = leader.lead(100.0, "a")
    for seq, name in enumerate("xyz", start=1):
        pacer.grant(100.0 + seq, name, 100.0)
        leader.note((Entry(name, 100.0, ""),), (), ())
    shadow.hear(101.0, note(1, "x"))
    shadow.hear(103.0, note(3, "z"))
    assert not knows(shadow)
    told = leader.tell(103.5)
    shadow.hear(104.0, note(4, "later"))
    shadow.told(104.5, told)
    assert knows(shadow)
    assert spent(shadow, 105.0) == pytest.approx((4.0, 400.0))


def test_who_has_led_before_notices_a_missed_note_like_anybody_else() -> None:
    shadow = listening(100.0)
    shadow.lead(100.0, "mine")
    shadow.note((), (), ())
    shadow.hear(101.0, note(4, "late", first=1))  # the last leader's, while this one leads
    assert knows(shadow)
    shadow.resign()
    shadow.hear(102.0, note(2, "x", epoch="b", first=2))
    assert knows(shadow)
    shadow.hear(104.0, note(4, "z", epoch="b", first=2))
    assert not knows(shadow)
    shadow.told(104.5, Told(epoch="b", seq=4, past=Shadow(fresh, 0.0).pacer.snapshot(104.5)))
    shadow.lead(105.0, "mine again")
    assert shadow.note((), (), ()).first == 5


def test_a_leader_that_missed_something_and_was_not_told_assumes_the_worst() -> None:
    shadow = listening(100.0)
    shadow.hear(103.0, note(9, "z"))
    requests, _ = spent(shadow, 103.0)
    assert requests is not None
    assert requests > 60.3


def test_who_never_heard_anything_assumes_the_worst_from_the_moment_it_leads() -> None:
    shadow = Shadow(fresh, 0.0)
    pacer = shadow.lead(1000.0, "mine")
    assert (
        BURST_SECONDS <= pacer.when(1000.0, 1.0) - 1000.0 <= BURST_SECONDS + 1
    )  # one call takes a second here


def test_the_notes_of_a_successor_go_on_where_those_of_the_last_leader_ended() -> None:
    shadow = listening(100.0)
    shadow.hear(101.0, note(1, "x"))
    shadow.hear(102.0, note(2, "y", epoch="b", first=2))
    assert knows(shadow)
    shadow.hear(103.0, note(2, "y2", epoch="c", first=2))  # it had not heard the last one
    assert knows(shadow)
    shadow.hear(104.0, note(3, "z", epoch="d", first=1))
    assert not knows(shadow)


def test_the_last_words_of_the_last_leader_count_also_when_they_come_late() -> None:
    shadow = listening(100.0)
    shadow.hear(101.0, note(1, "x"))
    pacer = shadow.lead(102.0, "mine")
    shadow.hear(102.1, note(2, "late"))
    assert pacer.used(103.0).requests == pytest.approx(2.0)
    mine = shadow.note((), (), ())
    assert (mine.epoch, mine.first, mine.seq) == ("mine", 2, 2)
    shadow.hear(103.0, mine)  # our own words come back
    assert knows(shadow)
    assert shadow.pacer is pacer


def test_who_may_have_missed_something_assumes_the_worst() -> None:
    shadow = listening(100.0)
    shadow.lost(101.0)
    assert not knows(shadow)
    requests, _ = spent(shadow, 101.0)
    assert requests is not None
    assert requests > 60.3


def test_who_only_listens_does_not_grow() -> None:
    shadow = listening(0.0)
    for seq in range(1, 4000):
        shadow.hear(float(seq), note(seq, f"call {seq}"))
    assert len(shadow.pacer) <= SPAN + 1


def test_a_call_that_is_granted_once_more_counts_once() -> None:
    shadow = listening(100.0)
    shadow.hear(101.0, note(1, "x"))
    shadow.hear(102.0, note(2, "x", epoch="b", first=2))
    assert spent(shadow, 103.0) == pytest.approx((1.0, 100.0))
    assert spent(shadow, 103.0 + SPAN) == pytest.approx((0.0, 0.0))


def test_what_is_told_is_never_earlier_than_it_was() -> None:
    pacer = Pacer(LIMITS, -2 * SPAN)
    for number in range(50):
        pacer.grant(number / 25, str(number), 10.0)
    other = Pacer(LIMITS, 0.0)
    other.restore(pacer.snapshot(2.0), 2.0)
    for later in (2.0, 30.0, SPAN, SPAN + 1.0, SPAN + 1.9, SPAN + 2.0):
        mine, theirs = pacer.used(later), other.used(later)
        assert theirs.requests is not None
        assert mine.requests is not None
        assert theirs.requests >= mine.requests
    assert other.used(SPAN + 2.1).requests == 0


def test_a_note_of_another_version_is_none() -> None:
    body = encode_note(note(3, "x"))
    assert decode_note(body) == note(3, "x")
    assert decode_note(body.replace(b"{", b'{"v":2,', 1)) is None
    assert decode_note(b"\xff") is None
