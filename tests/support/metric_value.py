"""Reads a metric of a process as Prometheus does."""

from eco2.metrics import Metrics


def metric_value(metrics: Metrics, series: str) -> float | None:
    """Returns the value of a series, labels in their order on the page; None if it is not shown."""
    lines = metrics.render().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series), None)
