"""Who is measured, with what command, and how long. Values only."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["eco2", "peer", "stores", "bare"]
"""`peer`: a task queue; `stores`: one that keeps results, too; `bare`: a loop without any queue's promises."""

PREFETCH = 100
SLOTS = 100
"""Sleeping jobs that a worker shall have at once."""
SLEEP = 0.4
"""Seconds of a sleeping job."""
SLEEPERS = 1000


@dataclass(frozen=True, slots=True)
class Contender:
    """`module`: makes a job with the library's own client; "": we do. `command`: of a worker, with `{slots}`.

    `jobs`: so many no-op ones take two to four seconds here. `idle`, `busy`: the slots for jobs that do nothing
    and for those that sleep; `processes`: of a worker that run jobs, in place of one. `env`: on top of where
    broker, queue and marks are.
    """

    name: str
    title: str
    role: Role
    jobs: int
    command: tuple[str, ...]
    module: str = ""
    idle: int = SLOTS
    busy: int = SLOTS
    forks: bool = False
    env: dict[str, str] = field(default_factory=dict)

    def slots(self, seconds: float) -> int:
        """Of one worker, for jobs that take so long."""
        return self.busy if seconds else self.idle

    def sleepers(self, workers: int) -> int:
        """So many waves of sleeping jobs as 1,000 jobs are on 100 slots, or all where that is the same."""
        return self.busy * workers * (SLEEPERS // SLOTS)


def _celery(pool: str) -> tuple[str, ...]:
    return (
        "celery", "-A", "bench.core.peers.celery_app", "worker", "-P", pool, "-c", "{slots}", "-n", "{node}",
        "--prefetch-multiplier", "{multiplier}", "-l", "WARNING", "--without-gossip", "--without-mingle",
        "--without-heartbeat",
    )  # fmt: skip


_CELERY = "bench.core.peers.celery_app"
_FASTSTREAM = "bench.core.peers.faststream_app"
_RUN_FASTSTREAM = ("faststream", "run", f"{_FASTSTREAM}:app")
_RESULTS = {"CORE_RESULTS": "1"}

CONTENDERS = (
    Contender(
        "eco2-consume",
        "eco2: deliver → handler → settle",
        "eco2",
        16_000,
        ("bench.core.engine.consumption",),
    ),
    Contender(
        "eco2",
        "eco2: all of it, `done` confirmed before the ack",
        "eco2",
        5_000,
        ("eco2", "worker"),
    ),
    Contender("aio-pika", "bare aio-pika loop", "bare", 20_000, ("bench.core.peers.aio_pika_loop",)),
    Contender("aiormq", "bare aiormq loop", "bare", 25_000, ("bench.core.peers.aiormq_loop",)),
    Contender(
        "taskiq",
        "taskiq + taskiq-aio-pika",
        "peer",
        9_000,
        (
            "taskiq", "worker", "bench.core.peers.taskiq_app:broker", "--workers", "1", "--max-async-tasks",
            "{slots}", "--ack-type", "when_executed", "--log-level", "WARNING", "--no-parse",
        ),
        "bench.core.peers.taskiq_app",
    ),  # fmt: skip
    Contender("faststream", "FastStream", "peer", 10_000, _RUN_FASTSTREAM, _FASTSTREAM),
    Contender(
        "dramatiq",
        "dramatiq",
        "peer",
        9_000,
        ("dramatiq", "bench.core.peers.dramatiq_app", "-p", "1", "-t", "{slots}", "--skip-logging"),
        "bench.core.peers.dramatiq_app",
        idle=8,
        env={"dramatiq_queue_prefetch": str(PREFETCH)},
    ),
    Contender(
        "celery-gevent", "Celery, gevent", "peer", 5_000, _celery("gevent"), _CELERY
    ),
    Contender(
        "celery-prefork", "Celery, prefork", "peer", 4_500, _celery("prefork"), _CELERY, idle=1, busy=24, forks=True
    ),
    Contender(
        "celery-results",
        "Celery, gevent, results by rpc://",
        "stores",
        3_000,
        _celery("gevent"),
        _CELERY,
        env=_RESULTS,
    ),
    Contender(
        "faststream-results",
        "FastStream, results published",
        "stores",
        5_000,
        _RUN_FASTSTREAM,
        _FASTSTREAM,
        env=_RESULTS,
    ),
)
