"""Hostile batches: slow, endless and huge ones, wrong lines, and clients that read nothing or go away."""

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import replace

import httpx

from eco2.gateway.batch import MAX_LINES
from eco2.gateway.protocol import ConnectionLimits
from tests.abuse.test_http_connections import Pair, answer, connections, gateway, memory
from tests.integration.test_gateway_uploads import watching
from tests.support.gateways import CONFIG, Cluster, cluster, eventually

HEAD = b"POST /%s/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
SCAN = HEAD % b"scan"
ECHO = HEAD % b"echo"
LARGE = replace(CONFIG, max_upload=10_000_000)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = chunk(b"")


async def lines_of(pair: Pair) -> list[dict[str, object]]:
    """The answers of a batch to its end."""
    reader, _ = pair
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return [json.loads(line) for line in body.splitlines()]


async def refused(reader: asyncio.StreamReader) -> None:
    """Reads until the batch is ended."""
    tail = b""
    while not (b"_TOO_LARGE" in tail or b"OVER_CAPACITY" in tail):
        piece = await reader.read(65_536)
        assert piece
        tail = tail[-20:] + piece


async def accepted(world: Cluster) -> int:
    await world.gateways[0].journal.barrier()
    return len(world.gateways[0].journal.view.recent())


async def test_a_batch_that_trickles_is_ended_and_its_whole_lines_are_jobs() -> None:
    config = replace(CONFIG, upload_grace=0.3, upload_seconds=1.0)
    async with cluster(config=config) as world, connections(world.gateways[0].url, 2) as (early, late):
        early[1].write(ECHO + chunk(b'{"text": '))
        late[1].write(ECHO + chunk(b'{"text": "a"}\n{"text": "b"}\n{"text": '))
        async with asyncio.timeout(20):
            status, headers, body = await answer(early)
            assert (status, headers["connection"]) == (408, "close")
            assert json.loads(body)["code"] == "REQUEST_TIMEOUT"
            assert [line["http_status"] for line in await lines_of(late)] == [202, 202, 408]
        assert await accepted(world) == 2


async def test_only_the_time_that_the_client_takes_counts() -> None:
    """A batch takes as long as its jobs need at the broker."""
    config = replace(CONFIG, upload_grace=0.5, upload_seconds=0.5)
    async with cluster(config=config) as world, connections(world.gateways[0].url, 1) as [pair]:
        append = world.gateways[0].broker.append_order

        async def slow(body: bytes, message_id: str) -> None:
            await asyncio.sleep(0.3)
            await append(body, message_id)

        world.gateways[0].broker.append_order = slow  # type: ignore[method-assign]
        pair[1].write(ECHO + chunk(b'{"text": "a"}\n' * 300) + END)
        async with asyncio.timeout(60):
            assert [line["http_status"] for line in await lines_of(pair)] == [202] * 300


async def test_a_huge_line_is_refused_and_the_lines_before_it_are_jobs() -> None:
    async with cluster() as world, connections(world.gateways[0].url, 1) as [pair]:
        pair[1].write(ECHO + chunk(b'{"text": "a"}\n{"text": "') + chunk(b"x" * 190_000))
        pair[1].write(chunk(b"x" * 20_000) + chunk(b'"}\n{"text": "b"}\n') + END)
        async with asyncio.timeout(20):
            lines = await lines_of(pair)
        assert [line["http_status"] for line in lines] == [202, 413]
        assert await accepted(world) == 1


ENDLESS = [b"{}\n", b"\n", b"x"]


async def test_endless_batches_are_ended_and_take_neither_memory_nor_time() -> None:
    async with gateway(ECO2_IMAGE_URLS="on") as program, connections(program.url, len(ENDLESS)) as pairs:
        before = memory(program, "VmRSS")

        async def flood(writer: asyncio.StreamWriter, endless: bytes) -> None:
            piece = chunk(endless * (60_000 // len(endless)))
            with contextlib.suppress(ConnectionError):  # some time after it was refused
                while True:
                    writer.write(piece)
                    await writer.drain()

        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for _, writer in pairs:
                writer.write(SCAN)
            floods = [
                group.create_task(flood(writer, endless))
                for (_, writer), endless in zip(pairs, ENDLESS, strict=True)
            ]
            await asyncio.gather(*(refused(reader) for reader, _ in pairs))
            for task in floods:
                task.cancel()
        grown = memory(program, "VmHWM") - before
    assert grown < 100, grown  # MB


async def test_a_piece_of_blank_lines_stops_the_loop_for_milliseconds() -> None:
    async with cluster(config=LARGE) as world, connections(world.gateways[0].url, 1) as [pair]:
        with watching() as steps:
            pair[1].write(ECHO + chunk(b"\n" * 5_000_000) + chunk(b'{"text": "a"}') + END)
            async with asyncio.timeout(60):
                assert len(await lines_of(pair)) == 1
    assert max(steps) < 0.05


async def test_a_client_that_reads_nothing_before_it_has_sent_all_gets_all_answers() -> None:
    """As most HTTP libraries do it: neither side may wait for the other."""
    limits = ConnectionLimits(write=300.0)
    async with (
        cluster(config=LARGE, limits=limits) as world,
        connections(world.gateways[0].url, 1) as [pair],
    ):
        pair[1].transport.pause_reading()  # type: ignore[attr-defined]
        pair[1].write(ECHO + chunk(b'{"text": "a"}\n' * MAX_LINES) + END)
        await eventually(lambda: len(world.worker.orders) == MAX_LINES)
        pair[1].transport.resume_reading()  # type: ignore[attr-defined]
        assert [line["http_status"] for line in await lines_of(pair)] == [202] * MAX_LINES


async def test_a_client_that_goes_away_has_submitted_what_was_read_and_no_more() -> None:
    async with cluster() as world, connections(world.gateways[0].url, 1) as [(_, writer)]:
        writer.write(ECHO + chunk(b'{"text": "a"}\n' * 100 + b'{"text": "b"}'))
        await eventually(lambda: len(world.worker.orders) >= 50)
        writer.transport.abort()
        await eventually(lambda: len(world.worker.orders) == 100)
        assert await accepted(world) == 100
        assert {job.input["text"] for job in world.worker.orders} == {"a"}


async def test_ten_thousand_wrong_lines_stop_nobody() -> None:
    wrong = [b"{", b"[" * 300, b"{}", b'{"text": [1]}', b"\xff", b'"', b'{"text": "a", "model": "huge"}']
    body = b"".join(wrong[at % len(wrong)] + b"\n" for at in range(MAX_LINES))
    async with cluster(config=LARGE) as world, connections(world.gateways[0].url, 1) as [pair]:
        with watching() as steps:
            pair[1].write(ECHO + chunk(body) + END)
            async with asyncio.timeout(100):
                lines = await lines_of(pair)
        assert Counter(line["http_status"] for line in lines).keys() == {400, 422}
        assert len(lines) == MAX_LINES
        assert max(steps) < 0.1
        assert await accepted(world) == 0


async def test_batches_at_once_share_what_a_process_accepts_at_once() -> None:
    """Twenty batches leave the broker, and single submissions, their room."""
    async with (
        cluster(config=LARGE) as world,
        connections(world.gateways[0].url, 20) as pairs,
        httpx.AsyncClient(base_url=world.gateways[0].url, timeout=30) as http,
    ):
        at_once = most = 0
        append = world.gateways[0].broker.append_order

        async def counting(body: bytes, message_id: str) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await append(body, message_id)
            at_once -= 1

        world.gateways[0].broker.append_order = counting  # type: ignore[method-assign]
        for _, writer in pairs:
            writer.write(ECHO + chunk(b'{"text": "a"}\n' * 100) + END)
        reading = [asyncio.ensure_future(lines_of(pair)) for pair in pairs]
        assert (await http.post("/echo", json={"text": "alone"})).status_code == 202
        async with asyncio.timeout(100):
            found = [line["http_status"] for lines in await asyncio.gather(*reading) for line in lines]
        assert found == [202] * 2_000
        assert 10 < most <= 65
