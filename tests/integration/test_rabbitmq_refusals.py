"""Refusals of a broker: its own reason reaches the log, and only the start of a process is ended by it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from eco2.assembly import Listening, process
from eco2.broker.addresses import parse
from eco2.broker.rabbitmq import RabbitMQ, apply, inspect
from eco2.broker.rabbitmq.connect import AccessRefused, connect
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, ConfigurationError, PublishUncertain, TooLarge
from eco2.event import Marker, decode_events
from eco2.journal.outbox import Outbox
from eco2.ports import FromStart
from eco2.service import run
from eco2.settings import Settings
from eco2.writers import Writers
from tests.conformance.harness import eventually
from tests.support import pictures
from tests.support.rabbitmq import Node

SMALL = 50_000


USERS_AND_LIMITS = """
U = <<"lodger">>, A = <<".*">>, T = <<"tests">>,
ok = rabbit_auth_backend_internal:add_user(U, <<"first">>, T),
[rabbit_vhost:add(V, T) || V <- [<<"three">>, <<"two">>, <<"closed">>]],
[rabbit_auth_backend_internal:set_permissions(U, V, A, A, A, T) || V <- [<<"three">>, <<"two">>]],
ok = rabbit_vhost_limit:parse_set(<<"three">>, <<"{\\"max-connections\\": 3}">>, T),
ok = rabbit_vhost_limit:parse_set(<<"two">>, <<"{\\"max-queues\\": 2}">>, T).
"""
"""One call instead of nine: each costs seconds on a busy machine."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with limits, whose user's password these tests change."""
    node = Node(tmp_path_factory.mktemp("refusing"), f"max_message_size = {SMALL}")
    node.start()
    node.ctl("eval", USERS_AND_LIMITS)
    yield node
    node.stop()
    node.remove_data()


def url(node: Node, vhost: str, password: str = "first") -> str:
    return f"amqp://lodger:{password}@127.0.0.1:{node.port}/{vhost}"


@asynccontextmanager
async def running(broker: RabbitMQ) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(broker.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await task


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def said(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    """True once a line of the log has all these words."""
    return any(all(word in record.getMessage() for word in words) for record in caplog.records)


async def test_a_process_over_the_limit_of_connections_waits_and_says_whose_limit_it_is(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = [await connect(parse(url(node, "three"))[0], "other", 10) for _ in range(3)]
    broker = RabbitMQ(url(node, "three"), Topology(prefix, pipelines=("scan",)))
    async with running(broker):
        await eventually(lambda: said(caplog, "connection limit (3) is reached", "raise that limit"))
        assert not broker.ready
        await asyncio.gather(*(other.close() for other in others))
        await eventually(lambda: broker.ready)
    assert not said(caplog, "ECO2_AMQP_URL")


async def test_a_limit_of_queues_is_named_and_nothing_is_to_be_deleted_for_another_prefix(
    node: Node, prefix: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await apply(url(node, "two"), Topology(prefix, pipelines=("scan",)))
    text = str(refused.value)
    assert "queue limit" in text
    assert "set_vhost_limits" in text
    assert "delete it" not in text


async def test_a_vhost_that_is_closed_to_the_user_or_missing_is_named(node: Node) -> None:
    for vhost, reason in (("closed", "access to vhost 'closed' refused"), ("none", "not found")):
        with pytest.raises(AccessRefused, match=reason) as refused:
            await connect(parse(url(node, vhost))[0], "eco2 test", 10)
        assert "ECO2_AMQP_URL" in str(refused.value)
        assert "first" not in str(refused.value)


async def test_the_reason_of_a_forced_close_reaches_the_log(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RabbitMQ(url(node, "three"), Topology(prefix, pipelines=("scan",)))
    async with running(broker):
        await eventually(lambda: broker.ready)
        await asyncio.to_thread(node.ctl, "close_all_connections", "--global", "gone for lunch")
        await eventually(lambda: said(caplog, "CONNECTION_FORCED", "gone for lunch"))
        await eventually(lambda: broker.ready)


async def test_a_password_that_is_refused_later_ends_nothing_and_at_the_start_it_does(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RabbitMQ(url(node, "three"), Topology(prefix, pipelines=("scan",)))
    async with running(broker) as task:
        await eventually(lambda: broker.ready)
        await asyncio.to_thread(node.ctl, "change_password", "lodger", "second")
        await asyncio.to_thread(node.ctl, "close_all_connections", "--global", "rotation")
        await eventually(lambda: said(caplog, "refuses the login"))
        assert not broker.ready
        with pytest.raises(ConfigurationError, match="refuses the login"):
            await RabbitMQ(url(node, "three"), Topology(prefix, pipelines=("scan",))).run(asyncio.Event())
        assert not task.done()
        await asyncio.to_thread(node.ctl, "change_password", "lodger", "first")
        await eventually(lambda: broker.ready)


async def test_an_inspection_finds_a_limit_that_is_below_what_the_gateway_takes(
    node: Node, prefix: str
) -> None:
    topology = Topology(prefix, pipelines=("scan",))
    await apply(node.url, topology)
    assert (await inspect(node.url, topology, SMALL)).differences == []
    found = await inspect(node.url, topology, SMALL + 1)
    (difference,) = found.differences
    assert f"{SMALL}" in difference
    assert "max_message_size" in difference
    assert "ECO2_MAX_UPLOAD_MB" in difference
    assert found.server.product == "RabbitMQ"
    assert found.server.version in node.ctl("version")


async def test_a_body_that_the_broker_never_takes_is_refused_for_good_and_alone(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = RabbitMQ(node.url, Topology(prefix, pipelines=("scan",)))
    async with running(broker):
        await eventually(lambda: broker.ready)
        results = await asyncio.gather(
            broker.append_order(bytes(SMALL + 1), "large"),
            *(broker.append_order(bytes(SMALL), f"small-{number}") for number in range(3)),
            return_exceptions=True,
        )
        assert isinstance(results[0], TooLarge)
        assert f"{SMALL} bytes" in str(results[0])
        assert all(result is None or isinstance(result, PublishUncertain) for result in results[1:])
        await eventually(lambda: broker.ready)
        await broker.append_order(bytes(SMALL), "afterwards")
        caplog.clear()
        results = await asyncio.gather(
            *(broker.append_order(bytes(SMALL + 1), f"again-{number}") for number in range(3)),
            *(broker.append_order(bytes(SMALL), f"more-{number}") for number in range(3)),
            return_exceptions=True,
        )
        assert [type(result) for result in results[:3]] == [TooLarge] * 3
        assert results[3:] == [None] * 3  # the limit is known: nothing was sent that would harm the others
        monkeypatch.setattr("eco2.broker.rabbitmq.publisher.LIMIT_TTL", 0.0)  # it may have been raised
        assert not said(caplog, "closed a channel")
        with pytest.raises(TooLarge):
            await broker.append_order(bytes(SMALL + 1), "asked")
        await eventually(lambda: said(caplog, "closed a channel"))


async def test_a_photo_that_the_broker_never_takes_is_refused_for_good_with_the_reason_in_the_log(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(amqp_url=node.url, prefix=prefix, port=0, probes_port=0)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with (
        process(settings, "gateway", stop, Listening(gateway=port.set_result)) as components,
        asyncio.TaskGroup() as group,
        httpx.AsyncClient(timeout=60, trust_env=False) as http,
    ):
        group.create_task(run(components, stop))
        try:
            url = f"http://127.0.0.1:{await port}/scan"

            async def photo(data: bytes) -> httpx.Response:
                while True:
                    answer = await http.post(url, files={"image": ("a.jpg", data, "image/jpeg")})
                    if answer.status_code != 503:  # until it has read the journal
                        return answer
                    await asyncio.sleep(0.1)

            small = await photo(pictures.plain())
            large = [await photo(pictures.noise("JPEG", 600)) for _ in range(2)]
        finally:
            stop.set()
    assert small.status_code == 202
    assert [(answer.status_code, answer.json()["code"]) for answer in large] == [(413, "IMAGE_TOO_LARGE")] * 2
    assert all("send a smaller one" in answer.json()["detail"] for answer in large)
    assert said(caplog, "refused for its size", "max_message_size")


async def test_events_that_together_exceed_the_limit_are_split_and_one_that_does_alone_fails(
    node: Node, prefix: str
) -> None:
    broker, stop = RabbitMQ(node.url, Topology(prefix, pipelines=("scan",))), asyncio.Event()
    outbox = Outbox(broker, Writers("me"))
    async with running(broker):
        await eventually(lambda: broker.ready)
        markers = [Marker(ts=0.0, id=f"{number} {'x' * (SMALL // 3)}") for number in range(9)]
        puts = [outbox.put(marker) for marker in markers]
        large = outbox.put(Marker(ts=0.0, id="x" * SMALL))
        last = outbox.put(Marker(ts=0.0, id="last"))
        stop.set()
        await outbox.run(stop)
        assert all(put.result() is None for put in (*puts, last))
        assert isinstance(large.exception(), TooLarge)
        async with broker.read(FromStart()) as records:
            seen: list[str] = []
            async for record in records:
                seen += [event.id for event in decode_events(record.body) if isinstance(event, Marker)]
                if "last" in seen:
                    break
    assert list(dict.fromkeys(seen)) == [marker.id for marker in markers] + ["last"]


async def test_hosts_are_tried_in_turn_at_the_start_and_after_a_loss(
    node: Node, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{node.port},localhost:{node.port}"
    several = f"amqp://guest:guest@{hosts}/"
    topology = Topology(prefix, pipelines=("scan",))
    await apply(several, topology)
    with pytest.raises(BrokerUnavailable):
        await apply("amqp://guest:guest@127.0.0.1:1,localhost:1/", topology)
    broker = RabbitMQ(several, topology)
    async with running(broker):
        for _ in range(3):
            await eventually(lambda: broker.ready)
            await asyncio.to_thread(node.ctl, "close_all_connections", "move on")
    for host in ("127.0.0.1", "localhost"):
        assert said(caplog, "'event': 'connected'", f"'to': '{host}:{node.port}'")
