"""Draws the latency of a call: log-normal, and determined by (seed, job, kind) alone.

Two runs with the same seed give the same job the same latency, whatever else differs between them, so
that their results can be compared job by job. A retry of a call draws the same latency again.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist

from eco2.errors import ConfigurationError

Z99 = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """exp(N(mu, sigma²)) seconds."""

    mu: float
    sigma: float

    def at(self, quantile: float) -> float:
        """Returns the latency in seconds at the quantile (0 < q < 1)."""
        if self.sigma == 0:
            return math.exp(self.mu)
        return math.exp(self.mu + self.sigma * NormalDist().inv_cdf(quantile))


def from_mean_and_p99(mean: float, p99: float) -> LogNormal:
    """Returns the log-normal with this mean and 99th percentile, in seconds.

    ln p99 − ln mean = z·σ − σ²/2 has the smaller root σ = z − √(z² − 2 ln(p99/mean)). No log-normal has a
    p99 below its mean on that branch, nor one above e^(z²/2) ≈ 14.97 × its mean: those raise
    ConfigurationError.
    """
    if not 0 < mean <= p99:
        raise ConfigurationError(f"latency: mean {mean} and p99 {p99} s do not fit: give 0 < mean ≤ p99")
    root = Z99 * Z99 - 2 * math.log(p99 / mean)
    if root < 0:
        raise ConfigurationError(f"latency: p99 {p99} s is over 14.9 × the mean {mean} s: give a smaller p99")
    sigma = Z99 - math.sqrt(root)
    return LogNormal(mu=math.log(mean) - sigma * sigma / 2, sigma=sigma)


def seed_of(seed: int, job: str, purpose: str) -> int:
    """Returns 64 bits that depend only on the arguments."""
    digest = blake2b(f"{seed}\0{job}\0{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def uniform(seed: int, job: str, purpose: str) -> float:
    """Returns a number strictly between 0 and 1 that depends only on the arguments."""
    return ((seed_of(seed, job, purpose) >> 11) + 0.5) / 2**53


def due_times(total: float, first_fraction: float, pieces: int) -> tuple[float, ...]:
    """Returns the seconds after arrival at which each piece of a stream is due: the last at `total`.

    The first is due at `first_fraction` of it (the time to the first token), the rest evenly after.
    """
    if pieces == 1:
        return (total,)
    first = total * first_fraction
    step = (total - first) / (pieces - 1)
    return tuple(first + step * index for index in range(pieces))
