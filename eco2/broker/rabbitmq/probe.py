"""Finds out in time that the peer of an idle connection is gone, or that there is an alarm.

A half-open connection is silent, and the library notices after three heartbeats (33 s by default). So every
second the broker is asked for something that costs it nothing; a connection without an answer is given up.
On the connection that publishes the question is a publish, since the broker announces an alarm only to who
publishes: it shows before a job is sent into it (as a ghost that arrives when the alarm is over). A broker
under an alarm answers no publisher; that is no reason to give up.

From the silence to the next try it takes at most `PROBE_INTERVAL` + the time-out of a publish + the link's
`ABANDON_TIMEOUT` + `BACKOFF_CAP`: 11.5 s, below the 15 s after which a job's holder counts as gone.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection

from eco2.broker.rabbitmq.connection_errors import ConnectionScope, map_connection_errors
from eco2.broker.rabbitmq.link import Link
from eco2.cancellation import raise_if_cancelled
from eco2.errors import BrokerUnavailable
from eco2.log import get_logger

log = get_logger(__name__)

PROBE_INTERVAL = 1.0

Question = Callable[[AbstractChannel], Awaitable[object]]


async def ask(channel: AbstractChannel) -> None:
    """A question for connections that only consume."""
    await (await channel.get_underlay_channel()).basic_qos(prefetch_count=1)


def publish(key: str) -> Question:
    """The question for connections that publish: a message to `key`, which no queue has."""

    async def send(channel: AbstractChannel) -> None:
        await channel.default_exchange.publish(Message(b""), key, mandatory=False)

    return send


class Probe:
    """A session that watches `link` on a separate channel; `timeout` in seconds.

    It does not make the link wanted: an unused connection needs no probe.
    """

    def __init__(self, link: Link, question: Question, timeout: float) -> None:
        self._link = link
        self._question = question
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        self._scope = ConnectionScope()
        link.add_optional(self)

    def __str__(self) -> str:
        return "probe"

    @property
    def attached(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def attach(self, connection: AbstractConnection) -> None:
        scope = ConnectionScope()
        channel = connection.channel(publisher_confirms=True)
        channel.close_callbacks.add(scope.end)
        channel.close_callbacks.add(self._link.wake)
        await channel.initialize()
        self._channel, self._scope = channel, scope

    def detach(self) -> None:
        self._channel = None
        self._scope.end()

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            raise_if_cancelled()
            if self._channel is not None and not self._link.blocked:
                await self._probe(self._channel)

    async def _probe(self, channel: AbstractChannel) -> None:
        # A timer instead of a time-out: cancelling a question makes the library close its channel first, and
        # for that it may wait for room in a write queue that is never emptied.
        self._expect(channel)
        try:
            with map_connection_errors(BrokerUnavailable, "the connection went"):
                async with self._scope.scope():
                    await self._question(channel)
        except BrokerUnavailable as error:
            log.debug("no answer to a probe", link=self._link.name, why=str(error))
        finally:
            self._silence.cancel()

    def _expect(self, channel: AbstractChannel) -> None:
        due = asyncio.get_running_loop().time() + self._timeout
        self._silence = asyncio.get_running_loop().call_at(due, self._on_silence, channel, due)

    def _on_silence(self, channel: AbstractChannel, due: float) -> None:
        late = asyncio.get_running_loop().time() - due
        if self._link.blocked or late > PROBE_INTERVAL:
            # The answer comes when the alarm is over; or it was we who slept, and it has not been read yet.
            self._expect(channel)
        elif channel is self._channel:
            log.warning("connecting again", link=self._link.name, why=f"no answer within {self._timeout:g} s")
            self._link.drop()
