"""bench/results/budget.json: what was measured, on what, with what. Written anew after each case."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aio_pika

from bench.budget.case import Case
from bench.budget.fleet import DEADLINE, SCALE, SEED, WORKERS

FOLDER = Path(__file__).parent.parent / "results"
RESULTS = FOLDER / "budget.json"

Results = dict[str, Any]


def read(path: Path = RESULTS) -> Results:
    """What was measured so far; nothing if there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"cases": {}}


def write(results: Results, path: Path = RESULTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(results), ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    """JSON has no nan: what could not be measured is null."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def surroundings(amqp_url: str) -> Results:
    """What a reader needs to repeat it."""
    packages = ("aio-pika", "aiormq", "openai", "httpx", "starlette", "uvicorn", "uvloop")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--", "eco2", "bench/budget").splitlines()),
        "versions": {
            "python": platform.python_version(),
            "rabbitmq": await _rabbitmq(amqp_url),
            **{package: version(package) for package in packages},
        },
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_1_5_15_min": os.getloadavg(),
        },
    }


def parameters(case: Case, seconds: float, warm: float) -> Mapping[str, object]:
    """Of one case."""
    return {
        **asdict(case),
        "binding": case.binding,
        "jobs_per_second": case.jobs_per_second,
        "load_seconds": seconds,
        "warm_seconds": warm,
        "workers": WORKERS,
        "latency_scale": SCALE,
        "seed": SEED,
        "job_deadline": DEADLINE,
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    return done.stdout.strip()


async def _rabbitmq(amqp_url: str) -> str:
    async with await aio_pika.connect(amqp_url) as connection:
        properties = connection.transport.connection.server_properties if connection.transport else {}
        found: object = properties.get("version", "?")
        return found.decode() if isinstance(found, bytes) else str(found)
