"""The harness's own parts: the sieve of frames, the registry, the report."""

import json

import pytest

from tests.fault.budget import used_late
from tests.fault.recorder import BudgetRecord
from tests.fault.registry import FAULTS, named
from tests.fault.report import Result, as_json, markdown, table
from tests.fault.verdict import Verdict
from tests.fault.wire import OrderFrames, OrderWire

QUEUE = b"p.jobs.scan"


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes([kind]) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


def publish(channel: int, queue: bytes) -> bytes:
    method = b"\x00\x3c\x00\x28" + b"\x00\x00" + b"\x00" + bytes([len(queue)]) + queue + b"\x01"
    return frame(1, channel, method) + frame(2, channel, b"header") + frame(3, channel, b"body")


def sieve(queue: bytes | None) -> tuple[OrderWire, OrderFrames]:
    wire = OrderWire("amqp://127.0.0.1:1/")
    wire.queue = queue
    return wire, OrderFrames(wire)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_channel_is_deaf_from_the_first_order_on(size: int) -> None:
    wire, through = sieve(QUEUE)
    events, order = publish(1, b"p.events"), publish(2, QUEUE)
    declare = frame(1, 2, b"\x00\x32\x00\x0a\x00\x00" + bytes([len(QUEUE)]) + QUEUE)
    sent = b"AMQP\x00\x00\x09\x01" + declare + events + order + publish(2, b"p.other") + events
    passed = b"".join(through(sent[at : at + size]) for at in range(0, len(sent), size))
    assert passed == b"AMQP\x00\x00\x09\x01" + declare + events + events
    assert wire.kept_back.is_set()


def test_nothing_is_kept_back_before_it_is_told_to() -> None:
    wire, through = sieve(None)
    assert through(publish(2, QUEUE)) == publish(2, QUEUE)
    assert not wire.kept_back.is_set()


def granted(epoch: int, *names: str) -> BudgetRecord:
    calls = [{"id": name, "by": 1.0, "tokens": 1.0} for name in names]
    return BudgetRecord.read(0.0, {"type": "granted", "budget": "b", "epoch": epoch, "calls": calls})


def test_a_grant_behind_a_later_epoch_must_not_be_used() -> None:
    counted = [
        BudgetRecord.read(0.0, {"type": "call_counted", "budget": "b", "id": name, "tokens": 1.0})
        for name in ("a", "b", "c")
    ]
    leads = BudgetRecord.read(0.0, {"type": "leads", "budget": "b", "epoch": 7})
    records = [granted(3, "a"), leads, granted(3, "b", "c", "d"), granted(7, "b"), *counted]
    assert used_late(records) == ({"b", "c", "d"}, {"c"})
    assert used_late([granted(3, "a"), granted(7, "b"), *counted]) == (set(), set())


def test_faults_are_found_by_name() -> None:
    assert named([]) == FAULTS
    assert [fault.name for fault in named(["half-open", "worker-kill9"])] == ["worker-kill9", "half-open"]
    with pytest.raises(KeyError):
        named(["no such fault"])
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_report_says_what_was_not_kept() -> None:
    kept = Verdict(100, 98, 2, 0, 0, 0, 1.25, ())
    broken = Verdict(100, 98, 1, 1, 3, 2, None, ("1 accepted jobs without an end (x)",))
    results = [
        Result(FAULTS[0], kept, 20.0),
        Result(FAULTS[1], broken, 30.0),
        Result(FAULTS[2], None, 1.0, "NodeFailed: no port"),
    ]
    assert [result.kept for result in results] == [True, False, False]
    said = table(results)
    assert f"✗ {FAULTS[1].name}: 1 accepted jobs without an end (x)" in said
    assert f"✗ {FAULTS[2].name}: NodeFailed: no port" in said
    assert f"✗ {FAULTS[0].name}:" not in said
    page = markdown(results, {"commit": "abc"})
    assert "| 1.2 |" in page
    assert "- Kept: 1 of 3" in page
    assert FAULTS[0].how in page
    entries = json.loads(as_json(results, {"commit": "abc"}))
    assert [entry["kept"] for entry in entries["results"]] == [True, False, False]
