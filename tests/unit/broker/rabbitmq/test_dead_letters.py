"""What a dead letter's headers tell, as RabbitMQ 3.10 writes them."""

from datetime import UTC, datetime

import pytest

from eco2.broker.rabbitmq.dead_letters import Death, death
from eco2.broker.topology import Topology
from eco2.brokers import open_dead_letters
from eco2.errors import ConfigurationError
from eco2.settings import Settings

DIED = datetime(2026, 11, 26, 7, 45, 53, tzinfo=UTC)
WAITED = {
    "count": 2,
    "reason": "expired",
    "queue": "eco2.jobs.scan.wait-5s",
    "time": datetime(2026, 11, 26, 7, 45, 40, tzinfo=UTC),
    "exchange": "",
    "routing-keys": ["eco2.jobs.scan.wait-5s"],
}
REJECTED = {
    "count": 1,
    "reason": "rejected",
    "queue": "eco2.jobs.scan.first",
    "time": DIED,
    "exchange": "",
    "routing-keys": ["eco2.jobs.scan.first"],
}


def test_the_last_death_counts_and_not_the_time_in_a_wait_queue() -> None:
    headers = {
        "x-death": [REJECTED, WAITED],
        "x-first-death-queue": "eco2.jobs.scan.wait-5s",
        "x-first-death-reason": "expired",
        "x-first-death-exchange": "",
    }
    assert death(headers) == Death("eco2.jobs.scan.first", "rejected", DIED.timestamp(), 1)
    assert death({"x-death": [WAITED]}).count == 2


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-death": []}, {"x-death": "no list"}, {"x-death": ["no table"]}, {"x-delivery-count": 3}],
)
def test_without_a_death_nothing_is_made_up(headers: dict[str, object]) -> None:
    assert death(headers) == Death(None, None, None, 0)


def test_what_is_missing_in_a_death_is_none() -> None:
    assert death({"x-death": [{"queue": 1, "time": "today"}]}) == Death(None, None, None, 0)


def test_the_broker_in_memory_has_no_letters_to_show_and_says_why() -> None:
    settings = Settings()
    with pytest.raises(ConfigurationError, match=r"ECO2_AMQP_URL.*in memory"):
        open_dead_letters(settings, Topology())
