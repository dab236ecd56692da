"""Jobs of which the journal holds only the end: what is left is shown, and that something is missing."""

import time
from dataclasses import replace

import httpx
import msgspec

from eco2.job import new_id
from tests.integration.test_gateway_stream import stream
from tests.support.gateways import CONFIG, SEQS, STREAM, Cluster, cluster, life


async def test_of_a_job_whose_beginning_the_journal_dropped_the_rest_is_shown() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        job_id = await without_beginning(world)
        async with stream(f"{world.gateways[0].url}/echo/{job_id}/events") as received:
            assert await received.to_end() == SEQS[2:]
        first, *others = received.events
        assert (first.name, first.id, first.seq) == ("truncated", None, None)
        assert all(event.id for event in others)
        for event, seqs in zip(others, (SEQS[3:], SEQS[4:], SEQS[5:]), strict=False):
            async with stream(f"{world.gateways[0].url}/echo/{job_id}/events", event.id) as later:
                assert await later.to_end() == seqs
                assert later.events[0].name != "truncated"
        assert (await http.get(f"/echo/{job_id}/result")).json()["task_id"] == job_id


async def test_a_dropped_beginning_is_gone_where_it_must_say_whose_job_it_was() -> None:
    async with cluster(config=replace(CONFIG, auth="header")) as world:
        job_id = await without_beginning(world)
        async with httpx.AsyncClient(base_url=world.gateways[0].url) as http:
            for what in ("events", "result"):
                response = await http.get(f"/echo/{job_id}/{what}", headers={"X-User-ID": "ann"})
                assert (response.status_code, response.json()["code"]) == (410, "GONE")


async def without_beginning(world: Cluster) -> str:
    """A job of an hour ago; the journal holds nothing from before its first `completed`."""
    await world.worker.journal.barrier()
    log = world.server.logs[STREAM]
    log._drop(len(log))
    born = time.time() - 3600
    job_id = new_id(born)
    await world.worker.append(*(msgspec.structs.replace(event, ts=born + 20) for event in life(job_id)[2:]))
    return job_id
