"""Events on the wire, and what readers make of newer and broken ones."""

import msgspec
import pytest

from eco2.errors import Malformed
from eco2.event import (
    CallCompleted,
    Done,
    Event,
    Large,
    Marker,
    Queued,
    Released,
    RunStarted,
    Spent,
    StageChanged,
    StepCompleted,
    Superseded,
    decode_events,
    encode_events,
)

EVENTS: list[Event] = [
    Queued(ts=1.0, job="a", pipeline="scan", deadline=181.0, digest="d", owner="o", key="k", model="m"),
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
    Spent(ts=1.0, day="2026-11-26", usd="0.0029", upto=7),
    Large(ts=1.0, budget="openai", tokens=40_000.0),
]


def test_every_kind_survives_the_wire_in_order() -> None:
    assert decode_events(encode_events(EVENTS)) == EVENTS


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
    with pytest.raises(Malformed):
        decode_events(body)
