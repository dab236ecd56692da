"""Reads and writes the JSON files in bench/results: figures, versions and machine."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import aio_pika

FOLDER = Path(__file__).parent / "results"
OURS = ("aio-pika", "aiormq", "openai", "httpx", "starlette", "uvicorn", "uvloop")

Results = dict[str, Any]


def read(path: Path) -> Results:
    """Returns the figures measured so far; an empty object if there are none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(results), ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    """Replaces nan by null, since JSON has no nan."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def surroundings(amqp_url: str, folder: str, peers: Mapping[str, str] | None = None) -> Results:
    """Returns the conditions that a reader needs to repeat a run. `folder`: of the benchmark; `peers`: the
    versions of the compared systems (`versions`). By the locks, eco2's own packages are the same in all
    environments."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--", "eco2", folder).splitlines()),
        "versions": {
            "python": platform.python_version(),
            "rabbitmq": await _rabbitmq(amqp_url),
            **{name: version(name) for name in OURS},
            **(peers or {}),
        },
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_1_5_15_min": os.getloadavg(),
        },
    }


def versions(python: Path, wanted: Iterable[str]) -> dict[str, str]:
    """Returns the versions of packages in the environment of this interpreter."""
    places = [str(path) for path in python.parent.parent.glob("lib/python*/site-packages")]
    found = {each.name.lower(): each.version for each in distributions(path=places)}
    return {name: found[name] for name in wanted}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=FOLDER.parent.parent
    )
    return done.stdout.strip()


async def _rabbitmq(amqp_url: str) -> str:
    async with await aio_pika.connect(amqp_url) as connection:
        properties = connection.transport.connection.server_properties if connection.transport else {}
        found: object = properties.get("version", "?")
        return found.decode() if isinstance(found, bytes) else str(found)
