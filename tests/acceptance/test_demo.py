"""The first thing that anybody types: the demo, from the process's start to its exit."""

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from tests.acceptance.programs import clean_environment, eco2

STAGES = ["queued", "vision", "rule", "answer", "reward", "done"]


async def demo(home: Path) -> tuple[int | None, str, float]:
    """Returns its exit code, its output and its seconds of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "eco2",
        "demo",
        "--once",
        env={**clean_environment(), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.returncode, output.decode(), used


@pytest.mark.alone
async def test_the_demo_scans_a_real_photo_and_the_second_run_is_quick(tmp_path: Path) -> None:
    first_code, first, _ = await demo(tmp_path)
    assert first_code == 0, first
    shown = [line.split()[3] for line in first.splitlines() if " s  " in line]
    assert list(dict.fromkeys(shown)) == STAGES
    assert "도자기컵" in first  # what was seen: the bundled photo shows a cup
    assert "1. " in first  # how to dispose of it
    assert "local/efficientnet-lite0" in first
    code, _, seconds = await demo(tmp_path)
    assert code == 0
    assert seconds < 5.0  # 3.5 s where others keep the caches busy


async def test_serve_without_a_broker_says_that_jobs_end_with_the_process() -> None:
    async with eco2("serve", env={"ECO2_PORT": "0"}) as program:
        assert "jobs are lost when this process ends" in program.log()
