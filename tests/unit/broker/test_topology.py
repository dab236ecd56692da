"""The topology as a value: names, arguments, the table for people, and the broker's refusals in words."""

import math
from dataclasses import replace
from typing import Any

import pytest

from eco2 import brokers
from eco2.broker.topic import matches
from eco2.broker.topology import Exchange, Queue, Topology, difference, missing, show
from eco2.pipeline import NEVER, Retry
from eco2.ports import DELAYS, delay_queue, retry_queue
from eco2.settings import Settings
from eco2.stages import scan

TOPOLOGY = Topology("eco2", pipelines=("scan",), retention_hours=48)


def queue(name: str) -> Queue:
    (found,) = [each for each in TOPOLOGY.entities if each.name == name]
    assert isinstance(found, Queue)
    return found


def test_it_names_everything_under_its_prefix() -> None:
    names = [entity.name for entity in TOPOLOGY.entities]
    assert sorted(names) == [
        "eco2.dead",
        "eco2.events",
        "eco2.inputs",
        "eco2.jobs.scan",
        "eco2.jobs.scan.batch",
        "eco2.jobs.scan.batch.first",
        "eco2.jobs.scan.batch.wait-120s",
        "eco2.jobs.scan.batch.wait-30s",
        "eco2.jobs.scan.batch.wait-5s",
        "eco2.jobs.scan.first",
        "eco2.jobs.scan.wait-120s",
        "eco2.jobs.scan.wait-30s",
        "eco2.jobs.scan.wait-5s",
        "eco2.live",
        "eco2.snapshots",
    ]
    assert TOPOLOGY.queue("jobs.scan") == "eco2.jobs.scan"
    assert (TOPOLOGY.stream, TOPOLOGY.inputs, TOPOLOGY.live) == ("eco2.events", "eco2.inputs", "eco2.live")


@pytest.mark.parametrize(
    "name", ["eco2.jobs.scan", "eco2.jobs.scan.first", "eco2.jobs.scan.batch", "eco2.jobs.scan.batch.first"]
)
def test_a_work_queue_keeps_what_it_gives_up(name: str) -> None:
    arguments = queue(name).arguments
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-dead-letter-routing-key"] == "eco2.dead"
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"  # at-least-once needs it
    assert int(arguments["x-delivery-limit"]) > 100  # far above the engine's own attempts


def test_dead_letters_may_be_looked_at_as_often_as_anybody_likes() -> None:
    limit = int(queue("eco2.dead").arguments["x-delivery-limit"])
    assert limit > 1_000_000_000  # each look counts; neither none nor -1 is without a limit on all versions


@pytest.mark.parametrize("delay", DELAYS)
def test_what_waits_goes_first_when_its_time_has_come_and_cannot_get_lost(delay: int) -> None:
    batch = queue(TOPOLOGY.queue(delay_queue("scan", delay, "batch"))).arguments
    assert batch["x-dead-letter-routing-key"] == queue(TOPOLOGY.queue(retry_queue("scan", "batch"))).name
    arguments = queue(TOPOLOGY.queue(delay_queue("scan", delay))).arguments
    assert batch == {**arguments, "x-dead-letter-routing-key": batch["x-dead-letter-routing-key"]}
    assert arguments["x-message-ttl"] == delay * 1000
    assert arguments["x-dead-letter-exchange"] == ""
    assert arguments["x-dead-letter-routing-key"] == queue(TOPOLOGY.queue(retry_queue("scan"))).name
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"
    assert int(arguments["x-delivery-limit"]) > 100


def test_the_queue_that_a_message_moves_to_is_made_before_the_one_that_it_leaves() -> None:
    seen: set[str] = set()
    for entity in TOPOLOGY.entities:
        seen.add(entity.name)
        if isinstance(entity, Queue):
            assert entity.arguments.get("x-dead-letter-routing-key") in {None, *seen}


@pytest.mark.parametrize(("max_wait", "hours"), [(180, 1), (3265, 1), (3266, 2), (86_400, 25)])
def test_inputs_are_kept_for_as_long_as_a_job_may_live(max_wait: float, hours: int) -> None:
    settings = Settings(max_wait=max_wait)
    pipeline = replace(scan, max_wait=max_wait)
    for needed in (brokers.topology(settings, ()), brokers.topology(Settings(), (pipeline,))):
        assert inputs_hours(needed) == hours


@pytest.mark.parametrize(
    ("given", "batch", "hours"),
    [
        ({}, 3600 - 180 - 155, 1),
        ({"max_wait": 3266}, 7200 - 180 - 155, 2),
        ({"batch_max_wait": 86_400}, 86_400, 25),
        ({"retention_hours": 0.5, "view_minutes": 5}, 1800 - 180 - 155, 1),
    ],
)
def test_batch_jobs_wait_as_long_as_inputs_are_kept_or_inputs_are_kept_as_long_as_they_wait(
    given: dict[str, Any], batch: float, hours: int
) -> None:
    settings = Settings(**given)
    assert brokers.batch_max_wait(settings, ()) == batch
    assert inputs_hours(brokers.topology(settings, ())) == hours
    assert brokers.longest_life(settings, ()) == batch + 180 + 155


def test_inputs_are_kept_while_a_stage_is_put_off_as_often_as_it_says() -> None:
    patient = replace(scan.stages[0], retry=Retry(attempts=40, delays=(5, 120)))
    pipeline = replace(scan, stages=(patient, *scan.stages[1:]))
    assert [each.total_delay for each in (NEVER, Retry(), patient.retry)] == [0, sum(DELAYS), 5 + 38 * 120]
    assert inputs_hours(brokers.topology(Settings(), (pipeline,))) == 2


def inputs_hours(needed: Topology) -> float:
    (inputs,) = [each for each in needed.entities if each.name == needed.inputs]
    assert isinstance(inputs, Queue)
    assert inputs.age is not None
    return inputs.age / 3600


def test_another_deadline_says_that_the_copies_may_be_deleted() -> None:
    text = "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': "
    said = difference(queue("eco2.inputs"), f"{text}received '24h' but current is '1h'")
    assert "x-max-age is 1h at the broker, 24h here; stop all processes and delete it" in said
    assert "ECO2_MAX_WAIT" in said


def test_inputs_are_kept_for_an_hour_whatever_the_retention_of_the_journal() -> None:
    arguments = queue("eco2.inputs").arguments
    assert (arguments["x-queue-type"], arguments["x-max-age"]) == ("stream", "1h")
    assert (
        arguments["x-stream-max-segment-size-bytes"]
        == queue("eco2.events").arguments["x-stream-max-segment-size-bytes"]
    )
    assert (queue("eco2.inputs").age, queue("eco2.events").age) == (3600, 48 * 3600)
    assert queue("eco2.dead").age == math.inf


def test_the_stream_of_snapshots_is_bounded_by_its_size() -> None:
    arguments = queue(TOPOLOGY.snapshots).arguments
    assert int(arguments["x-max-length-bytes"]) >= 4 * int(arguments["x-stream-max-segment-size-bytes"])


def test_the_stream_follows_the_retention_and_has_small_segments() -> None:
    arguments = queue("eco2.events").arguments
    assert (arguments["x-queue-type"], arguments["x-max-age"]) == ("stream", "48h")
    assert int(arguments["x-stream-max-segment-size-bytes"]) < 100_000_000


@pytest.mark.parametrize("name", ["", "Scan", "a.b", "a b", "-x", "사진"])
def test_a_name_that_cannot_be_part_of_a_queue_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="part of a queue"):
        Topology(pipelines=(name,))


def test_a_retention_below_an_hour_is_refused() -> None:
    with pytest.raises(ValueError, match="retention_hours"):
        Topology(retention_hours=0)


def test_the_table_shows_every_argument() -> None:
    table = show(TOPOLOGY)
    for entity in TOPOLOGY.entities:
        assert entity.name in table
        if isinstance(entity, Queue):
            assert all(f"{name}={value}" in table for name, value in entity.arguments.items())


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("received '1000' but current is '20'", "x-delivery-limit is 20 at the broker, 1000 here"),
        ("received none but current is the value '20' of type 'byte'", "is 20 at the broker, none here"),
        ("received '' but current is 'x'", "is x at the broker, empty here"),
    ],
)
def test_a_refusal_is_translated(reason: str, said: str) -> None:
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': {reason}"
    sentence = difference(queue("eco2.jobs.scan"), text)
    assert sentence.startswith("queue eco2.jobs.scan: x-delivery-limit is ")
    assert said in sentence
    assert "ECO2_PREFIX" in sentence


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("received '72h' but current is '24h'", "x-max-age is 24h at the broker, 72h here"),
        ("received 259200000 but current is 86400000", "x-max-age is 24h at the broker, 72h here"),
        ("received '259200000' but current is '86400000'", "x-max-age is 24h at the broker, 72h here"),
        (
            "received the value '259200000' of type 'signedint' but current is none",
            "is none at the broker, 72h",
        ),
        ("received '90m' but current is '1D'", "x-max-age is 24h at the broker, 1.5h here"),
    ],
)
def test_a_retention_is_said_in_hours_whatever_the_unit_of_the_broker(reason: str, said: str) -> None:
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': {reason}"
    assert said in difference(queue("eco2.events"), text)


@pytest.mark.parametrize("kind", ["quorum", "stream"])
def test_only_quorum_queues_hand_on_soon_what_consumers_of_a_lost_node_held(kind: str) -> None:
    queues = [each for each in TOPOLOGY.entities if isinstance(each, Queue)]
    timeouts = {
        each.arguments.get("x-consumer-disconnected-timeout")
        for each in queues
        if each.arguments["x-queue-type"] == kind
    }
    assert timeouts == ({5000} if kind == "quorum" else {None})


def test_an_unknown_refusal_is_kept_as_it_is() -> None:
    assert "RESOURCE_LOCKED - by another" in difference(queue("eco2.dead"), "RESOURCE_LOCKED - by another")


def test_what_is_missing_says_how_to_create_it() -> None:
    assert missing(Exchange("eco2.live", "topic")) == (
        "exchange eco2.live does not exist at the broker; run `eco2 topology apply`"
    )


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("#.b.#", "a.b.c.d", True),
        ("#.x.#", "a.b.c.d", False),
        ("#", "", True),
    ],
)
def test_topics_match_as_at_a_topic_exchange(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected
