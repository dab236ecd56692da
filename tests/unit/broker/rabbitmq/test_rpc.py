"""The RPC client of RabbitMQ: a request expires with its caller's time-out, also after a late connection."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractConnection
from aiormq import spec

from eco2.broker.rabbitmq.consumer import ConsumerChannel
from eco2.broker.rabbitmq.link import Link
from eco2.broker.rabbitmq.rpc import RpcClient
from eco2.errors import NoReply
from tests.support.virtual_clock import virtual


class FakeChannel:
    """A consumer's channel that records what is sent."""

    alive = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, spec.Basic.Properties]] = []
        self.channel = self

    async def declare_queue(self, **_: bool) -> SimpleNamespace:
        return SimpleNamespace(name="replies")

    async def consume(self, *_: object, **__: object) -> None: ...

    async def send(self, queue: str, body: bytes, properties: spec.Basic.Properties) -> None:
        self.sent.append((queue, properties))


@virtual
@pytest.mark.parametrize(("connected_after", "expiration"), [(0.0, "2000"), (1.5, "500")])
async def test_a_request_expires_when_its_client_stops_waiting(
    monkeypatch: pytest.MonkeyPatch, connected_after: float, expiration: str
) -> None:
    channel = FakeChannel()

    async def open_channel(*_: object) -> FakeChannel:
        return channel

    monkeypatch.setattr(ConsumerChannel, "open", open_channel)
    client = RpcClient(cast(Link, SimpleNamespace(name="quota", add=lambda _: None)))
    began = asyncio.get_running_loop().time()
    request = asyncio.ensure_future(client.request("rpc.sweep", b"x", 2.0))
    await asyncio.sleep(connected_after)
    await client.attach(cast(AbstractConnection, cast(Any, None)))
    with pytest.raises(NoReply):
        await request
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)
    assert [(queue, properties.expiration) for queue, properties in channel.sent] == [
        ("rpc.sweep", expiration)
    ]
