"""Photos do not hold up the event loop, however large they are and however many come."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eco2.gateway.config import GatewayConfig
from eco2.stages import scan
from tests.support.gateways import Cluster, cluster
from tests.support.pictures import large_photo

ROOT = Path(__file__).parents[2]
RATE, SECONDS = 20, 5
"""Uploads a second, and for how long."""
LONGEST_LAG = 0.05
"""Seconds of CPU of one step of the loop."""


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of 12 megapixels and some MB."""
    path = tmp_path_factory.mktemp("photo") / "12mp.jpg"
    path.write_bytes(large_photo())
    assert path.stat().st_size > 2_000_000
    return path


@contextmanager
def watching() -> Iterator[list[float]]:
    """Seconds of CPU that each step of the event loop took; other programs of the machine do not count."""
    steps: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        steps.append(time.thread_time() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", timed)
        yield steps


async def longest_lag(world: Cluster, file: Path) -> float:
    """Seconds of CPU, under the uploads of another process. What is beyond the gateway's room is refused."""
    command = (sys.executable, "-m", "tests.support.uploads", f"{world.gateways[0].url}/scan", str(file))
    with watching() as lags:
        uploading = await asyncio.create_subprocess_exec(
            *command, str(RATE), str(SECONDS), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await uploading.communicate()
    statuses = json.loads(output)["statuses"]
    assert statuses.keys() <= {"202", "429"}
    assert statuses["202"] >= RATE / 2
    assert lags
    return max(lags)


@pytest.mark.alone
@pytest.mark.timeout(400)  # it counts CPU, and waits for as long as a busy machine takes
async def test_the_loop_is_never_late_by_50_ms_under_20_photos_a_second(photo_file: Path) -> None:
    async with cluster(pipelines=(scan,), config=GatewayConfig(models=("small",))) as world:
        world.worker.at_once = True
        assert await longest_lag(world, photo_file) < LONGEST_LAG


async def test_the_probe_would_see_work_on_the_loop() -> None:
    with watching() as lags:
        await asyncio.sleep(0)
        end = time.thread_time() + LONGEST_LAG
        while time.thread_time() < end:
            pass
        await asyncio.sleep(0)
    assert max(lags) >= LONGEST_LAG
