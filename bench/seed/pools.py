"""Installs and starts third-party pools that promise asyncio tasks for Celery, and gives each tasks to
run.

python -m bench.seed.pools
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import programs, record
from bench.programs import CELERY, ProgramFailed
from bench.seed.report import RESULTS
from tests.support.rabbitmq import Node

TASKS, SECONDS, PATIENCE = 20, 1.0, 40.0
PACKAGES = ("celery", "kombu")
BASELINE = "bench.seed.baseline"
FOLDER = CELERY.parent.parent.parent


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool. `option`: of the worker's `--pool`; `env`: the variables that its manual requires."""

    name: str
    option: str
    env: dict[str, str]


POOLS = (
    Pool("celery-pool-asyncio", "custom", {"CELERY_CUSTOM_WORKER_POOL": "celery_pool_asyncio:TaskPool"}),
    Pool("celery-aio-pool", "custom", {"CELERY_CUSTOM_WORKER_POOL": "celery_aio_pool.pool:AsyncIOPool"}),
)


def main() -> int:
    locked = _version(CELERY, "celery")
    found = {}
    for pool in POOLS:
        say(f"{pool.name}: installing it with celery {locked}")
        python = _installed(pool, locked)
        verdict = uvloop.run(_tried(pool, python))
        versions = ", ".join(f"{name} {_version(python, name)}" for name in (pool.name, *PACKAGES))
        found[pool.name] = {"name": pool.name, "versions": versions, "verdict": verdict}
        say(f"{versions}: {verdict}")
    results = record.read(RESULTS)
    record.write({"scenarios": {}, **results, "pools": found}, RESULTS)
    return 0


def _installed(pool: Pool, celery: str) -> Path:
    """Makes an environment with only the pool and Celery."""
    venv = FOLDER / f"pool-{pool.name}"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    python = venv / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"celery=={celery}", pool.name], check=True)
    return python


def _version(python: Path, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def _tried(pool: Pool, python: Path) -> str:
    """Describes the result in words."""
    folder = Path(tempfile.mkdtemp(prefix=f"eco2-{pool.name}-"))
    node = Node(folder / "rabbitmq")
    await asyncio.to_thread(node.start)
    env = {**pool.env, "BENCH_AMQP_URL": node.url, "BENCH_FOLDER": str(folder)}
    command = f"celery -A {BASELINE}.pool_app worker --pool {pool.option} -c {TASKS} -l info".split()
    worker = await programs.start("worker", command, folder, env, python)
    try:
        await _ready(worker)
        sender = await programs.start("sender", [f"{BASELINE}.pool_app"], folder, env, CELERY)
        began = time.monotonic()
        await sender.ended(PATIENCE)
        while len(ended := _ended(folder)) < TASKS and time.monotonic() < began + PATIENCE:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return _words(ended, began, worker)
    except ProgramFailed:
        return f"the worker does not start: {_last_line(worker)}"
    finally:
        await worker.kill()
        node.stop()
        node.remove_data()


async def _ready(worker: programs.Program) -> None:
    until = time.monotonic() + PATIENCE
    while " ready." not in worker.log.read_text(errors="replace"):
        if not worker.running or time.monotonic() > until:
            raise ProgramFailed("the worker is not ready")
        await asyncio.sleep(0.1)  # a log sets no event


def _ended(folder: Path) -> list[float]:
    return [float(path.read_text() or "nan") for path in folder.glob("ended-*")]


def _words(ended: list[float], began: float, worker: programs.Program) -> str:
    given = f"of {TASKS} tasks that wait {SECONDS:g} s, with room for {TASKS} at once,"
    if len(ended) == TASKS:
        seconds = max(ended) - began
        return f"all {given} had ended after {seconds:.1f} s ({TASKS * SECONDS / seconds:.1f} at a time)"
    return f"{len(ended)} {given} had ended after {PATIENCE:g} s; its last error: {_last_line(worker)}"


def _last_line(worker: programs.Program) -> str:
    """Returns the last line of the log that names an error."""
    lines = [line.strip() for line in worker.log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "Exception" in line]
    return f"`{(errors or lines or ['nothing was logged'])[-1][:160]}`"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
