"""The proxy that other tests stand on: what is cut ends, what stalls stays, what is late keeps its order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.conformance.harness import PATIENCE, eventually
from tests.support.proxy import Proxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Far:
    """A server that sends every line back and shows the connections it has."""

    def __init__(self) -> None:
        self.open = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Proxy]:
        """A proxy to this server."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(PATIENCE), Proxy.to(f"amqp://a:b@127.0.0.1:{port}/") as proxy:
                yield proxy
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while line := await reader.readline():
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


async def connect(proxy: Proxy) -> Ends:
    return await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)


async def echoed(ends: Ends, line: bytes) -> bytes:
    reader, writer = ends
    writer.write(line)
    return await reader.readline()


async def test_it_forwards_in_both_directions_and_passes_an_end_on() -> None:
    far = Far()
    async with far.run() as proxy:
        reader, writer = ends = await connect(proxy)
        long = b"x" * 60_000 + b"\n"
        assert await echoed(ends, long) == long
        assert (far.open, proxy.open) == (1, 1)
        writer.close()
        await eventually(lambda: (far.open, proxy.open) == (0, 0))
        assert await reader.read() == b""


async def test_a_cut_ends_both_sides_even_of_what_is_stalled() -> None:
    far = Far()
    async with far.run() as proxy:
        ends = [await connect(proxy) for _ in range(2)]
        assert [await echoed(each, b"a\n") for each in ends] == [b"a\n"] * 2
        proxy.stall()
        proxy.cut()
        await eventually(lambda: (far.open, proxy.open) == (0, 0))
        for reader, _ in ends:
            assert await reader.read() == b""


async def test_a_stalled_connection_carries_nothing_until_it_flows_and_new_ones_work() -> None:
    far = Far()
    async with far.run() as proxy:
        stalled = await connect(proxy)
        assert await echoed(stalled, b"before\n") == b"before\n"
        proxy.stall()
        waiting = asyncio.ensure_future(echoed(stalled, b"during\n"))
        new = await connect(proxy)
        for _ in range(50):  # the new connection has a long talk, the stalled one hears nothing
            assert await echoed(new, b"new\n") == b"new\n"
        assert not waiting.done()
        proxy.flow()
        assert await waiting == b"during\n"
        assert await echoed(stalled, b"after\n") == b"after\n"


async def test_who_is_stalled_does_not_even_learn_that_the_other_side_has_gone() -> None:
    far = Far()
    async with far.run() as proxy:
        _, writer = stalled = await connect(proxy)
        assert await echoed(stalled, b"before\n") == b"before\n"
        proxy.stall()
        writer.transport.abort()
        new = await connect(proxy)
        for _ in range(50):
            assert await echoed(new, b"new\n") == b"new\n"
        assert far.open == 2
        proxy.flow()
        await eventually(lambda: far.open == 1)


async def test_a_delay_takes_as_long_in_each_direction_keeps_the_order_and_is_no_dam() -> None:
    far, loop = Far(), asyncio.get_running_loop()
    async with far.run() as proxy:
        reader, writer = ends = await connect(proxy)
        assert await echoed(ends, b"0\n") == b"0\n"
        proxy.delay = 0.2
        began = loop.time()
        sent, came, lines = list[float](), list[float](), list[bytes]()
        for number in range(20):
            sent.append(loop.time())
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0.01)
        for _ in range(20):
            lines.append(await reader.readline())
            came.append(loop.time())
        assert lines == [b"%d\n" % number for number in range(20)]
        assert all(arrival - start > 0.39 for start, arrival in zip(sent, came, strict=True))
        assert loop.time() - began < 20 * 0.2  # they were on the way together
        proxy.delay = 0.0
        assert await echoed(ends, b"fast\n") == b"fast\n"
