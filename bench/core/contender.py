"""The contenders as values: their commands and numbers of jobs."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["eco2", "peer", "stores", "bare"]
"""`peer`: a task queue; `stores`: one that keeps results, too; `bare`: a loop that promises nothing."""

CONSUMING, ENGINE, BARE = "eco2-consume", "eco2", "aio-pika"
PREFETCH = 100
SLOTS = 100
"""Jobs that a worker has at once."""
SLEEP = 0.4
"""Seconds of a job that sleeps."""
WAVES = 10
"""Jobs that sleep, per slot: 1,000 on 100 slots."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender. `command`: of a worker, with `{slots}`, `{multiplier}` (prefetch ÷ slots) and `{node}`
    (a name).

    `jobs`: the number of empty jobs that takes two to three seconds on two cores. `idle`, `busy`: slots for
    empty jobs and for jobs that sleep. `forks`: each slot is a process. `module`: makes one job with the
    contender's own client; "": there is none. `env`: variables in addition to the common ones.
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
        """Returns the slots of one worker, for jobs of this length."""
        return self.busy if seconds else self.idle

    @property
    def queue(self) -> str:
        return f"core.{self.name}"

    @property
    def results(self) -> str:
        """Returns the queue for results, or "" if the contender stores none."""
        return f"{self.queue}.results" if self.role == "stores" else ""

    def arguments(self, seconds: float, node: str) -> list[str]:
        """Returns the arguments of one worker's command."""
        slots = self.slots(seconds)
        words = {"slots": slots, "multiplier": max(1, PREFETCH // slots), "node": node}
        return [word.format(**words) for word in self.command]


_CELERY = "bench.core.peers.celery_app"
_TASKIQ = "bench.core.peers.taskiq_app"
_FASTSTREAM = "bench.core.peers.faststream_app"
_DRAMATIQ = "bench.core.peers.dramatiq_app"


def _celery(pool: str) -> tuple[str, ...]:
    return (
        *("celery", "-A", _CELERY, "worker", "-n", "{node}", "-P", pool, "-c", "{slots}"),
        *("--prefetch-multiplier", "{multiplier}", "-l", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    )


CONTENDERS = (
    Contender(
        CONSUMING, "eco2: deliver → handler → settle", "eco2", 20_000, ("bench.core.engine.consumption",)
    ),
    Contender(
        ENGINE,
        "eco2: all of it, `done` confirmed in the journal before the ack",
        "eco2",
        7_000,
        ("eco2", "worker"),
    ),
    Contender(BARE, "a bare aio-pika loop", "bare", 15_000, ("bench.core.peers.aio_pika_loop",)),
    Contender("aiormq", "a bare aiormq loop", "bare", 15_000, ("bench.core.peers.aiormq_loop",)),
    Contender(
        "taskiq",
        "taskiq, taskiq-aio-pika",
        "peer",
        8_000,
        (
            *("taskiq", "worker", f"{_TASKIQ}:broker", "--workers", "1", "--max-async-tasks", "{slots}"),
            *("--ack-type", "when_executed", "--no-parse", "--log-level", "WARNING"),
        ),
        _TASKIQ,
    ),
    Contender(
        "faststream", "FastStream", "peer", 9_000, ("faststream", "run", f"{_FASTSTREAM}:app"), _FASTSTREAM
    ),
    Contender(
        "dramatiq",
        "dramatiq, 8 threads",
        "peer",
        15_000,
        ("dramatiq", _DRAMATIQ, "-p", "1", "-t", "{slots}", "--skip-logging"),
        _DRAMATIQ,
        idle=8,
        env={"dramatiq_queue_prefetch": str(PREFETCH)},
    ),
    Contender("celery-gevent", "Celery, gevent", "peer", 4_500, _celery("gevent"), _CELERY),
    Contender(
        "celery-prefork", "Celery, prefork", "peer", 4_500, _celery("prefork"), _CELERY, 1, 24, forks=True
    ),
    Contender(
        "celery-results", "Celery, gevent, results by rpc://", "stores", 2_500, _celery("gevent"), _CELERY
    ),
    Contender(
        "faststream-results",
        "FastStream, results published, confirmed",
        "stores",
        4_500,
        ("faststream", "run", f"{_FASTSTREAM}:app"),
        _FASTSTREAM,
    ),
)
"""In the order of the first round; each later one begins one further."""
