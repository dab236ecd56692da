"""Metrics for Prometheus. The only home of `prometheus_client`.

`series.toml` is the table of all series: docs/metrics.md is generated from it, and no other series is shown.
`metrics.py` counts events, `collectors.py` reads sources at each scrape, `loop.py` watches the event loop.
"""

from eco2.metrics.metrics import GrantOutcome, Metrics, Opening

__all__ = ["GrantOutcome", "Metrics", "Opening"]
