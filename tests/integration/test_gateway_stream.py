"""Event streams: replay, resume, live text, drain, slow and late clients."""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Literal

import httpx
import msgspec
import pytest

from eco2.event import Done, Queued, Released, RunStarted, StepCompleted
from eco2.eventstream import ClientEvent, EventLines
from eco2.gateway.protocol import ConnectionLimits
from eco2.job import new_id
from tests.support.gateways import CONFIG, PATIENCE, RESULT, SEQS, Cluster, cluster, eventually, life
from tests.support.metric_value import metric_value

Ending = Literal["completed", "failed", "cancelled"]


class Received:
    """An open stream as a test reads it: `raw` so far, and the events in it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.raw = b""
        self.events: list[ClientEvent] = []
        self._chunks = response.aiter_raw()
        self._lines = EventLines()

    async def until_name(self, name: str) -> ClientEvent:
        """Reads up to the first event with that name."""
        return await self._until(lambda: next((e for e in self.events if e.name == name), None))

    async def until_text(self, text: str) -> ClientEvent:
        """Reads until the live text so far is `text`."""
        return await self._until(lambda: self.events[-1] if self.text == text else None)

    async def until_raw(self, piece: bytes) -> None:
        await self._until(lambda: ClientEvent(name="") if piece in self.raw else None)

    async def to_end(self) -> list[int]:
        """Reads until the server closes; the durable events' numbers."""
        async with asyncio.timeout(PATIENCE):
            async for chunk in self._chunks:
                self._take(chunk)
        return self.seqs

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events if event.seq is not None]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if event.text is not None)

    def _take(self, chunk: bytes) -> None:
        self.raw += chunk
        self.events += self._lines.feed(chunk)

    async def _until(self, found: Callable[[], ClientEvent | None]) -> ClientEvent:
        async with asyncio.timeout(PATIENCE):
            while (event := found()) is None:
                self._take(await anext(self._chunks))
        return event


@asynccontextmanager
async def stream(url: str, last_event_id: str | None = None) -> AsyncIterator[Received]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as http,
        http.stream("GET", url, headers=headers) as response,
    ):
        yield Received(response)


async def submitted(world: Cluster) -> tuple[str, str]:
    """A fresh job's id and its stream's URL at the first gateway."""
    url = world.gateways[0].url
    async with httpx.AsyncClient() as http:
        answer = (await http.post(f"{url}/echo", json={"text": "a"})).json()
    return answer["job_id"], url + answer["stream_url"]


async def finished(world: Cluster) -> tuple[str, str]:
    """A job that has run to its end, shown everywhere."""
    job_id, url = await submitted(world)
    for event in life(job_id):
        await world.worker.append(event)
    await world.everywhere(job_id, SEQS[-1])
    return job_id, url


async def test_a_client_that_is_there_sees_every_event_as_it_comes() -> None:
    async with cluster() as world:
        job_id, url = await submitted(world)
        async with stream(url) as received:
            await received.until_name("queued")
            assert received.response.status_code == 200
            assert received.response.headers["content-type"] == "text/event-stream"
            assert received.response.headers["cache-control"] == "no-cache"
            assert received.response.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in received.response.headers
            assert received.raw.startswith(b": ")
            assert b"retry: 2000\n" in received.raw
            for event in life(job_id):
                await world.worker.append(event)
            assert await received.to_end() == SEQS
        done = received.events[-1]
        assert (done.name, done.status, done.progress) == ("done", "completed", 100)
        assert done.result == RESULT | {"task_id": job_id}
        assert received.events[2].result == {"seen": "can"}


async def test_a_late_client_gets_a_replay_of_everything() -> None:
    async with cluster() as world:
        _, url = await finished(world)
        async with stream(url) as received:
            assert await received.to_end() == SEQS


async def test_resuming_at_each_event_brings_exactly_the_later_ones_from_any_replica() -> None:
    async with cluster(2) as world:
        job_id, url = await finished(world)
        other = f"{world.gateways[1].url}/echo/{job_id}/events"
        async with stream(url) as received:
            await received.to_end()
        ids = [event.id for event in received.events]
        assert len(set(ids)) == len(SEQS)
        for index, last in enumerate(ids[:-1]):
            async with stream(other, last) as rest:
                assert await rest.to_end() == SEQS[index + 1 :]
            for name in ("last_event_id", "lastEventId"):
                async with stream(f"{other}?{name}={last}") as rest:
                    assert await rest.to_end() == SEQS[index + 1 :]
        async with stream(other, ids[-1]) as nothing:
            assert nothing.response.status_code == 204


async def test_the_header_is_newer_than_the_query_of_a_page_that_reconnects() -> None:
    async with cluster() as world:
        _, url = await finished(world)
        async with stream(url) as received:
            await received.to_end()
        ids = [event.id for event in received.events]
        async with stream(f"{url}?last_event_id={ids[0]}&lastEventId={ids[1]}", ids[3]) as rest:
            assert await rest.to_end() == SEQS[4:]
        async with stream(f"{url}?last_event_id={ids[0]}&lastEventId={ids[1]}&lastEventId={ids[2]}") as rest:
            assert await rest.to_end() == SEQS[3:]


@pytest.mark.parametrize("last_event_id", ["x", "-1", "1e3", "٣", "999999999999", "99999.3", "1.x"])
async def test_an_id_that_is_none_of_the_jobs_means_a_full_replay(last_event_id: str) -> None:
    async with cluster() as world:
        _, url = await finished(world)
        async with stream(f"{url}?last_event_id={last_event_id}") as received:
            assert await received.to_end() == SEQS


async def test_an_id_of_another_job_means_a_full_replay() -> None:
    async with cluster() as world:
        _, other = await finished(world)
        _, url = await finished(world)
        async with stream(other) as received:
            await received.to_end()
        async with stream(url, received.events[2].id) as rest:
            assert await rest.to_end() == SEQS


async def test_an_id_that_this_replica_has_not_seen_yet_is_waited_for() -> None:
    """Another replica showed the event; this one's tail lags. A full replay here would show events twice."""
    async with cluster() as world:
        job_id, url = await submitted(world)
        await world.everywhere(job_id, 0)
        view = world.gateways[0].journal.view
        with world.lagging():
            await world.worker.append(*life(job_id)[:3])
            shown_elsewhere = f"{world.server.logs['eco2.events'].after(view.offset + 1)[-1].offset}.2"
            assert [event.seq for event in view.get(job_id).visible_events] == [0]  # type: ignore[union-attr]
        async with stream(url, shown_elsewhere) as rest:
            await world.worker.append(*life(job_id)[3:])
            assert await rest.to_end() == SEQS[3:]


async def test_a_job_that_this_replica_has_not_seen_yet_is_waited_for() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        now = time.time()
        job_id = new_id(now)
        with world.lagging():
            await world.worker.append(
                Queued(ts=now, job=job_id, pipeline="echo", deadline=now + 9, digest=""), *life(job_id)
            )
            assert world.gateways[0].journal.view.get(job_id) is None
        assert (await http.get(f"/echo/{job_id}/result")).status_code == 200
        async with stream(f"{world.gateways[0].url}/echo/{job_id}/events") as received:
            assert await received.to_end() == SEQS


async def test_live_text_comes_between_started_and_completed_and_to_late_clients_at_once() -> None:
    async with cluster() as world:
        job_id, url = await submitted(world)
        events = life(job_id)
        await world.worker.append(*events[:4])
        await world.everywhere(job_id, 20)
        async with stream(url) as early:
            await early.until_name("answer")
            world.worker.text(job_id, "물로 ")
            await early.until_text("물로 ")
            world.worker.text(job_id, "헹구세요", pos=3)
            await early.until_text("물로 헹구세요")
            async with stream(url) as late:
                await late.until_text("물로 헹구세요")
                assert [event.name for event in late.events][-2:] == ["answer", "answer.delta"]
                await world.worker.append(*events[4:])
                assert await late.to_end() == SEQS
            assert await early.to_end() == SEQS
        assert all(event.id is None for event in early.events if event.name == "answer.delta")
        assert [event.name for event in early.events].count("answer.delta") == 2


async def test_a_stage_that_is_put_off_is_told_to_clients_of_every_gateway_also_late_ones() -> None:
    async with cluster(2) as world:
        job_id, url = await submitted(world)
        events, (one, other) = life(job_id), world.gateways
        await world.worker.append(*events[:4])
        async with stream(url) as early:
            await early.until_name("answer")
            since = time.time()
            await world.worker.append(
                Released(ts=since, job=job_id, run="r1", reason="", retry=True, stage="answer", delay=120)
            )
            told = await early.until_name("retrying")
            assert (told.id, told.seq, told.stage, told.attempt) == (None, None, "answer", 2)
            assert told.eta_seconds is not None
            assert 110 < told.eta_seconds <= 120
            last = next(event.id for event in reversed(early.events) if event.id)
            async with stream(url.replace(one.url, other.url), last) as late:
                assert (await late.until_name("retrying")).attempt == 2
                assert late.seqs == []
                async with httpx.AsyncClient() as http:
                    progress = await http.get(url.replace("/events", "/result"))
                assert progress.status_code == 202
                assert progress.json()["message"] == "answer failed for the moment, and is tried again"
                again = RunStarted(ts=since, job=job_id, run="r2", attempt=2, worker="w")
                rest = [msgspec.structs.replace(event, run="r2") for event in events[4:]]
                await world.worker.append(again, *rest)
                assert await late.to_end() == SEQS[-2:]
            assert await early.to_end() == SEQS
        assert [event.name for event in early.events].count("retrying") == 1


async def test_live_text_of_a_void_run_or_an_ended_stage_is_not_shown() -> None:
    async with cluster() as world:
        job_id, url = await submitted(world)
        events = life(job_id)
        await world.worker.append(*events[:4])
        await world.everywhere(job_id, 20)
        world.worker.text(job_id, "nobody's", run="r0")
        world.worker.text(job_id, "early", stage="vision")
        async with stream(url) as received:
            await received.until_name("answer")
            world.worker.text(job_id, "mine")
            await received.until_text("mine")
            await world.worker.append(*events[4:])
            await received.to_end()
        assert received.text == "mine"


@pytest.mark.parametrize("status", ["failed", "cancelled", "completed"])
async def test_the_existing_app_learns_of_a_failed_job_by_an_unnamed_message(status: Ending) -> None:
    """It fetches the result only when it is shown `completed`; nobody else is shown two ends."""
    async with cluster() as world:
        job_id, url = await submitted(world)
        await world.worker.append(*life(job_id)[:4], done(job_id, status))
        await world.everywhere(job_id, SEQS[-1])
        async with stream(url.replace("/echo/", "/api/v1/echo/")) as received:
            await received.to_end()
        ends = [event.name for event in received.events[-2:]]
        assert ends == (["answer", "done"] if status == "completed" else ["done", "message"])
        if status != "completed":
            assert (received.events[-1].status, received.events[-1].id) == ("completed", None)
        async with stream(url) as plain:
            assert (await plain.to_end())[-1] == SEQS[-1]
            assert plain.events[-1].name == "done"
        async with stream(url.replace("/echo/", "/api/v1/echo/"), plain.events[-1].id) as rest:
            assert rest.response.status_code == 204


async def test_the_unnamed_message_can_be_turned_off() -> None:
    async with cluster(config=replace(CONFIG, sse_done_message=False)) as world:
        job_id, url = await submitted(world)
        await world.worker.append(*life(job_id)[:4], done(job_id, "failed"))
        async with stream(url.replace("/echo/", "/api/v1/echo/")) as received:
            await received.to_end()
        assert received.events[-1].name == "done"


def done(job_id: str, status: Ending) -> Done:
    return Done(ts=6.0, job=job_id, run="r1", status=status, seq=SEQS[-1], result={"status": status})


async def test_unknown_foreign_and_lost_jobs() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        job_id, _ = await submitted(world)
        unknown = await http.get(f"/echo/{new_id(time.time())}/events")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
        assert (await http.get("/echo/nonsense/events")).status_code == 404
        assert (await http.get(f"/photo/{job_id}/events")).status_code == 404
        old = new_id(time.time() - 3600)  # before the journal began
        gone = await http.get(f"/echo/{old}/events")
        assert (gone.status_code, gone.json()["code"]) == (410, "GONE")
        assert (await http.get(f"/echo/{old}/result")).status_code == 410
        head = await http.head(f"/echo/{job_id}/events")
        assert (head.status_code, head.headers["cache-control"]) == (200, "no-cache")


async def test_an_ended_job_that_is_not_kept_is_replayed_from_the_journal() -> None:
    async with cluster() as world:
        job_id, url = await finished(world)
        view = world.gateways[0].journal.view
        view.ended.max_bytes = 0
        await finished(world)
        assert view.get(job_id) is None
        async with stream(url) as received:
            assert await received.to_end() == SEQS
        async with stream(url, received.events[1].id) as rest:
            assert await rest.to_end() == SEQS[2:]


async def test_an_idle_stream_is_kept_open_by_comments() -> None:
    async with cluster(config=replace(CONFIG, sse_comment=0.05)) as world:
        _, url = await submitted(world)
        async with stream(url) as received:
            await received.until_raw(b":\n:\n:\n")


async def test_an_idle_stream_is_kept_open_though_a_stage_saves_again_and_again() -> None:
    async with cluster(config=replace(CONFIG, sse_comment=0.2)) as world:
        job, url = await submitted(world)
        await world.worker.append(RunStarted(ts=time.time(), job=job, run="r", attempt=1, worker="w"))

        async def save() -> None:
            for number in count():
                await world.worker.append(
                    StepCompleted(ts=1.0, job=job, run="r", stage="s", key=str(number), value={})
                )
                await asyncio.sleep(0.05)

        async with stream(url) as received, asyncio.TaskGroup() as group:
            saving = group.create_task(save())
            await received.until_raw(b":\n:\n")
            saving.cancel()


async def test_a_stream_opens_while_the_broker_is_away_and_goes_on_when_it_is_back() -> None:
    async with cluster(config=replace(CONFIG, lookup_timeout=0.05, publish_timeout=0.1)) as world:
        now = time.time()
        job_id = new_id(now)
        with world.lagging():
            await world.worker.append(
                Queued(ts=now, job=job_id, pipeline="echo", deadline=now + 9, digest=""), *life(job_id)
            )
            world.server.block("alarm")
        async with (
            stream(f"{world.gateways[0].url}/echo/{job_id}/events") as received,
            stream(f"{world.gateways[0].url}/echo/{new_id(now)}/events") as unknown,
        ):
            assert (received.response.status_code, unknown.response.status_code) == (200, 200)
            await received.until_raw(b":\n")
            world.server.unblock()
            assert await received.to_end() == SEQS
            assert await unknown.to_end() == []


async def test_a_drain_ends_streams_that_still_wait_for_the_broker() -> None:
    async with cluster(config=replace(CONFIG, lookup_timeout=0.05, publish_timeout=0.1)) as world:
        world.server.block("alarm")
        async with stream(f"{world.gateways[0].url}/echo/{new_id(time.time())}/events") as received:
            await received.until_raw(b":\n")
            world.gateways[0].stop.set()
            await received.to_end()
            assert received.raw.endswith(b"retry: 2000\n")
            world.server.unblock()


async def test_a_drain_ends_every_stream_cleanly_and_the_other_replica_goes_on() -> None:
    async with cluster(2) as world:
        job_id, url = await submitted(world)
        events = life(job_id)
        await world.worker.append(*events[:3])
        await world.everywhere(job_id, 11)
        async with stream(url) as received:
            await received.until_name("queued")
            world.gateways[0].stop.set()
            assert await received.to_end() == SEQS[:3]  # no error: the chunked body was ended properly
            assert received.raw.endswith(b"retry: 2000\n")
        await world.worker.append(*events[3:])
        other = f"{world.gateways[1].url}/echo/{job_id}/events"
        async with stream(other, received.events[-1].id) as rest:
            assert await rest.to_end() == SEQS[3:]


async def test_a_client_that_reads_nothing_delays_no_other() -> None:
    async with cluster() as world:
        job_id, url = await submitted(world)
        async with stream(url), stream(url) as received:  # the first is opened and never read
            events = life(job_id)
            await world.worker.append(*events[:4])
            await world.everywhere(job_id, 20)
            for number in range(300):
                world.worker.text(job_id, "x" * 10_000, pos=number * 10_000)
            await received.until_text("x" * 3_000_000)
            await world.worker.append(*events[4:])
            assert await received.to_end() == SEQS


async def test_connections_are_counted_and_forgotten() -> None:
    async with cluster() as world:
        _, url = await submitted(world)
        metrics = world.gateways[0].metrics
        async with stream(url) as received:
            await received.until_name("queued")
            assert b'eco2_sse_connections{pipeline="echo"} 1.0' in metrics.render()
        await eventually(lambda: b'eco2_sse_connections{pipeline="echo"} 0.0' in metrics.render())


async def test_a_client_that_reads_nothing_loses_its_connection_and_can_resume() -> None:
    async with cluster(limits=ConnectionLimits(write=0.4)) as world:
        job_id, url = await submitted(world)
        await world.worker.append(*life(job_id)[:4])
        await world.everywhere(job_id, 20)
        idle = sockets()
        with socket.create_connection(
            ("127.0.0.1", int(world.gateways[0].url.rpartition(":")[2]))
        ) as stalled:
            stalled.sendall(f"GET /echo/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = b""
            while not re.search(rb"event: answer\ndata: .*\nid: .*\n\n", received):
                received += await asyncio.to_thread(stalled.recv, 65_536)
            assert sockets() == idle + 2
            for number in range(300):  # more than the kernel's buffers hold
                world.worker.text(job_id, "x" * 100_000, pos=number * 100_000)
                await asyncio.sleep(0)  # lets it be taken: more than some waiting pieces are dropped
            await eventually(lambda: sockets() == idle + 1)
        await eventually(
            lambda: metric_value(world.gateways[0].metrics, 'eco2_sse_cut_total{pipeline="echo"}') == 1
        )
        last = re.findall(rb"\nid: (\S+)\n\n", received)[-1].decode()
        await world.worker.append(*life(job_id)[4:])
        async with stream(url, last) as rest:
            assert await rest.to_end() == SEQS[4:]


def sockets() -> int:
    """How many sockets this process has open."""
    links = [os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(link) and os.readlink(link).startswith("socket:") for link in links)
