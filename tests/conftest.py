"""What every test may ask for: a RabbitMQ of its own, and names that no other test uses."""

import gc
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from tests.support.no_skips import NoSkips
from tests.support.rabbitmq import Node, NodeFailed


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        config.pluginmanager.register(NoSkips())
    # Hypothesis judges by the wall clock, which on a busy machine counts the work of others.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Freezes what was collected, as a process of ours does with its modules (`eco2.service.freeze_gc`).

    Else each full collection looks at some 350,000 objects of the tests, and stops a loop for 0.2 to 0.3 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def amqp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The RabbitMQ that the tests share: the one given by ECO2_TEST_AMQP_URL, else a private node."""
    if given := os.environ.get("ECO2_TEST_AMQP_URL"):
        yield given
        return
    with _running_node(tmp_path_factory) as node:
        yield node.url


@pytest.fixture
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that this test alone may stop, kill and restart (5 to 12 s)."""
    with _running_node(tmp_path_factory) as node:
        yield node


@pytest.fixture
def prefix() -> str:
    """A topology prefix that no other test uses: a quorum queue's name must not be declared anew at once."""
    return f"t{uuid.uuid4().hex[:12]}"


@contextmanager
def _running_node(folders: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(folders.mktemp("rabbitmq"))
    try:
        node.start()
    except NodeFailed as failure:
        pytest.fail(str(failure), pytrace=False)
    try:
        yield node
    finally:
        node.stop()
        node.remove_data()
