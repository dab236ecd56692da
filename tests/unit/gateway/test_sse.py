"""Framing, the resume point and what a connection sees next, as the pure functions that they are."""

import msgspec
import pytest

from eco2.event import Done, JobEvent, Queued, Released, RunStarted, StageChanged, Status
from eco2.gateway.sse import (
    COMMENT,
    Cursor,
    LiveStage,
    LiveText,
    advance,
    complete,
    delta_frame,
    done_message,
    frame,
    last_event_id,
    may_be_ahead,
    opening,
    resume,
    retry_line,
)
from eco2.job import JSON
from eco2.journal.state import EventId, JobState, VisibleEvent, apply, truncated_state


def stage(seq: int, status: str, output: JSON | None = None) -> StageChanged:
    return msgspec.convert(
        {
            "type": "stage",
            "ts": float(seq),
            "job": "j",
            "run": "r",
            "stage": "answer",
            "status": status,
            "seq": seq,
            "progress": 0,
            "output": output,
        },
        StageChanged,
    )


QUEUED = Queued(ts=1.0, job="j", pipeline="echo", deadline=9.0, digest="")
RUN = RunStarted(ts=2.0, job="j", run="r", attempt=1, worker="w")
DONE = Done(ts=5.0, job="j", run="r", status="completed", seq=51, result={"reward": None})
EVENTS = (QUEUED, RUN, stage(20, "started"), stage(21, "completed", {"said": "yes"}), DONE)


def state_after(count: int) -> JobState:
    """The job after its first `count` events, at the offsets 100, 110, … 140."""
    state: JobState | None = None
    for index, event in enumerate(EVENTS[:count]):
        state = apply(state, EventId(100 + 10 * index), event)
    assert state is not None
    return state


def test_the_opening_is_a_comment_and_the_pause_in_whole_milliseconds() -> None:
    assert opening(2.0) == b": eco2\nretry: 2000\n"
    assert retry_line(0.25) == b"retry: 250\n"
    assert COMMENT == b":\n"


def test_a_frame_has_event_and_one_line_of_data_and_the_id_last() -> None:
    shown = VisibleEvent(EventId(7, 2), "answer", "completed", 21, 3.5, 75, {"text": "두\n줄"})
    lines = frame("j", shown).decode().split("\n")
    assert [lines[0], *lines[2:]] == ["event: answer", "id: 7.2", "", ""]
    assert msgspec.json.decode(lines[1].removeprefix("data: ")) == {
        "job_id": "j",
        "stage": "answer",
        "status": "completed",
        "seq": 21,
        "ts": 3.5,
        "progress": 75,
        "result": {"text": "두\n줄"},
    }


def test_a_frame_without_result_has_no_such_member() -> None:
    assert b"result" not in frame("j", state_after(1).visible_events[0])


def test_live_text_has_no_id() -> None:
    assert delta_frame("answer", "물\n") == 'event: answer.delta\ndata: {"text":"물\\n"}\n\n'.encode()


@pytest.mark.parametrize(
    ("last", "seen"),
    [
        (None, None),
        ("", None),
        ("100", 100),
        ("120", 120),
        ("130", 130),
        ("130.0", 130),
        ("140", 140),
        ("130.1", None),
        ("110", None),
        ("131", None),
        ("999", None),
        ("x", None),
        ("１００", None),
        ("1" * 5000, None),
    ],
)
def test_resuming_starts_behind_the_event_or_from_the_start(last: str | None, seen: int | None) -> None:
    asked = last_event_id({} if last is None else {"last-event-id": last}, {})
    assert resume(state_after(5), asked) == Cursor(None if seen is None else EventId(seen))


def test_only_what_follows_is_shown_and_only_once() -> None:
    chunk, cursor = advance(state_after(3), None, Cursor(EventId(100)), now=0.0)
    assert chunk.endswith(b"\nid: 120\n\n")
    assert chunk.count(b"id: ") == 1
    assert advance(state_after(3), None, cursor, now=0.0) == (b"", cursor)
    chunk, cursor = advance(state_after(5), None, cursor, now=0.0)
    assert (chunk.count(b"id: "), cursor.seen) == (2, EventId(140))


def put_off(state: JobState, attempt: int, since: float) -> JobState:
    """The job after its run failed, and after one more run that failed, too, where `attempt` is 2."""
    events: list[JobEvent] = []
    for number in range(state.attempt + state.released, attempt + 1):
        run = f"r{number}" if number > 1 else "r"
        events += [RunStarted(ts=since, job="j", run=run, attempt=number, worker="w")]
        events += [Released(ts=since, job="j", run=run, reason="", retry=True, stage="answer", delay=30)]
    for number, event in enumerate(events):
        after = apply(state, EventId(200 + attempt * 10 + number), event)
        assert after is not None
        state = after
    return state


def test_a_stage_that_is_put_off_is_told_once_to_each_connection_without_an_id() -> None:
    state = put_off(state_after(3), 1, since=100.0)
    chunk, cursor = advance(state, None, Cursor(EventId(120)), now=104.5)
    assert chunk == (
        b'event: retrying\ndata: {"job_id":"j","stage":"answer","attempt":2,"eta_seconds":26}\n\n'
    )
    assert advance(state, None, cursor, now=105.0) == (b"", cursor)
    late, _ = advance(state, None, Cursor(), now=104.5)
    assert late.endswith(chunk)
    again = put_off(state, 2, since=130.0)
    chunk, cursor = advance(again, None, cursor, now=130.0)
    assert b'"attempt":3,"eta_seconds":30}' in chunk
    assert advance(again, None, cursor, now=131.0) == (b"", cursor)


@pytest.mark.parametrize(("now", "eta"), [(0.0, 30), (100.0, 30), (129.1, 1), (130.0, 0), (999.0, 0)])
def test_the_time_until_the_next_try_is_possible_whatever_the_clocks_say(now: float, eta: int) -> None:
    chunk, _ = advance(put_off(state_after(3), 1, since=100.0), None, Cursor(EventId(120)), now=now)
    assert b'"eta_seconds":%d}' % eta in chunk


def test_nothing_is_said_of_a_try_that_has_begun_or_a_job_that_was_given_back() -> None:
    waiting = put_off(state_after(3), 1, since=100.0)
    tried = apply(waiting, EventId(300), RunStarted(ts=130.0, job="j", run="r2", attempt=2, worker="w"))
    drained = apply(state_after(3), EventId(300), Released(ts=100.0, job="j", run="r", reason="drain"))
    for state in (tried, drained):
        assert state is not None
        assert advance(state, None, Cursor(EventId(120)), now=101.0)[0] == b""


def test_what_stands_for_lost_events_is_shown_once_and_what_follows_it() -> None:
    start = truncated_state("j", 0.0, EventId(120), EVENTS[2])
    assert start is not None
    state = apply(start, EventId(120), EVENTS[2])
    assert state is not None
    chunk, cursor = advance(start, None, resume(start, None), now=0.0)
    assert chunk.startswith(b"event: truncated\n")
    chunk, cursor = advance(state, None, cursor, now=0.0)
    assert chunk.startswith(b"event: answer\n")
    assert advance(state, None, cursor, now=0.0) == (b"", cursor)


@pytest.mark.parametrize("status", ["failed", "cancelled", "completed"])
@pytest.mark.parametrize("with_message", [True, False])
def test_only_a_done_that_did_not_complete_is_followed_by_a_message(
    status: Status, with_message: bool
) -> None:
    ended = apply(state_after(4), EventId(140), msgspec.structs.replace(DONE, status=status))
    assert ended is not None
    chunk, cursor = advance(ended, None, Cursor(), with_message=with_message, now=0.0)
    follows = with_message and status != "completed"
    assert chunk.endswith(done_message("j")) == follows
    assert chunk.count(b'"stage":"done"') == 1 + follows
    assert advance(ended, None, cursor, with_message=with_message, now=0.0) == (b"", cursor)


def test_the_message_has_neither_name_nor_id_and_reports_the_end() -> None:
    (line,) = done_message("j").decode().removesuffix("\n\n").split("\n")
    data = msgspec.json.decode(line.removeprefix("data: "))
    assert data == {"job_id": "j", "stage": "done", "status": "completed", "progress": 100}


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, {}, None),
        ({"last-event-id": ""}, {"last_event_id": ""}, None),
        ({}, {"last_event_id": "1"}, "1"),
        ({}, {"lastEventId": "2"}, "2"),
        ({}, {"last_event_id": "1", "lastEventId": "2"}, "2"),
        ({"last-event-id": "3"}, {"last_event_id": "1", "lastEventId": "2"}, "3"),
        ({"last-event-id": ""}, {"last_event_id": "1"}, "1"),
    ],
)
def test_the_id_that_a_client_adds_is_newer_than_the_one_in_its_url(
    headers: dict[str, str], query: dict[str, str], expected: str | None
) -> None:
    assert last_event_id(headers, query) == (EventId.parse(expected) if expected else None)


def test_complete_only_when_the_job_has_ended_and_all_was_shown() -> None:
    assert not complete(state_after(4), Cursor(EventId(130)))
    assert not complete(state_after(5), Cursor(EventId(130)))
    assert complete(state_after(5), Cursor(EventId(140)))


def test_an_id_beyond_what_is_known_may_be_ahead_unless_the_job_has_ended() -> None:
    assert may_be_ahead(state_after(3), EventId(130))
    assert not may_be_ahead(state_after(3), EventId(120))
    assert not may_be_ahead(state_after(3), None)
    assert not may_be_ahead(state_after(5), EventId(150))


def writing(number: int, text: str, run: str = "r", stage: str = "answer") -> LiveStage:
    """A stage of whose first call so much text has come."""
    return LiveStage(run, stage, {"": LiveText(number, text)})


def test_a_late_connection_gets_the_text_so_far_and_then_what_is_new() -> None:
    chunk, cursor = advance(state_after(3), writing(1, "abc"), Cursor(), now=0.0)
    assert chunk.endswith(delta_frame("answer", "abc"))
    chunk, cursor = advance(state_after(3), writing(1, "abcde"), cursor, now=0.0)
    assert chunk == delta_frame("answer", "de")
    assert advance(state_after(3), writing(1, "abcde"), cursor, now=0.0) == (b"", cursor)


def test_a_text_that_starts_over_is_shown_from_its_start() -> None:
    _, cursor = advance(state_after(3), writing(1, "abc"), Cursor(), now=0.0)
    chunk, _ = advance(state_after(3), writing(2, "abxy"), cursor, now=0.0)
    assert chunk == b"event: answer.reset\ndata: {}\n\n" + delta_frame("answer", "abxy")


def test_texts_of_several_calls_are_named_and_one_that_starts_over_says_which() -> None:
    state, first = state_after(3), LiveText(1, "ab")
    live = LiveStage("r", "answer", {"": first, "k": LiveText(2, "xy")})
    chunk, cursor = advance(state, live, Cursor(state.visible_events[-1].id), now=0.0)
    assert chunk == (
        b'event: answer.delta\ndata: {"text":"ab"}\n\nevent: answer.delta\ndata: {"text":"xy","call":"k"}\n\n'
    )
    live = LiveStage("r", "answer", {"": first, "k": LiveText(3, "")})
    assert advance(state, live, cursor, now=0.0)[0] == b""  # nothing to show in its place yet
    live = LiveStage("r", "answer", {"": first, "k": LiveText(3, "xz")})
    chunk, cursor = advance(state, live, cursor, now=0.0)
    assert chunk == (
        b'event: answer.reset\ndata: {"call":"k"}\n\nevent: answer.delta\ndata: {"text":"xz","call":"k"}\n\n'
    )
    assert advance(state, live, cursor, now=0.0) == (b"", cursor)


def test_a_text_of_the_next_stage_begins_without_a_reset() -> None:
    cursor = Cursor(state_after(3).visible_events[-1].id, "vision", {"": (1, 5)}, (9, 9))
    live = LiveStage("r", "answer", {"": LiveText(2, "a")}, (9, 9))
    chunk, _ = advance(state_after(3), live, cursor, now=0.0)
    assert chunk == (
        b'event: answer.delta\ndata: {"text":"a"}\n\nevent: answer.progress\ndata: {"done":9,"total":9}\n\n'
    )


def test_branches_are_counted_once_per_change() -> None:
    state, live = state_after(3), LiveStage("r", "answer", {}, (3, 200))
    chunk, cursor = advance(state, live, Cursor(state.visible_events[-1].id), now=0.0)
    assert chunk == b'event: answer.progress\ndata: {"done":3,"total":200}\n\n'
    assert advance(state, live, cursor, now=0.0) == (b"", cursor)


@pytest.mark.parametrize(
    ("events", "live"),
    [
        (2, writing(1, "x")),
        (4, writing(1, "x")),
        (5, writing(1, "x")),
        (3, writing(1, "x", run="old")),
        (3, writing(1, "x", stage="vision")),
    ],
    ids=["not started", "completed", "done", "void run", "another stage"],
)
def test_text_outside_of_its_stage_is_not_shown(events: int, live: LiveStage) -> None:
    chunk, _ = advance(state_after(events), live, Cursor(), now=0.0)
    assert b"delta" not in chunk
