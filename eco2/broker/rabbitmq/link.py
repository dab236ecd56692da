"""One TCP connection by name, kept up by a loop of our own.

connect → prepare → attach every session → wait until the connection goes or a session needs attaching →
again, with full jitter. Guarantees: a session that was added is attached whenever the connection is up, also
after the broker alone cancelled its consumer or closed its channel. Sessions keep their channels
themselves (aio-pika holds them weakly).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity

from eco2.broker.addresses import Address, parse
from eco2.broker.rabbitmq.connect import AccessRefused, connect, server
from eco2.broker.rabbitmq.connection_errors import (
    ConnectionScope,
    is_connection_error,
    map_connection_errors,
    reason_of,
)
from eco2.cancellation import raise_if_cancelled
from eco2.errors import BrokerUnavailable, ConfigurationError
from eco2.log import get_logger
from eco2.ports import LinkStatus, ignore
from eco2.retry import Backoff

log = get_logger(__name__)

RECONNECT = Backoff(0.2, 5.0)
ACCESS_TIMEOUT = 10.0
"""Seconds for which a process that has never been connected asks again after a refused login: a password that
is being changed is at one side before the other."""
ATTACH_TIMEOUT = 30.0
"""Only for a broker that answers nothing: a cancelled declare or consume costs the channel."""
CLOSE_TIMEOUT = 3.0
ABANDON_TIMEOUT = 0.5
"""For the goodbye to a broker that is gone or silent: it must not hold up the next connection."""
MAX_ATTACHES = 5
"""Attempts to attach a session at one node, before the link goes to another."""
WATCH_INTERVAL = 5.0
"""A session that was lost without any notice is attached again after at most this."""


class Session(Protocol):
    """A user of a connection, such as a publisher or a consumer. It is attached to each new connection."""

    @property
    def attached(self) -> bool: ...
    async def attach(self, connection: AbstractConnection) -> None:
        """Opens a channel and gets going on it. Called only while not attached."""

    def detach(self) -> None:
        """The connection is gone; forget it."""


class Nodes:
    """The broker's nodes as one process sees them: the one that its links use, and whether a login succeeded.

    All links use the same node. So when one link finds that a node answers but serves no client, as one of
    RabbitMQ 4.3 without a majority, all of them leave it: the others cannot find out.

    A refusal by the broker at the start of a process is most likely a wrong setting, and ends it. Afterwards
    the same refusal is most likely a change at the broker that passes, such as a new password, and ends
    nothing.
    """

    def __init__(self, url: str) -> None:
        self._addresses = parse(url)
        self._turn = random.randrange(len(self._addresses))  # the processes of a fleet spread over the nodes
        self._links: list[Link] = []
        self._granted = False
        self._refused_since: float | None = None

    @property
    def current(self) -> Address:
        """The node for the next connection."""
        return self._addresses[self._turn]

    @property
    def several(self) -> bool:
        """True if there is another node to go to."""
        return len(self._addresses) > 1

    def join(self, link: "Link") -> None:
        """`link` is one of this process."""
        self._links.append(link)

    def move_on(self, address: Address) -> None:
        """Takes the next node for connections to come, unless another link has already done so."""
        if self.current == address:
            self._turn = (self._turn + 1) % len(self._addresses)

    def leave(self, address: Address) -> None:
        """Ends the connections of all links to a node that serves no client, if there is another node."""
        self.move_on(address)
        if self.several:
            for link in self._links:
                if link.address == address:
                    link.drop()

    def granted(self) -> None:
        """A connection is up, with all that it needs."""
        self._granted = True

    def is_final(self, refusal: ConfigurationError, now: float) -> bool:
        """True if this `refusal` ends the process. `now`: seconds of any clock that only grows."""
        if self._granted:
            return False
        if not isinstance(refusal, AccessRefused):
            return True
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since >= ACCESS_TIMEOUT


class Link:
    """The connection called `name`; it is opened at its first use. Heartbeat in seconds.

    It takes the next one of `nodes` after each failure or loss.
    """

    def __init__(
        self,
        nodes: Nodes,
        name: str,
        heartbeat: float,
        prepare: Callable[[AbstractConnection], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.on_missing: Callable[[], None] = ignore
        """Called when a session cannot be attached since its queue does not exist."""
        self.address = nodes.current
        """The node that it is connected to, or was last."""
        self._nodes = nodes
        nodes.join(self)
        self._heartbeat = heartbeat
        self._prepare = prepare
        self._sessions: list[Session] = []
        self._connection: AbstractConnection | None = None
        self._connects = 0
        self._scope = ConnectionScope()
        self._why = ""
        self._wanted = asyncio.Event()
        self._up = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """True if this link is not in use, or is up with every session attached."""
        if not self._wanted.is_set():
            return True
        return self._up.is_set() and all(session.attached for session in self._sessions)

    @property
    def status(self) -> LinkStatus | None:
        """The state of the link under its name; None if it is not in use."""
        if not self._wanted.is_set():
            return None
        return LinkStatus(self.name.rpartition(" ")[2], self._up.is_set(), max(0, self._connects - 1))

    @property
    def blocked(self) -> bool:
        """True while the broker reads no publishes from this connection, by its own notice."""
        transport = self._connection.transport if self._connection else None
        return transport is not None and not _completes_at_once(transport.ready())

    def add(self, session: Session) -> None:
        """`session` is wanted from now on."""
        self._sessions.append(session)
        self._wanted.set()
        self.wake()

    def add_optional(self, session: Session) -> None:
        """`session` goes along whenever the link is up, but is no reason to open it."""
        self._sessions.append(session)
        self.wake()

    def remove(self, session: Session) -> None:
        """`session` is no longer wanted; it closes its channel itself."""
        if session in self._sessions:
            self._sessions.remove(session)

    def wake(self, *notice: object) -> None:
        """Something may need attaching; also a callback for aio-pika's notices, which bring the reason."""
        # (None, None) is aiormq's for the broker's CloseOk: the channel was closed from here.
        if notice and isinstance(reason := notice[-1], ChannelClosed) and any(reason.args):
            log.warning("the broker closed a channel", link=self.name, why=reason_of(reason))
        self._changed.set()

    async def connection(self, timeout: float) -> AbstractConnection:
        """The open connection. Raises `BrokerUnavailable` after `timeout` seconds without one."""
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"{self.name}: not connected to the broker; try again later") from None
        if self._connection is None:
            raise BrokerUnavailable(f"{self.name}: the connection was lost just now; try again later")
        return self._connection

    async def run(self) -> None:
        """Keeps the link up until it is cancelled; then closes it in order."""
        await self._wanted.wait()
        attempt = 0
        while True:
            try:
                async with self._open() as connection:
                    attempt = await self._hold(connection, attempt)
            except ConfigurationError as refusal:
                if self._nodes.is_final(refusal, asyncio.get_running_loop().time()):
                    raise
                # Without a traceback: the reason is the broker's.
                log.error(  # noqa: TRY400
                    "the broker refuses; asking again", link=self.name, why=str(refusal)
                )
            except Exception as error:
                if not is_connection_error(error) and not isinstance(error, BrokerUnavailable):
                    raise
                log.warning("connecting failed", link=self.name, why=self._why or reason_of(error))
            raise_if_cancelled()
            self._nodes.move_on(self.address)
            await RECONNECT.sleep(attempt)
            attempt += 1

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[AbstractConnection]:
        address = self.address = self._nodes.current
        connection = await connect(address, self.name, self._heartbeat)
        self._scope, self._why = ConnectionScope(), ""
        connection.close_callbacks.add(self._closed)
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT), self._scope.scope():
                if self._prepare is not None:
                    await self._prepare(connection)
            if connection.transport is None or connection.transport.connection.is_closed:
                raise BrokerUnavailable("the connection was lost at once")
            self._connection = connection
            self._up.set()
            self._connects += 1
            self._nodes.granted()
            log.info("connected", link=self.name, to=str(address), broker=str(server(connection)))
            yield connection
        finally:
            timeout = CLOSE_TIMEOUT if self._up.is_set() else ABANDON_TIMEOUT
            self._forget()
            await _close(connection, timeout)

    def _closed(self, _: object, reason: BaseException | None = None) -> None:
        """Takes aio-pika's notice that the connection is closed."""
        self._why = reason_of(reason) if reason is not None else ""
        self.drop()

    def drop(self, *_: object) -> None:
        """Gives the connection up, so that the link connects again."""
        self._scope.end()
        self._forget()
        self.wake()

    def give_up(self) -> None:
        """Leaves a node that answers but serves no client, with all links, or connects to it again."""
        self._nodes.leave(self.address)
        self.drop()

    def _forget(self) -> None:
        self._up.clear()
        self._connection = None
        for session in self._sessions:
            session.detach()

    async def _hold(self, connection: AbstractConnection, attempt: int) -> int:
        """Attaches what is not attached until the connection is lost; returns the attempts to count on."""
        failures = 0
        while self._up.is_set():
            raise_if_cancelled()
            self._changed.clear()
            failures = failures + 1 if await self._attach_missing(connection) else 0
            attempt = attempt if failures else 0
            if failures >= MAX_ATTACHES and self._nodes.several:
                self.drop()  # such as a node that has no replica of the stream: another one may have
            elif failures:
                # Not until something changes: the channel that the broker has just closed would be that.
                with suppress(TimeoutError):
                    async with self._scope.scope():
                        await RECONNECT.sleep(failures)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_INTERVAL):
                        await self._changed.wait()
        log.warning("connection lost", link=self.name, why=self._why or "given up")
        return attempt

    async def _attach_missing(self, connection: AbstractConnection) -> int:
        """Attaches the sessions that are not; returns how many of them failed."""
        failed = 0
        for session in [session for session in self._sessions if not session.attached]:
            try:
                with map_connection_errors(BrokerUnavailable, f"{self.name}: could not attach {session}"):
                    async with asyncio.timeout(ATTACH_TIMEOUT), self._scope.scope():
                        await session.attach(connection)
            except BrokerUnavailable as error:
                if not self._up.is_set():
                    raise
                # Such as the 404 of a stream whose leader is not up yet: others on this link continue.
                log.warning("not attached yet", link=self.name, why=str(error))
                if isinstance(error.__cause__, ChannelNotFoundEntity):
                    self.on_missing()
                failed += 1
        return failed


async def _close(connection: AbstractConnection, timeout: float) -> None:
    try:
        with map_connection_errors(BrokerUnavailable, "the connection went before it could be closed"):
            async with asyncio.timeout(timeout):
                await connection.close()
    except BrokerUnavailable as error:
        log.debug("closed without ceremony", why=str(error))


def _completes_at_once(waiting: Awaitable[object]) -> bool:
    """Takes the first step of `waiting` and drops it: only `ready()` of aiormq shows `connection.blocked`."""
    step = waiting.__await__()
    try:
        next(step)
    except StopIteration:
        return True
    step.close()
    return False
