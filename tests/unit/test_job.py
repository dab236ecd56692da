"""Orders and ids on the wire."""

import msgspec
import pytest

from eco2.errors import DecodeError
from eco2.event import Queued, decode_events, encode_event, encode_events, queued
from eco2.job import Job, OrderHead, decode_order, encode_order, id_time, new_id, order_head

JOB = Job(id="j", pipeline="scan", input={"image_url": "x"}, accepted=1.0, deadline=181.0, digest="d")


def test_an_order_survives_the_wire() -> None:
    assert decode_order(encode_order(JOB)) == JOB


def test_unknown_fields_are_ignored() -> None:
    wire = msgspec.json.decode(encode_order(JOB))
    wire["later"] = True
    wire["job"]["later"] = {"a": 1}
    assert decode_order(msgspec.json.encode(wire)) == JOB


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"{}", b'{"v":1}', b'{"v":1,"job":{"id":"j"}}'])
def test_what_is_no_order_is_malformed(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_order(body)


def test_an_order_of_a_newer_version_says_which() -> None:
    with pytest.raises(DecodeError, match="version 2; this program reads 1"):
        decode_order(b'{"v":2,"work":{}}')


def test_the_head_of_an_order_is_read_whatever_its_version() -> None:
    assert order_head(encode_order(JOB)) == OrderHead("j", 1.0)
    assert order_head(b'{"v":2,"job":{"id":"j","accepted":5.0,"later":[1]}}') == OrderHead("j", 5.0)
    assert order_head(b'{"job":{"id":"j"}}') == OrderHead("j")


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"{}", b'{"v":1,"job":{}}', b"[" * 100_000])
def test_what_names_no_job_has_no_head(body: bytes) -> None:
    assert order_head(body) is None


def test_ids_sort_by_time_and_tell_it() -> None:
    early, late = new_id(1_700_000_000.123), new_id(1_700_000_000.124)
    assert early < late
    assert id_time(early) == 1_700_000_000.123


def test_ids_of_one_instant_differ() -> None:
    assert len({new_id(5.0) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    ["", "7", "not-a-uuid", "6f1b5b52-52a5-4e6b-9f0e-3a4f5e6d7c8b", "00000000-03E8-7308-A8FB-7854F0EA253E"],
)
def test_what_is_no_id_of_ours_has_no_time(text: str) -> None:
    assert id_time(text) is None


def test_an_order_of_lists_without_end_is_malformed() -> None:
    for body in (b"[" * 100_000, b'{"v": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        with pytest.raises(DecodeError):
            decode_order(body)


def test_a_job_of_release_01_has_the_time_to_its_deadline_for_both() -> None:
    old = decode_order(
        b'{"job":{"id":"j","pipeline":"p","input":{},"accepted":1.0,"deadline":181.0,"digest":""},"v":1}'
    )
    assert (old.max_wait, old.timeout, old.deadline) == (180.0, 180.0, 181.0)
    assert old.priority == "interactive"


def test_only_the_priority_of_a_batch_is_written() -> None:
    job = Job(id="j", pipeline="p", input={}, accepted=1.0, max_wait=60.0, timeout=180.0, digest="")
    assert b"priority" not in encode_order(job) + encode_event(queued(job))
    batch = msgspec.structs.replace(job, priority="batch")
    assert decode_order(encode_order(batch)) == batch
    [event] = decode_events(encode_events([queued(batch)]))
    assert isinstance(event, Queued)
    assert event.priority == "batch"


def test_release_01_reads_a_deadline_in_which_a_job_may_wait_and_work() -> None:
    job = Job(id="j", pipeline="p", input={}, accepted=1.0, max_wait=60.0, timeout=180.0, digest="")
    assert msgspec.json.decode(encode_order(job))["job"]["deadline"] == 241.0
    assert decode_order(encode_order(job)) == job
    event = queued(job)
    assert (event.deadline, event.max_wait, event.timeout) == (241.0, 60.0, 180.0)
