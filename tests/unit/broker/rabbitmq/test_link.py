"""A link in virtual time: its watchdog, its jitter, and what it waits for when a connection goes."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from eco2.broker.rabbitmq.link import ABANDON_TIMEOUT, RECONNECT, WATCH_INTERVAL, Link, Nodes
from eco2.ports import LinkStatus
from eco2.testing.clock import virtual


class Connection:
    """A connection as far as a link looks at it; `close` takes `goodbye` seconds."""

    def __init__(self, goodbye: float = 0.0) -> None:
        self.close_callbacks: set[Callable[..., object]] = set()
        self.transport = self
        self.connection = self
        self.is_closed = False
        self.server_properties = {"product": "RabbitMQ", "version": "4.3.7"}
        self._goodbye = goodbye

    async def close(self) -> None:
        await asyncio.sleep(self._goodbye)
        self.is_closed = True


class Quiet:
    """A session that can lose its consumer without telling anybody."""

    def __init__(self) -> None:
        self.attached = False
        self.attachments: list[float] = []

    async def attach(self, connection: AbstractConnection) -> None:
        self.attached = True
        self.attachments.append(asyncio.get_running_loop().time())

    def detach(self) -> None:
        self.attached = False


class Refused(Quiet):
    """A session that this node's broker does not attach."""

    async def attach(self, connection: AbstractConnection) -> None:
        self.attachments.append(asyncio.get_running_loop().time())
        raise ChannelPreconditionFailed("PRECONDITION_FAILED - no running replica on the local node")


class Broker:
    """Takes the place of `aio_pika.connect`; `refusing` while it is down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, goodbye: float = 0.0) -> None:
        self.refusing = False
        self.tries: list[float] = []
        self.hosts: list[str | None] = []
        self.connections: list[Connection] = []
        self._goodbye = goodbye
        monkeypatch.setattr(aio_pika, "connect", self.connect)

    async def connect(self, url: str, **_: Any) -> AbstractConnection:
        self.tries.append(asyncio.get_running_loop().time())
        self.hosts.append(urlsplit(url).hostname)
        if self.refusing:
            raise ConnectionRefusedError
        self.connections.append(Connection(self._goodbye))
        return cast(AbstractConnection, self.connections[-1])


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@virtual
async def test_the_watchdog_attaches_what_was_lost_without_any_notice() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, session, link = Broker(monkeypatch), Quiet(), Link(Nodes("amqp://test"), "eco2 test", 10)
        link.add(session)
        task = asyncio.create_task(link.run())
        await asyncio.sleep(100.1)
        assert (len(session.attachments), link.ready) == (1, True)
        session.attached = False
        lost = asyncio.get_running_loop().time()
        assert not link.ready
        await asyncio.sleep(WATCH_INTERVAL)
        assert (len(session.attachments), link.ready) == (2, True)
        assert session.attachments[1] - lost <= WATCH_INTERVAL
        assert len(broker.tries) == 1  # over the connection that it had
        await end(task)


@virtual
async def test_reconnecting_is_spread_over_the_whole_span_and_its_cap_holds() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, link = Broker(monkeypatch), Link(Nodes("amqp://test"), "eco2 test", 10)
        broker.refusing = True
        link.add(Quiet())
        task = asyncio.create_task(link.run())
        await asyncio.sleep(3600)
        pauses = [after - before for before, after in pairwise(broker.tries)][10:]
        assert len(pauses) > 1000
        assert max(pauses) <= RECONNECT.cap
        tenths = {int(pause / RECONNECT.cap * 10) for pause in pauses}
        assert tenths >= set(range(10))  # full jitter: a broker that comes back is not stormed
        broker.refusing = False
        await link.connection(RECONNECT.cap)
        await end(task)


@virtual
async def test_reconnects_are_counted_and_who_is_not_wanted_has_no_status() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, link = Broker(monkeypatch), Link(Nodes("amqp://test"), "eco2 test jobs", 10)
        task = asyncio.create_task(link.run())
        await asyncio.sleep(1)
        statuses = [link.status]
        link.add(Quiet())
        await link.connection(1)
        statuses.append(link.status)
        for _ in range(2):
            broker.refusing = True
            link.drop()
            await asyncio.sleep(0)
            statuses.append(link.status)
            broker.refusing = False
            await link.connection(RECONNECT.cap)
            statuses.append(link.status)
        await end(task)
    up, down = partial(LinkStatus, "jobs", True), partial(LinkStatus, "jobs", False)
    assert statuses == [None, up(0), down(0), up(1), down(1), up(2)]


@virtual
async def test_a_goodbye_that_nobody_answers_does_not_hold_up_the_next_connection() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, session = Broker(monkeypatch, goodbye=3600), Quiet()
        link = Link(Nodes("amqp://test"), "eco2 test", 10)
        link.add(session)
        task = asyncio.create_task(link.run())
        await link.connection(1)
        silent = asyncio.get_running_loop().time()
        link.drop()
        await link.connection(1)
        assert broker.tries[1] - silent <= ABANDON_TIMEOUT + 0.2  # and the first back-off
        await asyncio.sleep(0)
        assert link.ready
        await end(task)


@virtual
async def test_a_session_that_only_goes_along_opens_no_connection_and_is_attached_with_it() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, companion, link = Broker(monkeypatch), Quiet(), Link(Nodes("amqp://test"), "eco2 test", 10)
        link.add_optional(companion)
        task = asyncio.create_task(link.run())
        await asyncio.sleep(3600)
        assert (broker.tries, companion.attachments, link.ready) == ([], [], True)
        link.add(Quiet())
        await link.connection(1)
        await asyncio.sleep(0)
        assert companion.attached
        await end(task)


@virtual
async def test_all_links_leave_a_node_that_one_gives_up() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, nodes = Broker(monkeypatch), Nodes("amqp://one,two")
        links = [Link(nodes, f"eco2 test {number}", 10) for number in range(3)]
        for link in links:
            link.add(Quiet())
        tasks = [asyncio.create_task(link.run()) for link in links]
        for link in links:
            await link.connection(1)
        (first,) = set(broker.hosts)
        links[0].give_up()
        for link in links:
            await link.connection(1)
        assert len(broker.hosts) == 6
        assert set(broker.hosts[3:]) == {"one", "two"} - {first}
        for task in tasks:
            await end(task)


@virtual
async def test_the_only_node_is_given_up_by_one_link_alone() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, nodes = Broker(monkeypatch), Nodes("amqp://one")
        bad, good = (Link(nodes, f"eco2 test {name}", 10) for name in ("bad", "good"))
        tasks = []
        for link in (bad, good):
            link.add(Quiet())
            tasks.append(asyncio.create_task(link.run()))
            await link.connection(1)
        bad.give_up()
        await bad.connection(1)
        assert [link.status for link in (bad, good)] == [
            LinkStatus("bad", True, 1),
            LinkStatus("good", True, 0),
        ]
        assert broker.hosts == ["one"] * 3
        for task in tasks:
            await end(task)


@virtual
async def test_a_link_goes_on_to_a_node_that_attaches_what_this_one_does_not() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker, session, link = Broker(monkeypatch), Refused(), Link(Nodes("amqp://one,two"), "eco2 test", 10)
        link.add(session)
        task = asyncio.create_task(link.run())
        await asyncio.sleep(60)
        assert set(broker.hosts) == {"one", "two"}
        assert len(session.attachments) < 120  # though each closes a channel, and that is a change
        await end(task)
