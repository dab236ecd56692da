"""The node that the other tests stand on: it serves AMQP, keeps what is durable, leaves nothing behind."""

import asyncio
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiormq.abc import FieldTable

from tests.support.rabbitmq import Node, NodeFailed

QUORUM: FieldTable = {"x-queue-type": "quorum"}


async def _publish(channel: AbstractChannel, queue: str, body: bytes) -> None:
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, routing_key=queue, timeout=10)


async def _receive(queue: AbstractQueue) -> bytes:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def keep(message: AbstractIncomingMessage) -> None:
        await message.ack()
        arrived.put_nowait(message.body)

    await queue.consume(keep)
    async with asyncio.timeout(30):
        return await arrived.get()


async def test_a_message_makes_the_round_trip(amqp_url: str, prefix: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(f"{prefix}.jobs", durable=True, arguments=QUORUM)
        await _publish(channel, queue.name, b"order")
        assert await _receive(queue) == b"order"
        await queue.delete(if_unused=False, if_empty=False)


async def test_a_durable_message_survives_a_restart_and_then_a_kill(own_node: Node, prefix: str) -> None:
    # The restart comes first: RabbitMQ may lose a quorum queue that was declared just before a kill.
    name = f"{prefix}.jobs"
    async with await aio_pika.connect(own_node.url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(name, durable=True, arguments=QUORUM)
        await _publish(channel, name, b"kept")
    pids = [own_node.pid]
    await asyncio.to_thread(own_node.restart)
    pids.append(own_node.pid)
    await asyncio.to_thread(own_node.kill9)
    await asyncio.to_thread(own_node.start)
    pids.append(own_node.pid)
    assert len(set(pids)) == 3
    async with await aio_pika.connect(own_node.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True, arguments=QUORUM)
        assert await _receive(queue) == b"kept"


def test_nothing_is_left_after_stop(own_node: Node) -> None:
    assert own_node.ctl("status")
    pid = own_node.pid
    own_node.stop()
    own_node.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert _processes_of(own_node) == []
    assert "RabbitMQ" in own_node.log_tail()


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, config="no.such.setting = 1")
    with pytest.raises(NodeFailed, match=r"no\.such\.setting"):
        node.start()
    assert _processes_of(node) == []


def _processes_of(node: Node) -> list[str]:
    """Processes whose environment says that they belong to the node, epmd included."""
    mark = f"HOME={node.folder / 'home'}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it ended while we looked, or is not ours to read
    return found
