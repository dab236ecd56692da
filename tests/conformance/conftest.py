"""The one place of the suite that knows the adapters: every test runs on each of them, with the same id."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.harness import Brokers


@pytest.fixture(params=["embedded", "rabbitmq"])
async def brokers(request: pytest.FixtureRequest) -> AsyncIterator[Brokers]:
    """Processes on a node of their own; all are stopped, and must have stopped cleanly, after the test."""
    if request.param == "embedded":
        from tests.conformance import embedded_node

        opened = embedded_node.open_node()
    else:
        from tests.conformance import rabbitmq_node

        opened = rabbitmq_node.open_node(
            request.getfixturevalue("amqp_url"), request.getfixturevalue("prefix")
        )
    async with opened as node:
        brokers = Brokers(node)
        try:
            yield brokers
        finally:
            await brokers.close()
