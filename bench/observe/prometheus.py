"""Runs a Prometheus for the run: Debian's, on a free port of the loopback, with data in the run's folder."""

import asyncio
import json
import math
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support.rabbitmq import free_ports

PERIOD = 1.0
"""Seconds between two scrapes, and between two looks at the rules."""
START = 30.0


class PromtoolFailed(Exception):
    """promtool reported a problem; the message is its output."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus. The alerts expect the `jobs` of its configuration: `eco2-gateway`,
    `eco2-worker`."""

    http: httpx.AsyncClient

    async def span(self, expr: str, start: float, end: float) -> list[float]:
        """Returns every finite value of the query within the time, one per period and series. Unix
        seconds."""
        asked = {"query": expr, "start": start, "end": end, "step": PERIOD}
        result = await self._ask("/api/v1/query_range", **asked)
        values = [float(value) for series in result["result"] for _, value in series["values"]]
        return [value for value in values if math.isfinite(value)]

    async def now(self, expr: str) -> list[tuple[Mapping[str, str], float]]:
        """Returns labels and values at this moment."""
        result = await self._ask("/api/v1/query", query=expr)
        return [(each["metric"], float(each["value"][1])) for each in result["result"]]

    async def states(self) -> dict[str, str]:
        """Returns the state of each alert: inactive, pending or firing."""
        groups = (await self._ask("/api/v1/rules"))["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    async def targets_up(self) -> bool:
        active = (await self._ask("/api/v1/targets"))["activeTargets"]
        return bool(active) and all(target["health"] == "up" for target in active)

    async def _ask(self, path: str, **parameters: object) -> dict[str, list[dict]]:  # type: ignore[type-arg]
        answer = await self.http.get(path, params={key: str(value) for key, value in parameters.items()})
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        data: dict[str, list[dict]] = body["data"]  # type: ignore[type-arg]
        return data


@asynccontextmanager
async def running(folder: Path, jobs: Mapping[str, Sequence[str]], rules: str) -> AsyncIterator[Prometheus]:
    """Starts a Prometheus that scrapes these URLs by job, and waits until it answers."""
    _write(folder, jobs, rules)
    promtool("check", "config", str(folder / "prometheus.yaml"))
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
            prometheus = Prometheus(http)
            async with asyncio.timeout(START):
                while not await _up(prometheus):  # noqa: ASYNC110 - HTTP sets no event
                    await asyncio.sleep(0.2)
            yield prometheus
    finally:
        process.terminate()
        await process.wait()


def _write(folder: Path, jobs: Mapping[str, Sequence[str]], rules: str) -> None:
    folder.mkdir(parents=True)
    (folder / "alerts.yaml").write_text(rules)
    config = {
        "global": {"scrape_interval": f"{PERIOD:g}s", "evaluation_interval": f"{PERIOD:g}s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [urlsplit(url).netloc for url in urls]}]}
            for job, urls in jobs.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML


async def _up(prometheus: Prometheus) -> bool:
    try:
        return await prometheus.targets_up()
    except (httpx.HTTPError, ValueError):
        return False


def promtool(*arguments: str, given: bytes | None = None) -> None:
    """Runs promtool. Raises `PromtoolFailed` if it reports a problem. `given`: its standard input."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    if done.returncode != 0 or (given is not None and said.strip()):
        raise PromtoolFailed(f"promtool {' '.join(arguments)}: {said}")
