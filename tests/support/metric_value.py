"""What a process has counted, read as Prometheus reads it."""

from eco2.metrics import Metrics


def counted(metrics: Metrics, series: str) -> float | None:
    """The value of a series, labels in their order on the page; None if it is not shown."""
    lines = metrics.render().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series), None)
