"""The hub: live text, wake-up signals, and both over an embedded broker in virtual time."""

import asyncio

import msgspec
import pytest

from eco2.broker.embedded import Embedded, Server
from eco2.broker.topology import Topology
from eco2.delta import DELTA_TOPIC, Branches, Delta, encode_deltas
from eco2.event import Done, Queued
from eco2.gateway import hub as hub_module
from eco2.gateway.hub import Hub, LiveTexts, Subscribers
from eco2.gateway.sse import LiveStage, LiveText
from eco2.journal.journal import Journal
from eco2.journal.state import EventId, apply
from eco2.journal.view import View
from eco2.testing.clock import VirtualClock, virtual
from tests.support.gateways import CONFIG, eventually
from tests.unit.gateway.test_sse import state_after


def piece(text: str, pos: int, run: str = "r", stage: str = "answer", job: str = "j") -> Delta:
    return Delta(job, run, stage, pos, text)


def test_pieces_add_up() -> None:
    texts, state = LiveTexts(), state_after(3)
    assert texts.take(piece("ab", 0), state)
    assert texts.take(piece("cd", 2), state)
    assert texts.get("j") == LiveStage("r", "answer", {"": LiveText(1, "abcd")})


def test_position_zero_starts_over_under_a_new_number() -> None:
    texts, state = LiveTexts(), state_after(3)
    texts.take(piece("ab", 0), state)
    texts.take(piece("x", 0), state)
    assert texts.get("j") == LiveStage("r", "answer", {"": LiveText(2, "x")})


@pytest.mark.parametrize("pos", [1, 3])
def test_behind_a_lost_or_doubled_piece_nothing_more_is_taken(pos: int) -> None:
    texts, state = LiveTexts(), state_after(3)
    texts.take(piece("ab", 0), state)
    assert not texts.take(piece("x", pos), state)
    assert texts.get("j") == LiveStage("r", "answer", {"": LiveText(1, "ab")})


def test_a_text_whose_beginning_was_missed_is_not_taken() -> None:
    texts = LiveTexts()
    assert not texts.take(piece("x", 5), state_after(3))
    assert len(texts) == 0


def test_a_void_run_does_not_replace_the_text_of_the_current_one() -> None:
    texts, state = LiveTexts(), state_after(3)
    texts.take(piece("mine", 0), state)
    assert not texts.take(piece("ghost", 0, run="old"), state)
    assert texts.get("j") == LiveStage("r", "answer", {"": LiveText(1, "mine")})


def test_a_piece_that_is_ahead_of_the_tail_is_kept() -> None:
    texts = LiveTexts()
    assert texts.take(piece("x", 0), state_after(1))
    texts.forget(state_after(2))
    texts.forget(state_after(3))
    assert len(texts) == 1


@pytest.mark.parametrize("events", [4, 5])
def test_what_comes_after_the_stage_is_not_taken_and_what_was_there_goes(events: int) -> None:
    texts = LiveTexts()
    texts.take(piece("x", 0), state_after(3))
    texts.forget(state_after(events))
    assert len(texts) == 0
    assert not texts.take(piece("x", 0), state_after(events))


def test_a_job_that_ends_without_its_stage_leaves_nothing() -> None:
    texts, state = LiveTexts(), state_after(3)
    texts.take(piece("x", 0), state)
    ended = apply(state, EventId(900), Done(ts=9.0, job="j", run=None, status="failed", seq=51, result={}))
    assert ended is not None
    texts.forget(ended)
    assert len(texts) == 0


def test_jobs_that_are_unknown_and_more_than_the_limit_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, state = LiveTexts(), state_after(3)
    assert not texts.take(piece("x", 0), None)
    monkeypatch.setattr(hub_module, "MAX_TEXTS", 2)
    for job in "abc":
        texts.take(piece("x", 0, job=job), state)
    assert [texts.get(job) is not None for job in "abc"] == [False, True, True]


def test_texts_of_several_calls_grow_side_by_side_and_one_starts_over_alone() -> None:
    texts, state = LiveTexts(), state_after(3)
    for text, pos, call in (("ab", 0, ""), ("x", 0, "k"), ("cd", 2, ""), ("y", 1, "k"), ("z", 0, "k")):
        assert texts.take(Delta("j", "r", "answer", pos, text, call), state)
    assert not texts.take(Delta("j", "r", "answer", 4, "of another call", "unknown"), state)
    assert texts["j"].texts == {"": LiveText(1, "abcd"), "k": LiveText(3, "z")}


def test_the_newest_count_of_branches_stands_beside_the_texts_until_another_run_has_the_job() -> None:
    texts, state = LiveTexts(), state_after(3)
    assert texts.take(Branches("j", "r", "answer", 0, 9), state)
    assert texts.take(piece("ab", 0), state)
    assert texts.take(Branches("j", "r", "answer", 3, 9), state)
    assert texts["j"] == LiveStage("r", "answer", {"": LiveText(1, "ab")}, (3, 9))
    assert not texts.take(Branches("j", "old", "answer", 8, 9), state)
    again = msgspec.structs.replace(state, run="r2")
    assert texts.take(Branches("j", "r2", "answer", 1, 9), again)
    assert texts["j"] == LiveStage("r2", "answer", {}, (1, 9))


def test_texts_are_bounded_over_all_jobs_and_those_of_ended_stages_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts, state = LiveTexts(), state_after(3)
    monkeypatch.setattr(hub_module, "MAX_TEXTS", 3)
    for job, call in (("a", ""), ("j", "k"), ("j", "l"), ("j", "k")):
        texts.take(Delta(job, "r", "answer", 0, "x", call), state)
    assert set(texts) == {"a", "j"}
    texts.forget(state_after(4))
    assert set(texts) == {"a"}
    for job in "bcd":
        texts.take(piece("x", 0, job=job), state)
    assert set(texts) == {"b", "c", "d"}
    texts.clear()
    for job in "efg":
        texts.take(piece("x", 0, job=job), state)
    assert set(texts) == {"e", "f", "g"}


def test_subscribers_are_woken_by_job_or_all_and_forgotten_when_they_leave() -> None:
    subscribers = Subscribers()
    with (
        subscribers.subscribe("a") as one,
        subscribers.subscribe("a") as two,
        subscribers.subscribe("b") as other,
    ):
        assert len(subscribers) == 3
        subscribers.wake("a")
        subscribers.wake("nobody's")
        assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)
        subscribers.wake_all()
        assert other.is_set()
    assert len(subscribers) == 0


@virtual
async def test_subscribers_are_woken_by_events_text_and_stop_and_ended_jobs_leave_no_text() -> None:
    broker = Embedded(Topology(), Server(clock=VirtualClock.now))
    journal = Journal(broker, View(900.0, VirtualClock.now))
    stop, stop_journal, stop_broker = asyncio.Event(), asyncio.Event(), asyncio.Event()
    hub = Hub(journal, stop, CONFIG)
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run(stop_broker))
        journaling = group.create_task(journal.run(stop_journal))
        await journal.filled.wait()
        with hub.subscribers.subscribe("j") as changed:
            async with hub.running(broker):
                await eventually(lambda: broker.ready)
                journal.put(Queued(ts=VirtualClock.now(), job="j", pipeline="echo", deadline=9.0, digest=""))
                await changed.wait()
                changed.clear()
                broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 0, "text")]))
                await changed.wait()
                changed.clear()
                assert len(hub.texts) == 1
                broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 99, "of no use")]))
                broker.broadcast(DELTA_TOPIC, b"not a message of ours")
                done = Done(ts=9.0, job="j", run=None, status="failed", seq=51, result={})
                await journal.put(done)
                await changed.wait()
                changed.clear()
                assert len(hub.texts) == 0
                stop.set()
                await changed.wait()
                changed.clear()
            broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 0, "after the end")]))
            assert broker.ready
        assert len(hub.subscribers) == 0
        stop_journal.set()
        await journaling
        stop_broker.set()
