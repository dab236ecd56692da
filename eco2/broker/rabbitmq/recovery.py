"""Topology recovery: what is deleted at the broker while we are connected is made again.

A publisher is not notified of a deletion, and a consumer only that it was cancelled. So every session that
meets a missing queue reports it here, and the whole topology is declared again, at most once a second.
"""

import asyncio

from eco2.broker.rabbitmq.connection_errors import map_connection_errors
from eco2.broker.rabbitmq.declare import declare
from eco2.broker.rabbitmq.link import Link
from eco2.broker.topology import Topology
from eco2.cancellation import raise_if_cancelled
from eco2.errors import BrokerUnavailable, ConfigurationError
from eco2.log import get_logger

log = get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two declarations, so that repeated failures do not keep the broker busy."""
CONNECTION_TIMEOUT = 10.0
"""Seconds for which a lost connection is waited for."""


class TopologyRecovery:
    """Declares `topology` again after `missing` was called."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._missing = asyncio.Event()

    def missing(self) -> None:
        """A queue or exchange of the topology was not found."""
        self._missing.set()

    async def run(self, link: Link) -> None:
        """Declares over `link` whenever something is missing, until it is cancelled."""
        while True:
            await self._missing.wait()
            self._missing.clear()
            try:
                with map_connection_errors(
                    BrokerUnavailable, "the connection was lost while queues were declared again"
                ):
                    await declare(await link.connection(CONNECTION_TIMEOUT), self._topology)
                log.warning("declared again what was missing at the broker", prefix=self._topology.prefix)
            except (BrokerUnavailable, ConfigurationError) as error:
                # Not the end of the process, as at its start: what it has in hand would be lost with it.
                log.warning("what was deleted at the broker cannot be made again", why=str(error))
            raise_if_cancelled()
            await asyncio.sleep(INTERVAL)
