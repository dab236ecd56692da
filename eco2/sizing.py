"""How far a budget of requests and tokens goes, and what it takes to use all of it. Pure arithmetic.

The defaults of `ECO2_PREFETCH` and `ECO2_CONCURRENCY` are made here, and `eco2 size` shows the same figures
with their reasons (`docs/sizing.md`). All are monotonic: a greater budget never lowers one of them.
"""

import math
from dataclasses import dataclass
from typing import Literal

RPM, TPM = 500, 500_000
"""Requests and tokens a minute of OpenAI's first paid tier."""
CALLS = 2
"""Calls of a scan: `vision` and `answer`."""
TOKENS = 2000.0
"""Tokens of a scan, as `docs/prompts.md` counts them."""
LATENCY = 26.0
"""Seconds that the calls of a scan take: vision 12, answer 14 (measured at GPT-5.1 under load)."""

WORKER_CALLS = 110
"""Calls in flight that one worker was measured with. It may bear more; nobody has seen it."""
IDLE_MB, JOB_MB = 76.0, 0.4
"""Memory of an idle worker, and of each job that it holds: 120 MB were measured at 110."""
CPU_SECONDS = 0.025
"""Budget of a job; 0.011 were measured."""
CPU_SHARE = 0.7
"""Of its one core, that a worker may be busy with jobs: beyond, everyone waits for everyone."""
BETWEEN = 1.05
"""Jobs to calls in flight: between two calls a job waits for confirms, its fence and its turn."""
SIGMAS = 3.0
"""Room above the mean. What is in flight varies by chance, at most like a Poisson variable: by the root of
its mean. Of 110 that is 29 %, which also bears a provider that has become slower by a quarter."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a budget allows, and what it takes to use it.

    `by_requests`, `by_tokens`: jobs a minute that each limit allows. `calls_in_flight`, `jobs_in_flight`: the
    mean over all workers. `cores`: of all workers. `concurrency`, `prefetch`, `memory_mb`: of one worker.
    `needed`: workers that carry it. `replicas`: one more, so that one may fail or be replaced.
    """

    by_requests: float
    by_tokens: float
    calls_in_flight: float
    jobs_in_flight: float
    concurrency: int
    prefetch: int
    cores: float
    needed: int
    replicas: int
    memory_mb: int

    @property
    def binding(self) -> Literal["requests", "tokens"]:
        """The limit that is reached first."""
        return "requests" if self.by_requests <= self.by_tokens else "tokens"

    @property
    def jobs_per_minute(self) -> float:
        return min(self.by_requests, self.by_tokens)

    @property
    def jobs_per_second(self) -> float:
        return self.jobs_per_minute / 60


def size(
    rpm: float, tpm: float, latency: float = LATENCY, tokens: float = TOKENS, calls: int = CALLS
) -> Sizing:
    """For `rpm` requests and `tpm` tokens a minute, and jobs whose `calls` one after the other take `latency`
    seconds and `tokens` tokens, all together. All must be above 0."""
    by_requests, by_tokens = rpm / calls, tpm / tokens
    jobs_per_second = min(by_requests, by_tokens) / 60
    calls_in_flight = jobs_per_second * latency  # Little's law; a job has one call in flight
    jobs_in_flight = calls_in_flight * BETWEEN
    prefetch = _with_room(min(jobs_in_flight, WORKER_CALLS * BETWEEN))
    cores = jobs_per_second * CPU_SECONDS
    needed = max(math.ceil(calls_in_flight / WORKER_CALLS), math.ceil(cores / CPU_SHARE))
    return Sizing(
        by_requests=by_requests,
        by_tokens=by_tokens,
        calls_in_flight=calls_in_flight,
        jobs_in_flight=jobs_in_flight,
        concurrency=_with_room(min(calls_in_flight, WORKER_CALLS)),
        prefetch=prefetch,
        cores=cores,
        needed=needed,
        replicas=needed + 1,
        memory_mb=math.ceil(IDLE_MB + JOB_MB * prefetch),
    )


def _with_room(mean: float) -> int:
    """Slots for what is in flight at almost any moment."""
    return math.ceil(mean + SIGMAS * math.sqrt(mean))
