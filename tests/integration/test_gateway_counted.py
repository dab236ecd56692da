"""What a gateway counts of requests and event streams, over real connections."""

import httpx

from tests.integration.test_gateway_stream import stream, submitted
from tests.support.gateways import SEQS, cluster, eventually, life
from tests.support.metric_value import metric_value


async def test_a_first_event_is_timed_and_one_who_comes_back_is_counted_as_such() -> None:
    async with cluster() as world:
        metrics = world.gateways[0].metrics
        job_id, url = await submitted(world)
        assert metric_value(metrics, 'eco2_jobs_accepted_total{pipeline="echo"}') == 1
        assert metric_value(metrics, 'eco2_submit_seconds_count{pipeline="echo"}') == 1
        assert metric_value(metrics, 'eco2_first_event_seconds_count{pipeline="echo"}') == 0
        async with stream(url) as received:
            queued = await received.until_name("queued")
        await world.worker.append(*life(job_id))
        await world.everywhere(job_id, 51)
        async with stream(url, queued.id) as received:
            assert await received.to_end() == SEQS[1:]
        await eventually(
            lambda: metric_value(metrics, 'eco2_first_event_seconds_count{pipeline="echo"}') == 1
        )
        assert metric_value(metrics, 'eco2_sse_resumed_total{pipeline="echo"}') == 1
        assert metric_value(metrics, 'eco2_sse_resumed_total{pipeline="photo"}') == 0


async def test_a_refused_request_is_counted_by_the_code_that_its_client_was_told() -> None:
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        metrics, codes = world.gateways[0].metrics, []
        for path, body in (
            ("/echo", b"{"),
            ("/echo", b"{}"),
            ("/echo", b"x" * 300_000),
            ("/photo", b"{}"),
            ("/echo", b'{"text": "x", "model": "huge"}'),
        ):
            response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
            codes.append((path[1:], response.json()["code"]))
        world.server.blocked = "memory alarm"
        response = await http.post("/echo", json={"text": "x"})
        codes.append(("echo", response.json()["code"]))
    assert len(set(codes)) == 5
    for pipeline, code in set(codes):
        series = f'eco2_requests_refused_total{{code="{code}",pipeline="{pipeline}"}}'
        assert metric_value(metrics, series) == codes.count((pipeline, code))
    assert metric_value(metrics, 'eco2_jobs_accepted_total{pipeline="echo"}') == 0
