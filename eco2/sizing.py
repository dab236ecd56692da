"""Sizes workers and gateways for a budget of requests and tokens a minute. Pure arithmetic.

The defaults of `ECO2_PREFETCH` and `ECO2_CONCURRENCY` are computed here; `eco2 size` shows the same figures
with their reasons (`docs/sizing.md`). All are monotonic: a greater budget never lowers one of them.
"""

import math
from dataclasses import dataclass
from typing import Literal

RPM, TPM = 500, 500_000
"""Requests and tokens a minute of OpenAI's first paid tier."""

WORKER_CALLS = 110
"""The most calls in flight that one worker was measured with. More may work."""
WORKER_MB, JOB_MB = 80.0, 0.4
"""Memory of an idle worker, and of each job that it holds."""
GATEWAY_MB = 110.0
"""Memory of a gateway with a hundred open event streams, and all ended jobs that it keeps: 50 MB."""
VIEW_MINUTES = 15.0
"""How long an idempotency key counts (`ECO2_VIEW_MINUTES`)."""
CPU_SECONDS = 0.045
"""Of a worker, for a job: 0.036 to 0.042 were measured at four jobs a second (`docs/benchmarks.md`)."""
CPU_SHARE = 0.7
"""The part of its one core that jobs of a worker may use: above it, jobs delay each other."""
BETWEEN = 1.05
"""Jobs per call in flight: between two calls a job waits for confirms, its fence and its grant."""
SIGMAS = 3.0
"""Room above the mean, in standard deviations. The number in flight varies at most like a Poisson variable:
by the root of its mean. Of 110 that is 29 %, enough also for a provider that is a quarter slower."""


@dataclass(frozen=True, slots=True)
class JobSize:
    """The load of one job: its `calls`, one after the other, and their `tokens` and `latency` (s) in all."""

    calls: int
    tokens: float
    latency: float


@dataclass(frozen=True, slots=True)
class Sizing:
    """The jobs that a budget allows, and the processes that use all of it.

    `by_requests`, `by_tokens`: jobs a minute that each limit allows. `calls_in_flight`, `jobs_in_flight`: the
    mean over all workers. `cores`: of all workers. `concurrency`, `prefetch`, `worker_mb`: of one worker.
    `needed`: workers that carry it. `replicas`: one more, so that one may fail or be replaced. `gateway_mb`:
    of one gateway.
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
    worker_mb: int
    gateway_mb: int

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


def size(rpm: float, tpm: float, job: JobSize) -> Sizing:
    """Sizes processes for `rpm` requests and `tpm` tokens a minute. All arguments must be above 0."""
    by_requests, by_tokens = rpm / job.calls, tpm / job.tokens
    jobs_per_second = min(by_requests, by_tokens) / 60
    calls_in_flight = jobs_per_second * job.latency  # Little's law; a job has one call in flight
    jobs_in_flight = calls_in_flight * BETWEEN
    prefetch = with_room(min(jobs_in_flight, WORKER_CALLS * BETWEEN))
    cores = jobs_per_second * CPU_SECONDS
    needed = max(math.ceil(calls_in_flight / WORKER_CALLS), math.ceil(cores / CPU_SHARE))
    return Sizing(
        by_requests=by_requests,
        by_tokens=by_tokens,
        calls_in_flight=calls_in_flight,
        jobs_in_flight=jobs_in_flight,
        concurrency=with_room(min(calls_in_flight, WORKER_CALLS)),
        prefetch=prefetch,
        cores=cores,
        needed=needed,
        replicas=needed + 1,
        worker_mb=math.ceil(WORKER_MB + JOB_MB * prefetch),
        gateway_mb=math.ceil(GATEWAY_MB),
    )


def with_room(mean: float) -> int:
    """Returns the slots that suffice at almost any moment when `mean` are in use on average."""
    return math.ceil(mean + SIGMAS * math.sqrt(mean))
