"""Computes every sliding minute of arrivals exactly, as the provider's limits count them. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.budget.case import WINDOW


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that the provider counted. `time`: seconds, of the provider's clock."""

    time: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Amount:
    """Requests and tokens."""

    requests: int
    tokens: int


def fullest(arrivals: Sequence[Arrival]) -> Amount:
    """Returns the maximum of any minute, of each kind. `arrivals` are in order; a sum is largest just
    after an arrival."""
    requests = tokens = most_requests = most_tokens = oldest = 0
    for arrival in arrivals:
        requests, tokens = requests + 1, tokens + arrival.tokens
        while arrivals[oldest].time <= arrival.time - WINDOW:
            requests, tokens, oldest = requests - 1, tokens - arrivals[oldest].tokens, oldest + 1
        most_requests, most_tokens = max(most_requests, requests), max(most_tokens, tokens)
    return Amount(most_requests, most_tokens)


def total(arrivals: Sequence[Arrival], start: float, end: float) -> Amount:
    """Returns the arrivals in (start, end]."""
    inside = [arrival for arrival in arrivals if start < arrival.time <= end]
    return Amount(len(inside), sum(arrival.tokens for arrival in inside))


def per_second(arrivals: Sequence[Arrival], start: float, end: float) -> list[Amount]:
    """Returns the arrivals of each whole second from `start` on."""
    series = [[0, 0] for _ in range(int(end - start))]
    for arrival in arrivals:
        second = int(arrival.time - start)
        if 0 <= second < len(series):
            series[second][0] += 1
            series[second][1] += arrival.tokens
    return [Amount(requests, tokens) for requests, tokens in series]


def sliding(series: Sequence[Amount]) -> list[Amount]:
    """Returns, for each second, the minute that ends with it."""
    width = int(WINDOW)
    return [
        Amount(
            sum(amount.requests for amount in series[max(0, end - width) : end]),
            sum(amount.tokens for amount in series[max(0, end - width) : end]),
        )
        for end in range(1, len(series) + 1)
    ]
