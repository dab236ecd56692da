"""Pieces of PromQL that panels share. Selectors carry the dashboard's variables.

A rate of a sum of counters is a sum of rates; a quantile is one of summed buckets.
"""

import re
from collections.abc import Callable

RANGE = "[$__rate_interval]"
_HERE = "namespace=~$namespace"
_LABEL = re.compile(r"(\w+)(=~|!=|=)(.*)")
"""A label, how it is compared, and with what; quotes are put around the last."""


def here(series: str, labels: str = "") -> str:
    """Returns the series of the chosen namespace. `labels`: one more, such as `status!=completed`, without
    quotes."""
    return _select(series, _HERE, labels)


def jobs(series: str, labels: str = "") -> str:
    """Returns the series of the chosen pipelines."""
    return _select(series, _HERE, "pipeline=~$pipeline", labels)


def calls(series: str, labels: str = "") -> str:
    """Returns the series of the chosen providers."""
    return _select(series, _HERE, "provider=~$provider", labels)


def whole(series: str, by: str = "pipeline") -> str:
    """Returns the maximum of a series that every process shows for the whole installation: a sum would
    count replicas twice."""
    return f"max by ({by}) ({series})"


def rate(series: str, by: str = "") -> str:
    """Returns the rate per second, summed over processes."""
    return _summed(f"rate({series}{RANGE})", by)


def mean(select: Callable[[str, str], str], histogram: str, by: str = "", labels: str = "") -> str:
    """Returns the mean of a histogram over all processes. `select`: `here`, `jobs` or `calls`."""
    total, count = (rate(select(f"{histogram}_{part}", labels), by) for part in ("sum", "count"))
    return f"{total} / {count}"


def quantile(share: float, buckets: str, by: str = "") -> str:
    """Returns a quantile of a histogram, over all processes. `buckets`: the selector of its `_bucket`."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {_summed(f'rate({buckets}{RANGE})', labels)})"


def _summed(expr: str, by: str) -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def _select(series: str, *labels: str) -> str:
    wanted = [_LABEL.sub(r'\1\2"\3"', label) for label in labels if label]
    return f"{series}{{{','.join(wanted)}}}"
