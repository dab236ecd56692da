"""Events on the wire, and what readers make of newer and broken ones."""

import json
from contextlib import suppress
from decimal import Decimal

import msgspec
import pytest

from eco2.errors import DecodeError
from eco2.event import (
    CallCompleted,
    CallCounted,
    CallReleased,
    CallRequested,
    CallsGranted,
    CallThrottled,
    Done,
    EpochOpened,
    Event,
    GrantedCall,
    Header,
    Leads,
    LimitsNamed,
    Marker,
    Queued,
    Released,
    RunStarted,
    StageChanged,
    StepCompleted,
    Superseded,
    WriterAbsent,
    amount,
    decode_events,
    decode_message,
    encode_batch,
    encode_event,
    encode_events,
)

EVENTS: list[Event] = [
    Queued(ts=1.0, job="a", pipeline="scan", deadline=181.0, digest="d", owner="o", key="k", model="m"),
    Queued(ts=1.0, job="a", pipeline="scan", digest="d", max_usd=0.05),
    Superseded(ts=1.0, job="b", by="a"),
    RunStarted(ts=1.0, job="a", run="r", attempt=1, worker="w"),
    Released(ts=1.0, job="a", run="r", reason="drain"),
    StageChanged(ts=1.0, job="a", run="r", stage="s", status="started", seq=10, progress=0),
    CallCompleted(
        ts=1.0, job="a", run="r", stage="s", key="call/k/0", digest="d", reply={"value": [1, None]}
    ),
    StepCompleted(ts=1.0, job="a", run="r", stage="s", key="step/n/0", value={"x": [1, None]}),
    Done(ts=1.0, job="a", run=None, status="failed", seq=51, result={"status": "failed"}),
    Marker(ts=1.0, id="m"),
    CallRequested(budget="openai", id="w.1", job="a", run="r", kind="vision", tokens=900.5, offset=7),
    CallRequested(budget="openai", id="w.2", job="a", run="r", kind="", tokens=0.0, started=True),
    CallReleased(budget="openai", id="w.1"),
    CallCounted(budget="openai", id="w.1", tokens=812.0),
    CallThrottled(budget="openai", id="w.1", retry_after=2.5),
    CallThrottled(budget="openai", id="w.1"),
    LimitsNamed(budget="openai", requests=500.0, given=True),
    EpochOpened(budget="openai"),
    EpochOpened(budget="openai", silence=1.5),
    CallsGranted(budget="openai", epoch=1, at=5.5, calls=(GrantedCall("w.1", 5.7, 900.5),)),
    Leads(budget="openai", epoch=1),
    WriterAbsent(budget="openai", epoch=1, writer="w"),
]


def test_every_kind_survives_the_wire_in_order() -> None:
    assert decode_events(encode_events(EVENTS)) == EVENTS


def test_a_header_survives_the_wire_and_may_be_missing() -> None:
    header = Header("w", 3, 5.25, -1)
    body = encode_batch([encode_event(EVENTS[0])], header)
    assert msgspec.json.decode(body)["h"] == {"w": "w", "n": 3, "m": 5.25, "seen": -1}
    assert decode_message(body) == (header, [EVENTS[0]])
    assert decode_message(encode_events(EVENTS[:1])) == (None, [EVENTS[0]])


def test_a_header_outlives_a_newer_kind_beside_it() -> None:
    header = Header("w", 3, 5.25, -1)
    batch = msgspec.json.decode(encode_batch([encode_event(EVENTS[0])], header))
    batch["events"].insert(0, {"type": "from the future"})
    assert decode_message(msgspec.json.encode(batch)) == (header, [None, EVENTS[0]])


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": -1}, {"m": 1e300}, {"seen": -2}, {"seen": 10**30}, {"w": 1}]
)
def test_a_message_whose_header_is_beyond_its_bounds_is_malformed(wrong: dict[str, object]) -> None:
    """Its records cannot be folded: it may be a copy, and its writer's clock is unknown."""
    batch = msgspec.json.decode(encode_batch([encode_event(EVENTS[0])], Header("w", 3, 5.25, -1)))
    batch["h"] |= wrong
    with pytest.raises(DecodeError):
        decode_message(msgspec.json.encode(batch))


def test_a_newer_kind_leaves_a_gap_so_that_places_hold() -> None:
    batch = msgspec.json.decode(encode_events([EVENTS[0], EVENTS[7]]))
    batch["events"].insert(1, {"type": "from the future", "ts": 2.0})
    assert decode_events(msgspec.json.encode(batch)) == [EVENTS[0], None, EVENTS[7]]


def test_unknown_fields_are_ignored() -> None:
    batch = msgspec.json.decode(encode_events([EVENTS[2]]))
    batch["events"][0]["later"] = 1
    assert decode_events(msgspec.json.encode(batch)) == [EVENTS[2]]


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"v":2,"events":[]}', b'{"v":"1"}'])
def test_what_is_no_batch_of_ours_is_malformed(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_events(body)


def queued_as(pipeline: str = "p", deadline: float = 2) -> dict[str, object]:
    return {"type": "queued", "ts": 1, "job": "j", "pipeline": pipeline, "deadline": deadline, "digest": ""}


def run(attempt: int) -> dict[str, object]:
    return {"type": "run", "ts": 1, "job": "j", "run": "r", "attempt": attempt, "worker": "w"}


def stage(name: str = "s", seq: object = 1, progress: int = 0) -> dict[str, object]:
    known = {"type": "stage", "ts": 1, "job": "j", "run": "r", "status": "started"}
    return {**known, "stage": name, "seq": seq, "progress": progress}


def of_budget(kind: str, **fields: object) -> dict[str, object]:
    return {"type": kind, "budget": "b", "id": "c", "job": "j", "run": "r", "kind": "", **fields}


def granted(**fields: object) -> dict[str, object]:
    known = {"epoch": 1, "at": 1.0, "calls": [{"id": "c", "by": 1.0, "tokens": 1.0}]}
    return of_budget("granted", **{**known, **fields})


NAMES = ("", "a\n", "a\r\nevent: done", "a\u2028b", "a\0", "\x1b[2J", "a\x85b", "x" * 1000)
BEYOND: list[dict[str, object]] = [
    {"type": "marker", "ts": 1e308, "id": "m"},
    {"type": "marker", "ts": -1e18, "id": "m"},
    {"type": "marker", "ts": "NaN", "id": "m"},
    queued_as(deadline=1e300),
    {**queued_as(), "max_usd": 0},
    {**queued_as(), "max_usd": 1e7},
    queued_as(pipeline="p\nq"),
    run(0),
    run(10**30),
    *(stage(name) for name in NAMES),
    *(stage(seq=seq) for seq in (-1, 10**30, "1e9")),
    *(stage(progress=progress) for progress in (-1, 101)),
    *(
        of_budget(kind, tokens=tokens)
        for kind in ("call_requested", "call_counted")
        for tokens in (-1, 1e300)
    ),
    *(of_budget("call_requested", tokens=1, offset=offset) for offset in (-2, 10**30)),
    *(of_budget("limits", requests=requests) for requests in (0, -1, 1e300)),
    *(of_budget("limits", tokens=tokens) for tokens in (0, -1, 1e300)),
    *(granted(epoch=epoch) for epoch in (-2, 10**30)),
    granted(at=1e300),
    granted(calls=[{"id": "c", "by": 1e300, "tokens": 1}]),
    granted(calls=[{"id": "c", "by": 1, "tokens": -1}]),
    of_budget("leads", epoch=-2),
    of_budget("absent", epoch=10**30, writer="w"),
]


@pytest.mark.parametrize("event", BEYOND, ids=lambda event: ascii(event)[:80])
def test_an_event_beyond_its_bounds_is_skipped_and_its_neighbours_are_read(event: dict[str, object]) -> None:
    marker = {"type": "marker", "ts": 1, "id": "m"}
    body = json.dumps({"v": 1, "events": [marker, event, marker]}).encode()
    assert [event is None for event in decode_events(body)] == [False, True, False]


@pytest.mark.parametrize("depth", [2_000, 1_000_000])
def test_lists_in_lists_without_end_do_no_harm(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    with pytest.raises(DecodeError):
        decode_events(deep)
    # From Python 3.14 on some depths can be read: then that event alone is skipped.
    for inside in (deep, b'{"type": "marker", "ts": 1, "id": "m", "x": ' + deep + b"}"):
        with suppress(DecodeError):
            assert len(decode_events(b'{"v": 1, "events": [' + inside + b"]}")) == 1


def test_amounts_are_exact_and_bounded() -> None:
    assert amount("0.000000001") == Decimal("0.000000001")
    assert amount("1000000") == Decimal(1_000_000)
    assert amount("0E-10") == 0
    for wrong in ("1e7", "-0.1", "NaN", "sNaN", "inf", "", "1" * 200, "1e-9999", 1.5, None, "one"):
        assert amount(wrong) is None
