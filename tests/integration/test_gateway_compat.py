"""The predecessor's paths and statuses: there with `compat`, and only then."""

from dataclasses import replace

import httpx
import pytest

from eco2.gateway.compat import present_path
from eco2.pipeline import Pipeline
from tests.support.gateways import CONFIG, ECHO, SEQS, EchoInput, cluster, life

SCAN = Pipeline("scan", EchoInput, (), ECHO.result)


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_a_script_of_the_predecessor_gets_through(prefix: str) -> None:
    config = replace(CONFIG, compat=True)
    async with (
        cluster(config=config, pipelines=(SCAN, ECHO)) as world,
        httpx.AsyncClient(base_url=world.gateways[0].url) as http,
    ):
        answer = await http.post(
            f"{prefix}/scan", json={"text": "a"}, headers={"Origin": "https://app.example"}
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        job = answer.json()["job_id"]
        assert (await http.get(f"{prefix}/scan/result/{job}")).status_code == 202
        await world.worker.append(*life(job))
        await world.everywhere(job, SEQS[-1])
        assert (await http.get(f"{prefix}/scan/result/{job}")).status_code == 200
        stream = await http.get(f"{prefix}/stream", params={"job_id": job, "last_event_id": "0"})
        assert stream.text.count("\ndata: ") == len(SEQS)
        assert (await http.get("/health")).json() == {"status": "ok"}
        assert (await http.get("/ready")).json() == {"status": "ready"}
        assert (await http.post("/echo", json={"text": "a"})).status_code == 202
        assert (await http.post(f"{prefix}/scan", json={})).status_code == 422
        assert (await http.get(f"{prefix}/stream")).status_code == 404


async def test_without_the_setting_there_is_none_of_it() -> None:
    async with cluster(pipelines=(SCAN,)) as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        accepted = await http.post("/scan", json={"text": "a"})
        assert accepted.status_code == 202
        job = accepted.json()["job_id"]
        for path in ("/health", "/ready", f"/scan/result/{job}", f"/stream?job_id={job}"):
            assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/stream", b"job_id=a&last_event_id=3", "/scan/a/events"),
        ("/stream", b"job_id=", "/stream"),
        ("/stream", b"job_id=%ff", "/scan/\ufffd/events"),
        ("/api/v1/scan/result/a", b"", "/api/v1/scan/a/result"),
        ("/scan/result/a/b", b"", "/scan/result/a/b"),
        ("/api/v1/health", b"", "/api/v1/health"),
        ("/scan/a/result", b"", "/scan/a/result"),
    ],
)
def test_old_paths_and_present_ones(path: str, query: bytes, expected: str) -> None:
    assert present_path(path, query, "scan") == expected
