"""The store of live text, and the wake-up signals."""

import pytest

from eco2.delta import Delta
from eco2.event import Done
from eco2.gateway import live as live_module
from eco2.gateway.followers import Followers
from eco2.gateway.live import Live, LiveText
from eco2.journal.state import EventId, apply
from tests.unit.gateway.test_sse import state_after


def piece(text: str, pos: int, run: str = "r", stage: str = "answer", job: str = "j") -> Delta:
    return Delta(job, run, stage, pos, text)


def test_pieces_add_up() -> None:
    texts, state = LiveText(), state_after(3)
    assert texts.take(piece("ab", 0), state)
    assert texts.take(piece("cd", 2), state)
    assert texts.get("j") == Live(1, "r", "answer", "abcd")


def test_position_zero_starts_over_under_a_new_number() -> None:
    texts, state = LiveText(), state_after(3)
    texts.take(piece("ab", 0), state)
    texts.take(piece("x", 0), state)
    assert texts.get("j") == Live(2, "r", "answer", "x")


@pytest.mark.parametrize("pos", [1, 3])
def test_behind_a_lost_or_doubled_piece_nothing_more_is_taken(pos: int) -> None:
    texts, state = LiveText(), state_after(3)
    texts.take(piece("ab", 0), state)
    assert not texts.take(piece("x", pos), state)
    assert texts.get("j") == Live(1, "r", "answer", "ab")


def test_a_text_whose_beginning_was_missed_is_not_taken() -> None:
    texts = LiveText()
    assert not texts.take(piece("x", 5), state_after(3))
    assert len(texts) == 0


def test_a_void_run_does_not_replace_the_text_of_the_current_one() -> None:
    texts, state = LiveText(), state_after(3)
    texts.take(piece("mine", 0), state)
    assert not texts.take(piece("ghost", 0, run="old"), state)
    assert texts.get("j") == Live(1, "r", "answer", "mine")


def test_a_piece_that_is_ahead_of_the_tail_is_kept() -> None:
    texts = LiveText()
    assert texts.take(piece("x", 0), state_after(1))
    texts.forget(state_after(2))
    texts.forget(state_after(3))
    assert len(texts) == 1


@pytest.mark.parametrize("events", [4, 5])
def test_what_comes_after_the_stage_is_not_taken_and_what_was_there_goes(events: int) -> None:
    texts = LiveText()
    texts.take(piece("x", 0), state_after(3))
    texts.forget(state_after(events))
    assert len(texts) == 0
    assert not texts.take(piece("x", 0), state_after(events))


def test_a_job_that_ends_without_its_stage_leaves_nothing() -> None:
    texts, state = LiveText(), state_after(3)
    texts.take(piece("x", 0), state)
    ended = apply(state, EventId(900), Done(ts=9.0, job="j", run=None, status="failed", seq=51, result={}))
    assert ended is not None
    texts.forget(ended)
    assert len(texts) == 0


def test_jobs_that_are_unknown_and_more_than_the_limit_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, state = LiveText(), state_after(3)
    assert not texts.take(piece("x", 0), None)
    monkeypatch.setattr(live_module, "MOST_TEXTS", 2)
    for job in "abc":
        texts.take(piece("x", 0, job=job), state)
    assert [texts.get(job) is not None for job in "abc"] == [False, True, True]


def test_followers_are_woken_by_job_or_all_and_forgotten_when_they_leave() -> None:
    followers = Followers()
    with followers.follow("a") as one, followers.follow("a") as two, followers.follow("b") as other:
        assert len(followers) == 3
        followers.wake("a")
        followers.wake("nobody's")
        assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)
        followers.wake_all()
        assert other.is_set()
    assert len(followers) == 0
